import Files
import Foundation

/// Parsed JSON header of a safetensors file, in text order.
///
/// The parser accepts only a flat object of tensors and string metadata. It does not recurse,
/// refuses duplicate names, signs, fractions and exponents, and allocates at most a small multiple
/// of the header size.
struct SafetensorsHeader {
  /// A tensor as described by the header, not yet checked against the file.
  struct Tensor {
    var name: String
    var dtype: DType
    var shape: [Int]
    var begin: Int
    var end: Int
  }

  private(set) var tensors: [Tensor] = []
  private(set) var metadata: [String: String] = [:]

  /// Maximum rank of a tensor.
  static let rankLimit = 32
  /// Maximum number of tensors of a file.
  private static let countLimit = 1 << 18

  /// Parses the header text.
  ///
  /// - Throws: `FileError` with the offset of the first invalid byte of the header.
  init(_ text: UnsafeRawBufferPointer, path: String) throws(FileError) {
    do throws(JSONFault) {
      try read(text)
    } catch {
      throw FileError(
        "\(path): damaged safetensors header near byte \(8 + error.position): \(error.message);"
          + " fetch or save the file again")
    }
  }

  private mutating func read(_ text: UnsafeRawBufferPointer) throws(JSONFault) {
    var scanner = JSONScanner(text)
    var seen: Set<String> = []
    guard text.first == UInt8(ascii: "{") else {
      throw scanner.fault("the header must start with `{`")
    }
    try scanner.members { (scanner, name) throws(JSONFault) in
      guard seen.insert(name).inserted else {
        throw scanner.fault("the name \"\(name)\" appears twice")
      }
      guard seen.count <= Self.countLimit else {
        throw scanner.fault("it has more than \(Self.countLimit) tensors")
      }
      if name == "__metadata__" {
        try self.readMetadata(&scanner)
      } else {
        self.tensors.append(try SafetensorsHeader.readTensor(&scanner, name: name))
      }
    }
    try scanner.finish()
  }

  private mutating func readMetadata(_ scanner: inout JSONScanner) throws(JSONFault) {
    var found: [String: String] = [:]
    try scanner.members { (scanner, key) throws(JSONFault) in
      let value = try scanner.string("the text of the metadata key \"\(key)\"")
      guard found.updateValue(value, forKey: key) == nil else {
        throw scanner.fault("the metadata key \"\(key)\" appears twice")
      }
    }
    metadata = found
  }

  private static func readTensor(
    _ scanner: inout JSONScanner, name: String
  ) throws(JSONFault) -> Tensor {
    var dtype: DType?
    var shape: [Int]?
    var range: [Int]?
    try scanner.members { (scanner, field) throws(JSONFault) in
      let isRepeated: Bool
      switch field {
      case "dtype":
        isRepeated = dtype != nil
        let text = try scanner.string("the dtype of tensor \"\(name)\"")
        guard let known = DType(rawValue: text) else {
          throw scanner.fault("tensor \"\(name)\" has the unknown dtype \"\(text)\"")
        }
        dtype = known
      case "shape":
        isRepeated = shape != nil
        shape = try scanner.integers("the shape of tensor \"\(name)\"", limit: rankLimit)
      case "data_offsets":
        isRepeated = range != nil
        range = try scanner.integers("the data_offsets of tensor \"\(name)\"", limit: 2)
      default:
        throw scanner.fault("tensor \"\(name)\" has the unknown field \"\(field)\"")
      }
      if isRepeated { throw scanner.fault("tensor \"\(name)\" has two fields \"\(field)\"") }
    }
    guard let dtype, let shape, let range, range.count == 2 else {
      throw scanner.fault("tensor \"\(name)\" needs dtype, shape and two data_offsets")
    }
    return Tensor(name: name, dtype: dtype, shape: shape, begin: range[0], end: range[1])
  }
}
