import Grafting
import Runs

/// The latents that a training draws its samples from, and those that it is judged by.
struct TrainingData {
  let training, heldOut: LatentDataset

  /// Largest number of procedural images to draw samples from; a short training needs no more than it
  /// has samples.
  private static let trainingImages = 2048
  /// Seeds of the procedural source: what the model was trained on, and unseen images.
  private static let (trainingStream, heldOutStream): (UInt64, UInt64) = (1, 2)

  /// Reads or encodes the latents, with progress events.
  ///
  /// - Parameters:
  ///   - files: The model whose latents they are.
  ///   - samples: Samples that the training draws in all.
  ///   - heldOutSamples: Samples of the held-out loss.
  ///   - context: Told of the progress.
  /// - Throws: `JobInterruption.cancelled`, `CheckpointError` if the model's data is not known.
  init(_ files: ModelFiles, samples: Int, heldOutSamples: Int, context: JobContext) throws {
    func latents(_ stream: UInt64, count: Int, _ label: String) throws -> LatentDataset {
      var throttle = Throttle()
      return try files.latents(stream: stream, count: count) { done in
        try context.checkpoint(step: 0)
        if throttle.isDue() {
          try context.emit(.progress(done: done, total: count, label: "encoding \(label)"))
        }
      }
    }
    training = try latents(
      Self.trainingStream, count: min(Self.trainingImages, samples), "images")
    heldOut = try latents(Self.heldOutStream, count: heldOutSamples, "held-out images")
  }
}
