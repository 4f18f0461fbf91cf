import Files

/// Float tensor to be written, whose elements may be loaded lazily.
package struct TensorItem {
  /// The name in the file.
  package var name: String
  /// The extents, row-major; empty for a scalar.
  package var shape: [Int]
  /// Element type in the file: F32, F16 or BF16.
  package var dtype: DType
  private let load: () throws(FileError) -> [Float]

  /// Makes an item from elements in memory.
  package init(name: String, shape: [Int], dtype: DType = .f32, floats: [Float]) {
    precondition(
      shape.reduce(1, *) == floats.count,
      "\(name): shape \(shape) with \(floats.count) elements")
    self.init(name: name, shape: shape, dtype: dtype) { floats }
  }

  /// Makes an item whose elements are loaded when it is written.
  package init(
    name: String, shape: [Int], dtype: DType = .f32,
    load: @escaping () throws(FileError) -> [Float]
  ) {
    self.name = name
    self.shape = shape
    self.dtype = dtype
    self.load = load
  }

  /// Number of elements.
  var count: Int { shape.reduce(1, *) }
  /// Size in the file in bytes.
  var byteCount: Int { count * dtype.size }

  /// Checks the preconditions of all formats.
  static func check(_ items: [TensorItem]) {
    precondition(Set(items.map(\.name)).count == items.count, "duplicate tensor name")
    for item in items {
      precondition(item.name != "__metadata__", "a tensor cannot be called __metadata__")
      precondition(
        [.f32, .f16, .bf16].contains(item.dtype), "\(item.name): cannot store \(item.dtype)")
    }
  }

  /// Passes the elements to `sink` in chunks, converted to the type of the item, little-endian.
  func write(
    to sink: (UnsafeRawBufferPointer) throws(FileError) -> Void
  ) throws(FileError) {
    let floats = try load()
    precondition(floats.count == count, "\(name): shape \(shape) with \(floats.count) elements")
    switch dtype {
    case .f16: try writeHalves(floats, to: sink) { Float16($0).bitPattern }
    case .bf16: try writeHalves(floats, to: sink, Self.bfloat16)
    default: try Self.passBytes(of: floats, to: sink)
    }
  }

  private func writeHalves(
    _ floats: [Float], to sink: (UnsafeRawBufferPointer) throws(FileError) -> Void,
    _ convert: (Float) -> UInt16
  ) throws(FileError) {
    let piece = 1 << 18
    for start in stride(from: 0, to: floats.count, by: piece) {
      try Self.passBytes(
        of: floats[start..<min(start + piece, floats.count)].map(convert), to: sink)
    }
  }

  private static func passBytes<Element: BitwiseCopyable>(
    of elements: [Element], to sink: (UnsafeRawBufferPointer) throws(FileError) -> Void
  ) throws(FileError) {
    try elements.withUnsafeBytes { bytes in
      Result { () throws(FileError) in try sink(bytes) }
    }.get()
  }

  /// Rounds a float32 to bfloat16, to nearest even; preserves NaN.
  static func bfloat16(_ value: Float) -> UInt16 {
    let bits = value.bitPattern
    if value.isNaN { return UInt16(bits >> 16) | 0x40 }
    return UInt16((bits &+ 0x7FFF &+ (bits >> 16 & 1)) >> 16)
  }
}
