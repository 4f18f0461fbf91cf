import Checkpoints
import Foundation
import Grafting
import Plans
import Runs

extension JobContext {
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
    let data = try TrainingData(settings, for: files, samples: samples, heldOut: heldOut) {
      done, total, label in
      try checkpoint(step: 0)
      if throttle.isDue() { try emit(.progress(done: done, total: total, label: label)) }
    }
    if !data.skipped.isEmpty {
      let list = data.skipped.joined(separator: "\n") + "\n"
      try AtomicFile.write(Data(list.utf8), to: "\(run.path)/skipped.txt")
      try emit(
        .message("\(data.skipped.count) images cannot be read and are left out, see skipped.txt"))
    }
    return data
  }
}
