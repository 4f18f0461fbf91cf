import Files

/// Description and location of a tensor in a file.
package struct TensorEntry: Sendable, Equatable {
  /// Name; keys of nested containers are joined by dots.
  package let name: String
  /// Element type in the file.
  package let dtype: DType
  /// Shape; empty for a scalar.
  package let shape: [Int]
  /// Strides in elements of the storage; 0 for broadcast axes.
  package let strides: [Int]
  /// Whether the elements are big-endian.
  package let isBigEndian: Bool
  /// Index of the storage in the file.
  let storage: Int
  /// Byte offset in the storage.
  let offset: Int

  init(
    name: String, dtype: DType, shape: [Int], strides: [Int]? = nil, isBigEndian: Bool = false,
    storage: Int, offset: Int
  ) {
    self.name = name
    self.dtype = dtype
    self.shape = shape
    self.strides = strides ?? Self.contiguousStrides(shape)
    self.isBigEndian = isBigEndian
    self.storage = storage
    self.offset = offset
  }

  /// Describes a contiguous tensor that no storage of a file holds, such as a computed one.
  package init(virtual name: String, dtype: DType, shape: [Int]) {
    self.init(name: name, dtype: dtype, shape: shape, storage: 0, offset: 0)
  }

  /// Returns the entry with another name.
  func renamed(_ name: String) -> TensorEntry {
    TensorEntry(
      name: name, dtype: dtype, shape: shape, strides: strides, isBigEndian: isBigEndian,
      storage: storage, offset: offset)
  }

  /// Number of elements.
  package var count: Int { shape.reduce(1, *) }
  /// Size of the elements in bytes, counting repeated elements.
  package var byteCount: Int { count * dtype.size }
  /// Whether the elements are contiguous in row-major order.
  package var isContiguous: Bool {
    count == 0
      || zip(shape.indices, Self.contiguousStrides(shape)).allSatisfy { axis, stride in
        shape[axis] == 1 || strides[axis] == stride
      }
  }

  /// Number of bytes from the first element to the end of the last one.
  var span: Int {
    if count == 0 { return 0 }
    return (1 + zip(shape, strides).reduce(0) { $0 + ($1.0 - 1) * $1.1 }) * dtype.size
  }

  /// Row-major strides of a shape; wraps on overflow, because such shapes are refused later.
  static func contiguousStrides(_ shape: [Int]) -> [Int] {
    var strides = [Int](repeating: 1, count: shape.count)
    for axis in shape.indices.dropLast().reversed() {
      strides[axis] = strides[axis + 1] &* shape[axis + 1]
    }
    return strides
  }
}

/// Validated file of named tensors of any format, opened by `Checkpoint.open`.
///
/// Opening maps the file and checks its description; elements are read on demand as row-major
/// arrays, independent of strides, byte order and dtype in the file. The file must not be truncated
/// by others while it is open.
package protocol TensorFile: AnyObject, Sendable {
  /// The path it was opened from.
  var path: String { get }
  /// Name of the format.
  var format: String { get }
  /// The files that hold the tensors; more than one for a sharded model.
  var files: [String] { get }
  /// String metadata, if the format supports it.
  var metadata: [String: String] { get }
  /// Entries other than tensors by dotted name, if the format supports them.
  var values: [String: PlainValue] { get }
  /// Tensor names in file order.
  var names: [String] { get }

  /// The tensor called `name`, or `nil`.
  func entry(_ name: String) -> TensorEntry?

  /// Whether the bytes of an entry are uncompressed in the mapping, so that `withBytes` returns the
  /// same address for the lifetime of this object.
  func isMapped(_ entry: TensorEntry) -> Bool

  /// Calls `body` with the bytes from the first to the last element of an entry.
  ///
  /// - Throws: `FileError` when the bytes fail their checksum or cannot be decompressed.
  func withBytes<Result>(
    of entry: TensorEntry, _ body: (UnsafeRawBufferPointer) -> Result
  ) throws(FileError) -> Result
}

/// Entry of a checkpoint other than a tensor, such as a learning rate.
package enum PlainValue: Sendable, Equatable {
  case none
  case truth(Bool)
  case integer(Int)
  case number(Double)
  case text(String)
  /// An object of the named class, without content.
  case object(String)
}

extension TensorFile {
  /// Throws for weights of an integer type, which a quantisation wrote and whose scales are elsewhere.
  package func requireFloats(_ entry: TensorEntry) throws(FileError) {
    guard entry.dtype.isInteger else { return }
    throw FileError(
      "\(path): tensor '\(entry.name)' has type \(entry.dtype.rawValue), expected floating-point numbers; weights of"
        + " integers are quantised, save the model without quantisation (dequantize)")
  }

  /// No entries other than tensors.
  package var values: [String: PlainValue] { [:] }
  /// No metadata.
  package var metadata: [String: String] { [:] }
  /// The file itself.
  package var files: [String] { [path] }
  /// True except for compressed files.
  package func isMapped(_ entry: TensorEntry) -> Bool { true }

  /// Returns the tensor called `name`.
  ///
  /// - Throws: `FileError` if it is missing.
  package func existing(_ name: String) throws(FileError) -> TensorEntry {
    if let entry = entry(name) { return entry }
    throw FileError(
      "\(path): has no tensor \"\(name)\" among its \(names.count);"
        + " check that this is the right file")
  }

  /// Reads the elements of a tensor of any dtype as float32, row-major.
  ///
  /// - Throws: `FileError` when there is no such tensor or its bytes are damaged.
  package func floats(_ name: String) throws(FileError) -> [Float] {
    let entry = try existing(name)
    return try withElements(of: entry) { bytes in
      [Float](unsafeUninitializedCapacity: entry.count) { buffer, filled in
        ElementDecoding.floats(bytes, entry.dtype, into: buffer)
        filled = entry.count
      }
    }
  }

  /// Reads the elements of a tensor into `buffer` as float32, row-major.
  ///
  /// Releases mapped pages that hold only this tensor, so that loading a checkpoint does not keep
  /// the file in memory too; later accesses read them again.
  ///
  /// - Precondition: The buffer has as many elements as the tensor.
  /// - Throws: `FileError` when there is no such tensor or its bytes are damaged.
  package func readFloats(
    _ name: String, into buffer: UnsafeMutableBufferPointer<Float>
  ) throws(FileError) {
    let entry = try existing(name)
    precondition(buffer.count == entry.count, "\(name): \(buffer.count) for \(entry.shape)")
    try withElements(of: entry, releasing: true) {
      ElementDecoding.floats($0, entry.dtype, into: buffer)
    }
  }

  /// Reads some rows of a tensor, by the first axis, into `buffer` as float32.
  ///
  /// - Precondition: The rows exist, and the buffer has as many elements as they have together.
  /// - Throws: `FileError` when there is no such tensor or its bytes are damaged.
  package func readFloats(
    _ name: String, rows: [Int], into buffer: UnsafeMutableBufferPointer<Float>
  ) throws(FileError) {
    let entry = try existing(name)
    let width = entry.shape.dropFirst().reduce(1, *)
    precondition(
      buffer.count == rows.count * width, "\(name): \(buffer.count) for \(rows.count) rows")
    let size = width * entry.dtype.size
    try withElements(of: entry) { bytes in
      for (place, row) in rows.enumerated() {
        ElementDecoding.floats(
          UnsafeRawBufferPointer(rebasing: bytes[(row * size)..<((row + 1) * size)]), entry.dtype,
          into: .init(rebasing: buffer[(place * width)..<((place + 1) * width)]))
      }
    }
  }

  /// Reads the elements of a tensor of any dtype as float64, row-major.
  ///
  /// - Throws: `FileError` when there is no such tensor or its bytes are damaged.
  package func doubles(_ name: String) throws(FileError) -> [Double] {
    let entry = try existing(name)
    return try withElements(of: entry) { ElementDecoding.doubles($0, entry.dtype) }
  }

  /// Reads the elements of an integer or Boolean tensor, row-major.
  ///
  /// - Throws: `FileError` if the tensor is missing or has another dtype.
  package func integers(_ name: String) throws(FileError) -> [Int] {
    let entry = try existing(name)
    guard
      let values = try withElements(of: entry, { ElementDecoding.integers($0, entry.dtype) })
    else {
      throw FileError(
        "\(path): tensor \"\(name)\" is \(entry.dtype.rawValue), expected integers that fit 64 bits;"
          + " check that this is the right file")
    }
    return values
  }

  /// Calls `body` with the elements of an entry in row-major order, little-endian.
  private func withElements<Result>(
    of entry: TensorEntry, releasing: Bool = false, _ body: (UnsafeRawBufferPointer) -> Result
  ) throws(FileError) -> Result {
    let result = try withBytes(of: entry) { bytes in
      defer { if releasing, isMapped(entry) { MappedFile.release(bytes) } }
      if entry.isContiguous, !entry.isBigEndian || entry.dtype.size == 1 { return body(bytes) }
      return ElementDecoding.packed(bytes, entry).withUnsafeBytes(body)
    }
    try MappedFile.requireIntact()
    return result
  }
}
