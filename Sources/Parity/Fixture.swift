import Checkpoints
import Files
import Foundation
import Nn
import TensorCore

/// Reference file with the parameters, inputs and expected outputs of a case.
struct Fixture {
  /// The name of the case: the file's name without its extension.
  let name: String
  /// The file's path.
  var path: String { file.path }
  /// Shapes and hyper-parameters of the case.
  let settings: Settings
  private let file: SafetensorsFile

  /// Opens and checks a file.
  ///
  /// - Throws: `FileError` if it is damaged.
  init(path: String) throws {
    file = try SafetensorsFile(path: path)
    guard let text = file.metadata["config"] else {
      throw FileError(
        "\(path): has no 'config' in its metadata, expected a reference file; remove it or copy the"
          + " folder again")
    }
    settings = try Settings(json: text, file: path)
    name = String(path.split(separator: "/").last ?? "").replacing(".safetensors", with: "")
  }

  /// The path of a file or folder beside the fixture.
  ///
  /// - Throws: `FileError` for a name that leads elsewhere.
  func path(inFolder name: String) throws -> String {
    guard !name.contains("..") && !name.hasPrefix("/") else {
      throw FileError(
        "\(path): its configuration names '\(name)', expected a name in the same folder; the file is damaged,"
          + " copy it again")
    }
    return URL(filePath: path).deletingLastPathComponent().appending(path: name).path
  }

  /// The names of all tensors with a prefix.
  func names(_ prefix: String) -> [String] { file.names.filter { $0.hasPrefix(prefix) } }

  /// Whether the file has the tensor.
  func has(_ name: String) -> Bool { file.entry(name) != nil }

  /// The shape of a tensor.
  func shape(_ name: String) throws -> [Int] {
    guard let entry = file.entry(name) else {
      throw FileError(
        "\(path): has no tensor '\(name)' among its \(file.names.count); the file is damaged or of"
          + " another format, copy it again")
    }
    return entry.shape
  }

  /// Throws if the shape of a tensor differs from `expected`, where a negative extent matches any.
  func require(_ name: String, shape expected: [Int]) throws {
    let found = try shape(name)
    let fits =
      found.count == expected.count && zip(found, expected).allSatisfy { $1 < 0 || $0 == $1 }
    if fits { return }
    let text = expected.map { $0 < 0 ? "any" : String($0) }.joined(separator: ", ")
    throw FileError(
      "\(path): tensor '\(name)' has shape \(found), but the configuration asks for [\(text)]; the"
        + " file is damaged, copy it again")
  }

  /// Reads a tensor as float32 and checks its shape; a negative extent matches any.
  func tensor(_ name: String, shape expected: [Int]) throws -> Tensor {
    try require(name, shape: expected)
    return Tensor(try file.floats(name), shape: try shape(name))
  }

  /// Reads the elements of a tensor in double precision.
  func doubles(_ name: String) throws -> [Double] {
    _ = try shape(name)
    return try file.doubles(name)
  }

  /// Reads the elements of an integer tensor; throws if one is outside the range.
  func integers(_ name: String, in range: Range<Int>? = nil) throws -> [Int] {
    _ = try shape(name)
    let values = try file.integers(name)
    if let range, let bad = values.first(where: { !range.contains($0) }) {
      throw FileError(
        "\(path): tensor '\(name)' holds \(bad), expected \(range.lowerBound) to"
          + " \(range.upperBound - 1); the file is damaged, copy it again")
    }
    return values
  }

  /// Parameters by name: those of `params_from` without `params_dropped`, overridden by those of
  /// this file.
  func parameters() throws -> [String: Tensor] {
    let dropped = try settings.texts("params_dropped")
    var result: [String: Tensor] = [:]
    for (index, base) in try bases().enumerated() {
      var others = try base.ownParameters()
      if index == 0 {
        for name in others.keys where dropped.contains(where: { Self.matches(name, $0) }) {
          others[name] = nil
        }
      }
      result.merge(others) { $1 }
    }
    return result.merging(try ownParameters()) { $1 }
  }

  /// The files named by `params_from`.
  func bases() throws -> [Fixture] { try settings.texts("params_from").map(beside) }

  /// Another fixture of the same folder, which fixtures in folders name by its path from the root of all.
  func beside(_ name: String) throws -> Fixture {
    try Fixture(path: path(inFolder: String(name.split(separator: "/").last ?? "")))
  }

  private func ownParameters() throws -> [String: Tensor] {
    var result: [String: Tensor] = [:]
    for name in names("param.") {
      result[String(name.dropFirst(6))] = Tensor(try file.floats(name), shape: try shape(name))
    }
    return result
  }

  private static func matches(_ name: String, _ pattern: String) -> Bool {
    pattern.hasSuffix("*") ? name.hasPrefix(pattern.dropLast()) : name == pattern
  }

  /// A weight source over `parameters`.
  func weights() throws -> DictionaryWeights {
    DictionaryWeights(try parameters(), origin: path)
  }
}

extension Fixture {
  /// Reads an expectation in JSON.
  ///
  /// - Throws: `FileError` if the file is missing or malformed.
  static func json<Value: Decodable>(_ path: String) throws -> Value {
    let text = try AtomicFile.read(path, limit: 64 << 20)
    do {
      return try JSONDecoder().decode(Value.self, from: Data(text))
    } catch {
      throw FileError("\(path): is malformed; copy the folder again")
    }
  }
}
