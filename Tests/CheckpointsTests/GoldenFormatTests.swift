import Checkpoints
import Files
import Foundation
import Testing

/// The fixtures' folder: `ESPALIER_GOLDENS`, else beside the package.
let goldens: String = {
  if let path = ProcessInfo.processInfo.environment["ESPALIER_GOLDENS"] { return path }
  let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()
  return root.deletingLastPathComponent().appendingPathComponent("shared/goldens").path
}()

let hasGoldens = FileManager.default.fileExists(atPath: "\(goldens)/pt_formats/expected.json")

private struct Expectation: Decodable {
  struct Tensor: Decodable {
    var dtype: String
    var shape: [Int]
    var sum: Double
    var first4: [Double]
  }
  var action: String
  var container: String
  var tensors: [String: Tensor]?
  var plainValues: [String: PlainTree]?
}

/// Plain values as JSON has them.
private enum PlainTree: Decodable {
  case leaf(PlainValue)
  case list([PlainTree])
  case table([String: PlainTree])

  init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    if container.decodeNil() {
      self = .leaf(.none)
    } else if let value = try? container.decode(Bool.self) {
      self = .leaf(.truth(value))
    } else if let value = try? container.decode(Double.self) {
      self = .leaf(.number(value))
    } else if let value = try? container.decode(String.self) {
      self = .leaf(.text(value))
    } else if let value = try? container.decode([PlainTree].self) {
      self = .list(value)
    } else {
      self = .table(try container.decode([String: PlainTree].self))
    }
  }

  /// The leaves under dotted names.
  func leaves(_ name: String) -> [(String, PlainValue)] {
    switch self {
    case .leaf(let value): [(name, value)]
    case .list(let items): items.enumerated().flatMap { $1.leaves("\(name).\($0)") }
    case .table(let items): items.flatMap { $1.leaves("\(name).\($0)") }
    }
  }
}

private struct Expectations: Decodable {
  var canary: String
  var files: [String: Expectation]
}

extension PlainValue {
  /// Equality in which 1 and 1.0 are the same, as in JSON.
  fileprivate func matches(_ other: PlainValue) -> Bool {
    if case .integer(let own) = self, case .number(let number) = other {
      return Double(own) == number
    }
    return self == other
  }
}

/// The hand-made good and bad files of the fixtures.
@Suite(.enabled(if: hasGoldens, "no fixtures; set ESPALIER_GOLDENS to their folder"))
struct GoldenFormatTests {
  private static let dtypes: [String: DType] = [
    "float32": .f32, "float16": .f16, "bfloat16": .bf16, "float64": .f64, "int64": .i64,
    "int32": .i32, "uint8": .u8, "bool": .bool,
  ]

  /// Opens a file and reads every tensor.
  private func readAll(_ path: String) throws {
    let file = try Checkpoint.open(path)
    for name in file.names { _ = try file.doubles(name) }
  }

  @Test func everyFileLoadsOrIsRefused() throws {
    let text = try Data(contentsOf: URL(fileURLWithPath: "\(goldens)/pt_formats/expected.json"))
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    let expectations = try decoder.decode(Expectations.self, from: text)
    #expect(expectations.files.count >= 50)
    for (name, expected) in expectations.files {
      let path = "\(goldens)/pt_formats/\(name)"
      guard expected.action == "load" else {
        let error = #expect(throws: FileError.self, "\(name) must be refused") {
          try readAll(path)
        }
        let message = error?.message ?? ""
        #expect(message.hasPrefix(path + ":") && message.contains(";"), "\(name): \(message)")
        #expect(!message.contains("\n"), "\(name)")
        continue
      }
      try check(name, try Checkpoint.open(path), expected)
    }
    #expect(!FileManager.default.fileExists(atPath: expectations.canary))
  }

  private func check(_ name: String, _ file: any TensorFile, _ expected: Expectation) throws {
    let tensors = try #require(expected.tensors)
    #expect(Set(file.names) == Set(tensors.keys), "\(name)")
    for (key, tensor) in tensors {
      let values = try file.doubles(key)
      #expect(file.entry(key)?.shape == tensor.shape, "\(name) \(key)")
      #expect(file.entry(key)?.dtype == Self.dtypes[tensor.dtype], "\(name) \(key)")
      #expect(Array(values.prefix(4)) == tensor.first4, "\(name) \(key)")
      #expect(abs(values.reduce(0, +) - tensor.sum) < 1e-9, "\(name) \(key)")
      #expect(try file.floats(key) == values.map(Float.init), "\(name) \(key)")
    }
    for (key, tree) in expected.plainValues ?? [:] {
      for (leaf, value) in tree.leaves(key) {
        let found = try #require(file.values[leaf], "\(name) \(leaf)")
        #expect(found.matches(value), "\(name) \(leaf): \(found)")
      }
    }
  }

  @Test func whatIsRefusedIsNamed() throws {
    for (name, word) in [
      ("evil_reduce.pt", "'posix.system'"), ("evil_stack_global.pt", "'posix.system'"),
      ("evil_getattr.pt", "'__builtin__.getattr'"), ("evil_inst_opcode.pt", "instruction"),
      ("evil_reduce_legacy.pt", "'posix.system'"), ("evil_eval.pt", "eval'"),
      ("unknown_storage.pt", "Storage'"), ("missing_record.pt", "data/1"),
      ("bad_crc_payload.pt", "checksum"), ("truncated.pt", "truncated"),
      ("overflow_size.pt", "\"w\""), ("not_a_checkpoint.pt", "<html>"), ("empty_file.pt", "empty"),
    ] {
      let error = #expect(throws: FileError.self, "\(name)") {
        try readAll("\(goldens)/pt_formats/\(name)")
      }
      #expect(error?.message.contains(word) ?? false, "\(name): \(error?.message ?? "")")
    }
  }

  @Test func everyFixtureOpens() throws {
    let names = try FileManager.default.contentsOfDirectory(atPath: goldens)
      .filter { $0.hasSuffix(".safetensors") }
    #expect(!names.isEmpty)
    for name in names {
      #expect(try !Checkpoint.open("\(goldens)/\(name)").names.isEmpty)
    }
  }
}
