import Datasets
import Files
import Foundation
import Models
import Plans
import Runs
import TensorCore
import Text

extension JobContext {
  /// The run's plan and the model that it is for.
  ///
  /// - Throws: `PlanError` for a plan that cannot be read, `RunError` if the model's weights are others
  ///   than when the run was made, `FileError` if there is no such model.
  func plan(at path: String) throws -> (GraftPlan, ModelFiles) {
    let plan = try GraftPlan.load(path: run.resolve(path))
    let files = try ModelFiles(plan.model.path)
    let actual = try files.reference()
    guard plan.model.contentHash == actual.contentHash else {
      throw RunError(
        "\(files.modelPath): its weights have changed since the run was made, its hash was"
          + " \(plan.model.contentHash.prefix(12)) and is \(actual.contentHash.prefix(12)); restore the"
          + " file, or start a new run of a plan for these weights")
    }
    try plan.check(against: actual)
    return (plan, files)
  }

  /// What the run's large matrix products multiply in: as its request says, else what the CPU is fastest
  /// with, which the request then says too, so that the run goes on likewise wherever it is resumed.
  ///
  /// - Throws: `RunError` for a name that is none, or if the request cannot be written.
  func precision() throws -> Precision {
    var request = try run.request()
    if let name = request.precision {
      guard let precision = Precision(rawValue: name) else {
        throw RunError(
          "\(run.requestPath): precision is '\(name)', expected fp32 or bf16; correct it, or take it"
            + " out")
      }
      print("large products in \(precision)")
      return precision
    }
    // What began without a choice was float32.
    let precision = run.hasBegun ? Precision.float32 : .fastest
    request.precision = precision.rawValue
    let resolved = request
    try whenRoom { try run.writeRequest(resolved) }
    print("large products in \(precision)")
    return precision
  }

  /// Opens what a plan is trained on, with progress events; tells of images that are left out.
  ///
  /// - Parameters:
  ///   - settings: The plan's data; nil for the procedural images.
  ///   - files: The model that is trained.
  ///   - samples: Samples that the training draws in all.
  ///   - heldOut: Samples of the held-out loss.
  /// - Returns: The data, in latents.
  /// - Throws: `JobInterruption.cancelled`, and as `TrainingData` does.
  func trainingData(
    _ settings: DataSettings?, for files: ModelFiles, samples: Int, heldOut: Int
  ) throws -> TrainingData {
    var throttle = Throttle()
    let data = try whenRoom {
      try TrainingData(
        settings, for: files, samples: samples, heldOut: heldOut,
        checkpoint: run.hasBegun ? run.latestPath : nil
      ) { done, total, label in
        try checkpoint(step: 0)
        if throttle.isDue() { try emit(.progress(done: done, total: total, label: label)) }
      }
    }
    if !data.skipped.isEmpty {
      let list = data.skipped.map(\.printable).joined(separator: "\n") + "\n"
      try whenRoom { try AtomicFile.write(Data(list.utf8), to: "\(run.path)/skipped.txt") }
      try emit(
        .message(
          "\(data.skipped.count) files cannot be used as images and are left out, see skipped.txt"))
    }
    for note in data.notes { try emit(.message(note)) }
    return data
  }
}
