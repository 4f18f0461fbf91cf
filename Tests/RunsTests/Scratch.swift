import Foundation
import Operators
import Plans
import Plans
import Runs

/// A temporary directory for runs that goes when the object does.
final class Scratch {
  let path: String

  init() throws {
    path = NSTemporaryDirectory() + "espalier-runs-" + UUID().uuidString
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  }

  deinit {
    try? FileManager.default.removeItem(atPath: path)
  }

  /// Puts text into a file inside and gives its path.
  func put(_ text: String, _ name: String, mode: mode_t = 0o644) throws -> String {
    let file = "\(path)/\(name)"
    try text.write(toFile: file, atomically: false, encoding: .utf8)
    chmod(file, mode)
    return file
  }

  /// A new run inside.
  func run(_ name: String = "test", createdAt: Double = 1_763_694_000) throws -> RunDirectory {
    try RunDirectory.create(root: path, job: request(name, createdAt: createdAt), plan: nil)
  }

  /// A request for a distillation.
  func request(_ name: String = "test", createdAt: Double = 1_763_694_000) -> JobRequest {
    JobRequest(
      job: .distill(planPath: "plan.json"), name: name, createdAt: createdAt, codeVersion: "0.1",
      seed: .max, modelHash: "c0ffee")
  }
}

/// A small model, for plans.
let smallShape = {
  OperatorRegistry.fillCatalog()
  return ModelShape(
    depth: 4, hiddenSize: 48, numHeads: 4, patchSize: 2, inputSize: 8, inChannels: 4,
    numClasses: 10)
}()

/// Appends raw text to a file, as a writer that dies half-way would.
func appendRaw(_ text: String, to path: String) throws {
  let handle = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
  defer { try? handle.close() }
  try handle.seekToEnd()
  try handle.write(contentsOf: Data(text.utf8))
}
