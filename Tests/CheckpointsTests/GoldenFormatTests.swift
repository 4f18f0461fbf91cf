import Checkpoints
import Foundation
import Testing

/// The fixtures' folder: `ESPALIER_GOLDENS`, else beside the package.
private let goldens: String = {
  if let path = ProcessInfo.processInfo.environment["ESPALIER_GOLDENS"] { return path }
  let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()
  return root.deletingLastPathComponent().appendingPathComponent("shared/goldens").path
}()

private struct Expectation: Decodable {
  struct Tensor: Decodable {
    var shape: [Int]
    var sum: Double
    var first4: [Double]
  }
  var action: String
  var container: String
  var tensors: [String: Tensor]?
}

private struct Expectations: Decodable {
  var files: [String: Expectation]
}

/// The hand-made good and bad safetensors files of the fixtures.
@Suite(
  .enabled(
    if: FileManager.default.fileExists(atPath: "\(goldens)/pt_formats/expected.json"),
    "no fixtures at \(goldens); set ESPALIER_GOLDENS to their folder"))
struct GoldenFormatTests {
  @Test func safetensorsCases() throws {
    let text = try Data(
      contentsOf: URL(fileURLWithPath: "\(goldens)/pt_formats/expected.json"))
    let cases = try JSONDecoder().decode(Expectations.self, from: text).files
      .filter { $0.value.container == "safetensors" }
    #expect(cases.count >= 20)
    for (name, expected) in cases {
      let path = "\(goldens)/pt_formats/\(name)"
      guard expected.action == "load" else {
        #expect(throws: CheckpointError.self, "\(name) must be refused") {
          try SafetensorsFile(path: path)
        }
        continue
      }
      let file = try SafetensorsFile(path: path)
      let tensors = try #require(expected.tensors)
      #expect(Set(file.names) == Set(tensors.keys), "\(name)")
      for (key, tensor) in tensors {
        let values = try file.doubles(key)
        #expect(file.entry(key)?.shape == tensor.shape, "\(name) \(key)")
        #expect(Array(values.prefix(4)) == tensor.first4, "\(name) \(key)")
        #expect(abs(values.reduce(0, +) - tensor.sum) < 1e-9, "\(name) \(key)")
      }
    }
  }

  @Test func everyFixtureOpens() throws {
    let names = try FileManager.default.contentsOfDirectory(atPath: goldens)
      .filter { $0.hasSuffix(".safetensors") }
    #expect(!names.isEmpty)
    for name in names {
      #expect(try !SafetensorsFile(path: "\(goldens)/\(name)").names.isEmpty)
    }
  }
}
