import Files
import Foundation

/// Reading of a JSON configuration that diffusers or a training wrote; errors name file and key.
struct ConfigFile {
  let path: String
  /// The class of the model, for errors.
  let model: String

  private static let advice = "use the config.json that belongs to the weights"

  /// Decodes the text; keys are properties in snake case.
  ///
  /// - Throws: `FileError` for text that is no JSON object, and a key that is missing or has the
  ///   wrong type.
  func decode<Value: Decodable>(_ json: some Sequence<UInt8>) throws(FileError) -> Value {
    try JSONScanner.requireUniqueKeys(in: Data(json), of: path)
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    do {
      return try decoder.decode(Value.self, from: Data(json))
    } catch DecodingError.keyNotFound(let key, _) {
      throw FileError("\(path): lacks '\(Self.snakeCase(key))' of a \(model); \(Self.advice)")
    } catch DecodingError.typeMismatch(_, let context) where !context.codingPath.isEmpty {
      let key = context.codingPath.map(Self.snakeCase).joined(separator: ".")
      throw FileError("\(path): config key '\(key)' has the wrong type; \(Self.advice)")
    } catch {
      throw FileError(
        "\(path): is no JSON object with the configuration of a \(model); fetch it again")
    }
  }

  /// Throws `FileError` about a key unless `holds`.
  func require(
    _ holds: Bool, _ key: String, _ found: Any, _ expected: String
  ) throws(FileError) {
    if holds { return }
    throw FileError(
      "\(path): config key '\(key)' is \(String(describing: found).prefix(200)), expected \(expected);"
        + " \(Self.advice)")
  }

  private static func snakeCase(_ key: any CodingKey) -> String {
    key.stringValue.reduce(into: "") { result, letter in
      result += letter.isUppercase ? "_" + letter.lowercased() : String(letter)
    }
  }
}
