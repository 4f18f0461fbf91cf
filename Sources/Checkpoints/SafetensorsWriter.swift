import Files
import Foundation

/// Writes float tensors atomically as a safetensors file.
///
/// Tensors are sorted by descending dtype and then by name, and the header is padded to eight
/// bytes, as in the reference writer; the same input gives the same bytes.
package struct SafetensorsWriter {
  /// One tensor to be stored.
  package typealias Item = TensorItem

  /// Writes the items and the string metadata to `path`.
  ///
  /// - Precondition: names are unique, shapes fit the element counts, dtypes are F32, F16 or BF16.
  /// - Throws: `FileError` as `AtomicFile.write` does; no file is left then.
  package static func write(
    _ items: [Item], metadata: [String: String], to path: String
  ) throws(FileError) {
    let rank = Dictionary(uniqueKeysWithValues: zip(DType.allCases, 0...))
    let ordered = items.sorted { first, second in
      let (one, two) = (rank[first.dtype] ?? 0, rank[second.dtype] ?? 0)
      return one == two ? first.name < second.name : one > two
    }
    TensorItem.check(ordered)
    let header = headerText(ordered, metadata: metadata)
    try AtomicFile.stream(to: path) { sink throws(FileError) in
      try sink.append(header)
      for item in ordered {
        try item.write { bytes throws(FileError) in try sink.append(bytes) }
      }
    }
  }

  /// Encodes the header length and the JSON header of items in their order.
  static func headerText(_ items: [Item], metadata: [String: String]) -> [UInt8] {
    var members: [String] = []
    if !metadata.isEmpty {
      let pairs = metadata.sorted { $0.key < $1.key }.map {
        "\($0.key.jsonQuoted):\($0.value.jsonQuoted)"
      }
      members.append("\"__metadata__\":{\(pairs.joined(separator: ","))}")
    }
    var offset = 0
    for item in items {
      let end = offset + item.byteCount
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
