import Checkpoints
import Files
import Foundation
import Training
import TensorCore
import TestSupport
import Testing

@MainActor @Suite("Pretraining")
struct PretrainingTests {
  private func withFolder(_ body: (String) throws -> Void) throws {
    let folder = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    try body(folder.path)
  }

  private func training(in folder: String, seed: UInt64 = .max) throws -> Pretraining {
    let recipe = """
      {
        "name": "tiny", "autoencoder": "none", "seed": \(seed), "checkpoint_every": 2,
        "model": {
          "depth": 2, "hidden_size": 24, "num_heads": 3, "patch_size": 1, "input_size": 4,
          "in_channels": 2, "num_classes": 3
        },
        "data": {"seed": 1, "count": 40},
        "phases": [
          {
            "grid": 2, "steps": 2, "batch": 6, "micro_batch": 4, "learning_rate": 1e-3,
            "final_learning_rate": 1e-3, "warmup_steps": 1
          },
          {
            "grid": 4, "steps": 4, "batch": 4, "micro_batch": 4, "learning_rate": 1e-3,
            "final_learning_rate": 1e-4, "warmup_steps": 1
          }
        ],
        "clip_norm": 1, "ema_decay": 0.9, "label_dropout": 0.1, "embedder_std": 0.02,
        "timestep_density": [[100, 1], [900, 3]], "class_weights": [1, 2, 3]
      }
      """
    try Data(recipe.utf8).write(to: URL(fileURLWithPath: "\(folder)/recipe.json"))
    return try Pretraining(
      config: try .load(path: "\(folder)/recipe.json"), dataset: TinyModel.latents(seed: 1),
      directory: folder, initialModel: nil, modelMetadata: [:])
  }

  private func content(_ folder: String) -> [Data?] {
    ["checkpoint", "model"].map {
      FileManager.default.contents(atPath: "\(folder)/\($0).safetensors")
    }
  }

  /// The step decides all random numbers, so stopping anywhere changes nothing.
  @Test func resumedTrainingsEndInTheSameBytes() throws {
    try withFolder { whole in
      try training(in: whole).run(shouldStop: { false }, report: { _ in })
      for stop in [1, 2, 3] {
        try withFolder { folder in
          let first = try training(in: folder)
          try first.run(shouldStop: { first.step == stop }, report: { _ in })
          let second = try training(in: folder)
          #expect(second.step == stop)
          try second.run(shouldStop: { false }, report: { _ in })
          #expect(content(folder) == content(whole), "stopped after \(stop)")
        }
      }
      try withFolder { folder in
        try training(in: folder, seed: 0).run(shouldStop: { false }, report: { _ in })
        #expect(content(folder) != content(whole))
      }
    }
  }

  @Test func checkpointsOfOtherGeneratorsAreRefused() throws {
    try withFolder { folder in
      try training(in: folder).save()
      let path = "\(folder)/checkpoint.safetensors"
      try Self.replaceGenerator(in: path, by: nil)
      let old = #expect(throws: FileError.self) { try training(in: folder) }
      #expect(old?.message.contains("resume this training with espalier 0.1") == true)
      try Self.replaceGenerator(in: path, by: "dice")
      let other = #expect(throws: FileError.self) { try training(in: folder) }
      #expect(other?.message.contains("is 'dice', expected 'philox4x32-10'") == true)
      try Self.replaceGenerator(in: path, by: "philox4x32-10")
      #expect(try training(in: folder).step == 0)
    }
  }

  /// Writes another generator into a checkpoint's metadata; nil takes the entry away.
  static func replaceGenerator(in path: String, by generator: String?) throws {
    let file = try SafetensorsFile(path: path)
    var metadata = file.metadata
    metadata["random_generator"] = generator
    let items = try file.names.map { name in
      TensorItem(
        name: name, shape: file.entry(name)?.shape ?? [], floats: try file.floats(name))
    }
    try SafetensorsWriter.write(items, metadata: metadata, to: path)
  }
}
