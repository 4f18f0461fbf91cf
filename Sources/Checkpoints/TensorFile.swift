import Files

/// One tensor of a file: what it is, and where its elements lie.
package struct TensorEntry: Sendable, Equatable {
  /// Its name; entries of nested containers are joined by dots.
  package let name: String
  /// Its element type in the file.
  package let dtype: DType
  /// Its extents; empty for a scalar.
  package let shape: [Int]
  /// Distances between neighbours along each axis, in elements of its storage; 0 repeats one.
  package let strides: [Int]
  /// Whether its elements have their most significant byte first.
  package let isBigEndian: Bool
  /// Number of the storage inside the file.
  let storage: Int
  /// First byte inside the storage.
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

  /// The same tensor under another name.
  func renamed(_ name: String) -> TensorEntry {
    TensorEntry(
      name: name, dtype: dtype, shape: shape, strides: strides, isBigEndian: isBigEndian,
      storage: storage, offset: offset)
  }

  /// Number of elements.
  package var count: Int { shape.reduce(1, *) }
  /// Bytes of the elements, each counted once per appearance.
  package var byteCount: Int { count * dtype.size }
  /// Whether the elements follow each other in row-major order.
  package var isContiguous: Bool {
    count == 0
      || zip(shape.indices, Self.contiguousStrides(shape)).allSatisfy { axis, stride in
        shape[axis] == 1 || strides[axis] == stride
      }
  }

  /// Bytes from the first element to the end of the last one.
  var span: Int {
    if count == 0 { return 0 }
    return (1 + zip(shape, strides).reduce(0) { $0 + ($1.0 - 1) * $1.1 }) * dtype.size
  }

  /// Row-major strides of a shape; overflow cannot matter, because such shapes are never accepted.
  static func contiguousStrides(_ shape: [Int]) -> [Int] {
    var strides = [Int](repeating: 1, count: shape.count)
    for axis in shape.indices.dropLast().reversed() {
      strides[axis] = strides[axis + 1] &* shape[axis + 1]
    }
    return strides
  }
}

/// A checked file of named tensors, whatever its format; `Checkpoint.open` makes one.
///
/// Opening maps the file and checks its description; elements are read when they are asked for, as
/// row-major arrays whatever the strides, byte order and dtype in the file. The file must not be
/// truncated by others while it is open.
package protocol TensorFile: AnyObject, Sendable {
  /// The path it was opened from.
  var path: String { get }
  /// The format in words, for people.
  var format: String { get }
  /// The files that hold the tensors; more than one for a sharded model.
  var files: [String] { get }
  /// The string metadata, where the format has it.
  var metadata: [String: String] { get }
  /// Entries that are no tensors, by their dotted names, where the format has them.
  var values: [String: PlainValue] { get }
  /// The tensor names in the file's order.
  var names: [String] { get }

  /// The tensor called `name`, or `nil`.
  func entry(_ name: String) -> TensorEntry?

  /// Whether an entry's bytes lie in the mapped file as they are, so that `withBytes` gives the same
  /// address for as long as this object lives.
  func isMapped(_ entry: TensorEntry) -> Bool

  /// Calls `body` with the bytes from the first to the last element of one of the file's entries.
  ///
  /// - Throws: `FileError` when the bytes fail their checksum or cannot be decompressed.
  func withBytes<Result>(
    of entry: TensorEntry, _ body: (UnsafeRawBufferPointer) -> Result
  ) throws(FileError) -> Result
}

/// An entry of a checkpoint that is no tensor, such as a learning rate.
package enum PlainValue: Sendable, Equatable {
  case none
  case truth(Bool)
  case integer(Int)
  case number(Double)
  case text(String)
  /// An object of the named class, of which nothing else is known.
  case object(String)
}

extension TensorFile {
  /// No values beside the tensors.
  package var values: [String: PlainValue] { [:] }
  /// No metadata.
  package var metadata: [String: String] { [:] }
  /// The file itself.
  package var files: [String] { [path] }
  /// True, but for compressed files.
  package func isMapped(_ entry: TensorEntry) -> Bool { true }

  /// The tensor called `name`.
  ///
  /// - Throws: `FileError` when there is none.
  package func existing(_ name: String) throws(FileError) -> TensorEntry {
    if let entry = entry(name) { return entry }
    throw FileError(
      "\(path): has no tensor \"\(name)\" among its \(names.count);"
        + " check that this is the right file")
  }

  /// A tensor's elements as float32, whatever its dtype; row-major.
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

  /// Puts a tensor's elements as float32 into `buffer`, row-major.
  ///
  /// The mapped pages that hold nothing else are given back, so that a copy of a whole checkpoint does
  /// not keep the file in memory too; they are read again when they are asked for again.
  ///
  /// - Precondition: The buffer has room for exactly the tensor's elements.
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

  /// A tensor's elements as float64, whatever its dtype; row-major.
  ///
  /// - Throws: `FileError` when there is no such tensor or its bytes are damaged.
  package func doubles(_ name: String) throws(FileError) -> [Double] {
    let entry = try existing(name)
    return try withElements(of: entry) { ElementDecoding.doubles($0, entry.dtype) }
  }

  /// The elements of an integer or truth-value tensor; row-major.
  ///
  /// - Throws: `FileError` when there is no such tensor or it holds no such numbers.
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

  /// Calls `body` with an entry's elements in row-major order, little-endian.
  private func withElements<Result>(
    of entry: TensorEntry, releasing: Bool = false, _ body: (UnsafeRawBufferPointer) -> Result
  ) throws(FileError) -> Result {
    try withBytes(of: entry) { bytes in
      defer { if releasing, isMapped(entry) { MappedFile.release(bytes) } }
      if entry.isContiguous, !entry.isBigEndian || entry.dtype.size == 1 { return body(bytes) }
      return ElementDecoding.packed(bytes, entry).withUnsafeBytes(body)
    }
  }
}
