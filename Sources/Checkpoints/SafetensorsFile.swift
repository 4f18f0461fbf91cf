import Files
import Foundation

/// Memory-mapped safetensors file, fully validated when it is opened.
///
/// `init` checks the header size and text, duplicate names, dtypes, consistency of shapes and byte
/// ranges, and that the ranges tile the data without gaps or overlap, as the reference reader does
/// (huggingface/safetensors, `tensor.rs`). The file must not be truncated by others while it is
/// open.
///
/// Immutable after `init`, therefore thread-safe.
package final class SafetensorsFile: TensorFile, @unchecked Sendable {
  /// The path it was opened from.
  package let path: String
  package let format = "safetensors"
  /// The string metadata of the header.
  package let metadata: [String: String]
  /// The tensor names in order of their data offsets.
  package let names: [String]

  private let data: UnsafeRawBufferPointer
  private let mapping: MappedFile
  private let entries: [String: TensorEntry]

  /// Maximum length of a header in bytes; headers of models with thousands of tensors have less
  /// than one million.
  static let headerLimit = 32 << 20

  /// Opens and checks a file.
  ///
  /// - Throws: `FileError` that says what is wrong with the file.
  package init(path: String) throws(FileError) {
    let mapping = try MappedFile(path: path)
    let size = mapping.bytes.count
    guard size >= 8 else {
      throw FileError(
        "\(path): has \(size) bytes, too short for a safetensors file;"
          + " fetch or save the file again")
    }
    let stated = UInt64(littleEndian: mapping.bytes.loadUnaligned(as: UInt64.self))
    guard stated <= UInt64(Self.headerLimit) else {
      throw FileError(
        "\(path): states a header of \(stated) bytes, expected at most \(Self.headerLimit); it is no"
          + " safetensors file or damaged, fetch or save the file again")
    }
    guard stated <= UInt64(size - 8) else {
      throw FileError(
        "\(path): states a header of \(stated) bytes but has \(size - 8) after the length field;"
          + " it is truncated or no safetensors file, fetch or save it again")
    }
    let start = 8 + Int(stated)
    let header = try SafetensorsHeader(
      UnsafeRawBufferPointer(rebasing: mapping.bytes[8..<start]), path: path)
    let data = UnsafeRawBufferPointer(rebasing: mapping.bytes[start...])
    let ordered = try Self.tile(header.tensors, size: data.count, path: path)
    var entries: [String: TensorEntry] = [:]
    for tensor in ordered {
      entries[tensor.name] = TensorEntry(
        name: tensor.name, dtype: tensor.dtype, shape: tensor.shape, storage: 0,
        offset: tensor.begin)
    }
    self.path = path
    self.data = data
    self.mapping = mapping
    self.metadata = header.metadata
    self.names = ordered.map(\.name)
    self.entries = entries
  }

  /// The tensor called `name`, or `nil`.
  package func entry(_ name: String) -> TensorEntry? {
    entries[name]
  }

  package func withBytes<Result>(
    of entry: TensorEntry, _ body: (UnsafeRawBufferPointer) -> Result
  ) throws(FileError) -> Result {
    defer { withExtendedLifetime(mapping) {} }
    return body(UnsafeRawBufferPointer(rebasing: data[entry.offset..<entry.offset + entry.span]))
  }

  /// Sorts the tensors by offset and checks that they tile the data exactly.
  private static func tile(
    _ tensors: [SafetensorsHeader.Tensor], size: Int, path: String
  ) throws(FileError) -> [SafetensorsHeader.Tensor] {
    let ordered = tensors.sorted { ($0.begin, $0.end, $0.name) < ($1.begin, $1.end, $1.name) }
    var position = 0
    for tensor in ordered {
      guard tensor.begin <= tensor.end, tensor.end <= size else {
        throw FileError(
          "\(path): tensor \"\(tensor.name)\" claims bytes \(tensor.begin) to \(tensor.end) of"
            + " \(size); the file is truncated or damaged, fetch or save it again")
      }
      guard tensor.begin == position else {
        throw FileError(
          "\(path): tensor \"\(tensor.name)\" starts at byte \(tensor.begin), expected \(position)"
            + " (a hole or an overlap); the file is damaged, fetch or save it again")
      }
      guard byteCount(tensor.shape, tensor.dtype) == tensor.end - tensor.begin else {
        throw FileError(
          "\(path): tensor \"\(tensor.name)\" of shape \(tensor.shape) \(tensor.dtype.rawValue) does"
            + " not fill its \(tensor.end - tensor.begin) bytes; the file is damaged, fetch or save"
            + " it again")
      }
      position = tensor.end
    }
    guard position == size else {
      throw FileError(
        "\(path): \(size - position) bytes at the end belong to no tensor;"
          + " the file is damaged, fetch or save it again")
    }
    return ordered
  }

  /// Size of a tensor in bytes; nil if the product overflows.
  static func byteCount(_ shape: [Int], _ dtype: DType) -> Int? {
    var product = dtype.size
    for extent in shape {
      let (value, overflow) = product.multipliedReportingOverflow(by: extent)
      if overflow { return nil }
      product = value
    }
    return product
  }
}
