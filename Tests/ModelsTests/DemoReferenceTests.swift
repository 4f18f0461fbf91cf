import Assets
import Checkpoints
import Foundation
import Models
import TensorCore
import Testing

/// The shipped autoencoder and judge against what their training framework computed.
@MainActor @Suite("Shipped networks")
struct DemoReferenceTests {
  nonisolated private static let fixture: String =
    ProcessInfo.processInfo.environment["ESPALIER_DEMO_REFERENCE"]
    ?? URL(filePath: #filePath).deletingLastPathComponent()
    .appending(path: "Fixtures/demo_reference.safetensors").path
  nonisolated private static func shipped(_ name: String) -> String {
    DemoAssets.directory?.appending(path: name + ".safetensors").path ?? name
  }
  nonisolated private static func areAvailable(_ paths: [String]) -> Bool {
    paths.allSatisfy(FileManager.default.fileExists(atPath:))
  }

  private func expectClose(_ found: Tensor, _ name: String, in file: SafetensorsFile) throws {
    let expected = try file.floats(name)
    #expect(found.shape == file.entry(name)?.shape, "\(name)")
    let worst = zip(found.values, expected).map { abs($0 - $1) }.max() ?? .infinity
    let largest = expected.map { abs($0) }.max() ?? 0
    #expect(worst <= 1e-4 * largest, "\(name)")
  }

  private func images(_ file: SafetensorsFile) throws -> Tensor {
    Tensor(try file.floats("in.image"), shape: try #require(file.entry("in.image")).shape)
  }

  @Test(
    .enabled(
      if: areAvailable([fixture, shipped("autoencoder")]), "the shipped autoencoder is absent"))
  func autoencoder() throws {
    let file = try SafetensorsFile(path: Self.fixture)
    let model = try AutoencoderKL(path: Self.shipped("autoencoder"))
    let mean = model.encode(try images(file)).mean
    try expectClose(mean, "out.mean", in: file)
    try expectClose(model.decode(mean), "out.decode", in: file)
    #expect(model.config.latentMean?.count == 4 && model.config.latentStd?.count == 4)
    let scaled = model.scaled(mean)
    let variance = scaled.values.reduce(0) { $0 + $1 * $1 } / Float(scaled.count)
    #expect(variance > 0.3 && variance < 3)
  }

  @Test(.enabled(if: areAvailable([fixture, shipped("judge")]), "the shipped judge is absent"))
  func judge() throws {
    let file = try SafetensorsFile(path: Self.fixture)
    let verdict = try ShapeJudge(path: Self.shipped("judge"))(try images(file))
    try expectClose(verdict.features, "out.judge.features", in: file)
    try expectClose(verdict.logits, "out.judge.logits", in: file)
    #expect(verdict.classes == [3, 6, 7, 9])
  }
}
