import Foundation

/// Writes float tensors as a safetensors file, in one piece or not at all.
///
/// Tensors are ordered by descending dtype and then by name, and the header is padded to eight
/// bytes, as the reference writer does; the same input always gives the same bytes.
package struct SafetensorsWriter {
  /// One tensor to be stored.
  package struct Item {
    /// The name in the file.
    package var name: String
    /// The extents, row-major; empty for a scalar.
    package var shape: [Int]
    /// The type in the file: F32, F16 or BF16.
    package var dtype: DType
    /// The elements, as many as the shape says.
    package var floats: [Float]

    /// Makes an item.
    package init(name: String, shape: [Int], dtype: DType = .f32, floats: [Float]) {
      self.name = name
      self.shape = shape
      self.dtype = dtype
      self.floats = floats
    }
  }

  /// Writes the items and the string metadata to `path`.
  ///
  /// - Precondition: names are unique, shapes fit the element counts, dtypes are F32, F16 or BF16.
  /// - Throws: `CheckpointError` as `AtomicFile.write` does; nothing is then left on disk.
  package static func write(
    _ items: [Item], metadata: [String: String], to path: String
  ) throws(CheckpointError) {
    let rank = Dictionary(uniqueKeysWithValues: zip(DType.allCases, 0...))
    let ordered = items.sorted { first, second in
      let (one, two) = (rank[first.dtype] ?? 0, rank[second.dtype] ?? 0)
      return one == two ? first.name < second.name : one > two
    }
    check(ordered)
    let header = headerText(ordered, metadata: metadata)
    try AtomicFile.stream(to: path) { sink throws(CheckpointError) in
      try sink.append(header)
      for item in ordered { try append(item, to: sink) }
    }
  }

  private static func check(_ items: [Item]) {
    precondition(Set(items.map(\.name)).count == items.count, "duplicate tensor name")
    for item in items {
      precondition(item.name != "__metadata__", "a tensor cannot be called __metadata__")
      precondition(
        [.f32, .f16, .bf16].contains(item.dtype), "\(item.name): cannot store \(item.dtype)")
      precondition(
        item.shape.reduce(1, *) == item.floats.count,
        "\(item.name): shape \(item.shape) with \(item.floats.count) elements")
    }
  }

  private static func append(
    _ item: Item, to sink: FileSink
  ) throws(CheckpointError) {
    switch item.dtype {
    case .f16: try appendHalves(item.floats, to: sink) { Float16($0).bitPattern }
    case .bf16: try appendHalves(item.floats, to: sink, bfloat16)
    default:
      try sink.append(item.floats)
    }
  }

  private static func appendHalves(
    _ floats: [Float], to sink: FileSink, _ convert: (Float) -> UInt16
  ) throws(CheckpointError) {
    let piece = 1 << 18
    for start in stride(from: 0, to: floats.count, by: piece) {
      let halves = floats[start..<min(start + piece, floats.count)].map(convert)
      try sink.append(halves)
    }
  }

  /// The upper half of a float32, rounded to nearest even; a NaN stays one.
  static func bfloat16(_ value: Float) -> UInt16 {
    let bits = value.bitPattern
    if value.isNaN { return UInt16(bits >> 16) | 0x40 }
    return UInt16((bits &+ 0x7FFF &+ (bits >> 16 & 1)) >> 16)
  }

  private static func headerText(_ items: [Item], metadata: [String: String]) -> [UInt8] {
    var members: [String] = []
    if !metadata.isEmpty {
      let pairs = metadata.sorted { $0.key < $1.key }.map {
        "\($0.key.jsonQuoted):\($0.value.jsonQuoted)"
      }
      members.append("\"__metadata__\":{\(pairs.joined(separator: ","))}")
    }
    var offset = 0
    for item in items {
      let end = offset + item.floats.count * item.dtype.size
      let shape = item.shape.map(String.init).joined(separator: ",")
      members.append(
        "\(item.name.jsonQuoted):{\"dtype\":\"\(item.dtype.rawValue)\",\"shape\":[\(shape)],"
          + "\"data_offsets\":[\(offset),\(end)]}")
      offset = end
    }
    var text = Array("{\(members.joined(separator: ","))}".utf8)
    text.append(contentsOf: repeatElement(0x20, count: (8 - text.count % 8) % 8))
    let length = withUnsafeBytes(of: UInt64(text.count).littleEndian) { Array($0) }
    return length + text
  }
}
