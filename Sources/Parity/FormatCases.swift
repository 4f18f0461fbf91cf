import Checkpoints
import Files
import Foundation

/// Checkpoint files that must load with known values or be refused (folder `pt_formats`).
enum FormatCases {
  /// Content of `expected.json`.
  private struct Expectations: Decodable {
    struct Tensor: Decodable {
      let dtype: String
      let shape: [Int]
      let sum: Double
      let first4: [Double]
    }
    struct File: Decodable {
      let action: String
      let tensors: [String: Tensor]?
    }
    let canary: String?
    let files: [String: File]
  }

  /// Element types by their PyTorch names.
  private static let dtypes: [String: DType] = [
    "float32": .f32, "float16": .f16, "bfloat16": .bf16, "float64": .f64, "int64": .i64,
    "int32": .i32, "int16": .i16, "int8": .i8, "uint8": .u8, "bool": .bool,
  ]
  /// Tolerance for float64 sums in another order.
  private static let tolerance = 1e-9

  /// Opens every file of the folder, with one comparison each.
  static func run(_ name: String, folder: String) -> ParityResult {
    ParityResult(name) { comparisons in
      let expected: Expectations = try Fixture.json("\(folder)/expected.json")
      let present = try FileManager.default.contentsOfDirectory(atPath: folder)
        .filter { $0 != "expected.json" }
      if let unknown = present.sorted().first(where: { expected.files[$0] == nil }) {
        throw FileError(
          "\(folder)/\(unknown): is not in expected.json, so nothing is known of it; remove the file"
        )
      }
      let all = expected.files.sorted { $0.key < $1.key }
      comparisons = all.map { file, expectation in
        Comparison(
          tensor: file, kind: .forward, error: error("\(folder)/\(file)", expectation),
          tolerance: expectation.action == "load" ? tolerance : 0)
      }
      if let canary = expected.canary {
        comparisons.append(
          Comparison(
            tensor: "no code was executed", kind: .forward,
            error: FileManager.default.fileExists(atPath: canary) ? .infinity : 0, tolerance: 0))
      }
    }
  }

  /// Error of a file against the expectation; infinite if names, shapes or types differ.
  private static func error(_ path: String, _ expected: Expectations.File) -> Double {
    do {
      let file = try Checkpoint.open(path)
      let tensors = expected.tensors ?? [:]
      var largest = Set(file.names) == Set(tensors.keys) ? 0 : Double.infinity
      for name in file.names {
        let values = try file.doubles(name)
        guard let tensor = tensors[name], let entry = file.entry(name) else { continue }
        guard entry.shape == tensor.shape, entry.dtype == dtypes[tensor.dtype],
          Array(values.prefix(4)) == tensor.first4
        else { return .infinity }
        let difference = abs(values.reduce(0, +) - tensor.sum)
        largest = max(
          largest, difference.isFinite ? difference / max(1, abs(tensor.sum)) : .infinity)
      }
      return expected.action == "load" ? largest : .infinity
    } catch {
      return expected.action == "load" ? .infinity : 0
    }
  }
}
