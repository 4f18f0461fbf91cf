import Foundation
import Operators
import Plans
import Runs
import TestSupport

extension Scratch {
  /// Puts text into a file inside and gives its path.
  func put(_ text: String, _ name: String, mode: mode_t = 0o644) throws -> String {
    let file = try put(Array(text.utf8), name)
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
