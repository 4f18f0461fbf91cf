import Checkpoints
import Foundation
import Models
import Plans
import Sampling
import TensorCore

/// The activations of fixed samples in bfloat16, one memory-mapped file for each slot.
///
/// As in the paper, where features are extracted once and every operator learns from them for many
/// epochs. The files are named by model, data, seed and number of samples: a run of the same finds
/// them again, also for other replacements; anything else has files of its own.
package final class ActivationCache {
  /// Number of samples.
  package let samples: Int
  /// The folder of the files.
  package let path: String
  private let files: [SlotID: SafetensorsFile]
  private let tokens, dim: Int

  /// Samples of one piece of the recording.
  private static let recordedTogether = 16

  /// Opens the recordings of a graft's slots, making those that are missing.
  ///
  /// - Parameters:
  ///   - graft: The teacher, the slots and the settings.
  ///   - dataset: Where the samples are drawn from.
  ///   - folder: The folder of caches.
  ///   - progress: Called with the number of samples recorded and of all; may throw to stop.
  /// - Throws: `PlanError` if the recordings exceed the budget, `CheckpointError` if they cannot be
  ///   written, and what `progress` throws.
  package init(
    graft: Graft, dataset: LatentDataset, folder: String,
    progress: (Int, Int) throws -> Void = { _, _ in }
  ) throws {
    let (plan, settings) = (graft.plan, graft.plan.stage1)
    samples = settings.samples
    (tokens, dim) = (graft.teacher.config.tokens, graft.teacher.config.hiddenSize)
    try Self.require(budget: settings, slots: graft.slots.count, tokens: tokens, dim: dim)
    let identity = ContentHash.sha256(
      Data(
        [
          "activations 1", plan.model.contentHash, dataset.identity, "\(plan.seed)", "\(samples)",
          "\(ActivationDistillation.labelDropout)",
        ].joined(separator: "\n").utf8))
    path = "\(folder)/activations-\(identity.prefix(24))"
    try AtomicFile.makeDirectory(path)
    var files: [SlotID: SafetensorsFile] = [:]
    for id in graft.slots {
      // A missing, damaged or foreign file is made anew.
      let file = try? SafetensorsFile(path: Self.file(of: id, in: path))
      if let file, file.metadata["identity"] == identity,
        file.entry("input")?.shape == [samples, tokens, dim]
      {
        files[id] = file
      }
    }
    let missing = Set(graft.slots).subtracting(files.keys)
    if !missing.isEmpty {
      try Self.record(
        missing, graft, dataset, identity: identity, tokens: tokens, dim: dim, path,
        progress: progress)
      for id in missing { files[id] = try SafetensorsFile(path: Self.file(of: id, in: path)) }
    }
    self.files = files
  }

  private static func file(of id: SlotID, in path: String) -> String { "\(path)/\(id).safetensors" }

  /// Refuses recordings that take more room than the plan allows.
  private static func require(
    budget settings: Stage1Settings, slots: Int, tokens: Int, dim: Int
  ) throws(PlanError) {
    let bytes = 2.0 * Double(slots * settings.samples) * Double(2 * tokens * dim + dim)
    guard bytes > settings.cacheGB * 1e9 else { return }
    throw PlanError(
      key: "stage1.cache_gb",
      "the activations of \(slots) slots and \(settings.samples) samples take"
        + String(format: " %.3g GB, the budget is %.3g GB;", bytes / 1e9, settings.cacheGB)
        + " raise it, lower \"samples\", or set \"mode\" to \"streaming\"")
  }

  /// Runs the teacher over all samples and writes what the slots see and give.
  private static func record(
    _ slots: Set<SlotID>, _ graft: Graft, _ dataset: LatentDataset, identity: String, tokens: Int,
    dim: Int, _ path: String, progress: (Int, Int) throws -> Void
  ) throws {
    let samples = graft.plan.stage1.samples
    var drafts: [SlotID: SafetensorsDraft] = [:]
    for id in slots {
      drafts[id] = try SafetensorsDraft(
        path: file(of: id, in: path),
        items: [
          ("input", [samples, tokens, dim]), ("target", [samples, tokens, dim]),
          ("gate", [samples, dim]),
        ], metadata: ["identity": identity])
    }
    let pass = TeacherPass(
      teacher: graft.teacher, slots: slots, diffusion: try GaussianDiffusion(spacing: ""))
    var random = RandomStream(seed: graft.plan.seed, name: "recorded samples")
    for start in stride(from: 0, to: samples, by: recordedTogether) {
      try progress(start, samples)
      let batch = dataset.batch(
        min(recordedTogether, samples - start), random: &random,
        nullClass: graft.teacher.config.numClasses,
        labelDropout: ActivationDistillation.labelDropout)
      let parts = MicroBatches(
        rows: batch.steps.count, size: ActivationDistillation.microBatch)
      _ = parts.map { range in
        pass(batch, range) { [drafts] seen in
          let row = start + range.lowerBound
          for (name, tensor) in [
            ("input", seen.input), ("target", seen.target), ("gate", seen.gate),
          ] {
            let width = tensor.count / range.count
            drafts[seen.id]?.write(
              UnsafeBufferPointer(start: tensor.pointer, count: tensor.count), to: name,
              at: row * width)
          }
        }
      }
    }
    for draft in drafts.values { try draft.finish() }
  }

  /// Calls `visit` with the activations of some samples for every slot in order.
  func callAsFunction(_ rows: ArraySlice<Int>, _ visit: (SlotActivations) -> Void) {
    for (id, file) in files.sorted(by: { $0.key < $1.key }) {
      func gather(_ name: String, _ shape: [Int]) -> Tensor {
        let result = Tensor([rows.count] + shape)
        let width = shape.reduce(1, *)
        for (place, row) in rows.enumerated() {
          file.readRow(
            row, of: name,
            into: UnsafeMutableBufferPointer(start: result.pointer + place * width, count: width))
        }
        return result
      }
      visit(
        SlotActivations(
          id: id, input: gather("input", [tokens, dim]), target: gather("target", [tokens, dim]),
          gate: gather("gate", [dim])))
    }
  }
}
