import Checkpoints
import Foundation
import ImageSources
import Models
import Plans

/// What a plan's model is trained on.
package struct TrainingData {
  package let training: LatentDataset
  /// Samples that are never trained on.
  package let heldOut: LatentDataset
  /// A line for each file that could not be used as an image and was left out.
  package let skipped: [String]

  /// Largest number of procedural images that are encoded; a short training needs no more than it has
  /// samples.
  private static let proceduralImages = 2048
  /// Seeds of the procedural source: what the shipped model was trained on, and unseen images.
  private static let (trainingStream, heldOutStream): (UInt64, UInt64) = (1, 2)

  /// Opens the data of a plan, encoding images where that has not been done before.
  ///
  /// - Parameters:
  ///   - settings: The plan's data; nil for the procedural images.
  ///   - files: The model that is trained, and its autoencoder.
  ///   - samples: How many samples the training draws.
  ///   - heldOut: How many samples to keep for the held-out loss.
  ///   - progress: Called with what is done, how much there is, and what it is; may throw to stop.
  /// - Throws: `CheckpointError` for data that cannot be read or do not fit the model, and what
  ///   `progress` throws.
  package init(
    _ settings: DataSettings?, for files: ModelFiles, samples: Int, heldOut: Int,
    progress: (Int, Int, String) throws -> Void = { _, _, _ in }
  ) throws {
    guard let settings else {
      func images(_ stream: UInt64, _ count: Int, _ label: String) throws -> LatentDataset {
        try files.latents(stream: stream, count: count) { try progress($0, count, label) }
      }
      training = try images(
        Self.trainingStream, min(Self.proceduralImages, samples), "encoding images")
      self.heldOut = try images(Self.heldOutStream, heldOut, "encoding held-out images")
      skipped = []
      return
    }
    let (dataset, skipped) = try Self.open(
      settings.path, settings, for: files, progress: progress)
    if let path = settings.heldOut {
      let (other, more) = try Self.open(path, settings, for: files, progress: progress)
      (training, self.heldOut) = (dataset, other)
      self.skipped = skipped + more
      return
    }
    guard dataset.count > 1 else {
      throw CheckpointError(
        "\(settings.path): holds a single sample, and one is set aside for the held-out loss;"
          + " add more or name others with \"held_out\"")
    }
    (training, self.heldOut) = dataset.split(heldOut: heldOut)
    self.skipped = skipped
  }

  /// Opens one data set of either kind and holds it against the model.
  private static func open(
    _ path: String, _ settings: DataSettings, for files: ModelFiles,
    progress: (Int, Int, String) throws -> Void
  ) throws -> (LatentDataset, skipped: [String]) {
    let model = try files.open()
    let config = model.config
    var isFolder: ObjCBool = false
    let exists = FileManager.default.fileExists(atPath: path, isDirectory: &isFolder)
    let hasLatents = !isFolder.boolValue || LatentFiles.isPresent(at: path)
    guard exists, !hasLatents else {
      let latents = try LatentFiles.open(path)
      let dataset = try LatentDataset(latents, cache: try ModelFiles.cacheDirectory()) {
        try progress($0, latents.files.count, "reading latents")
      }
      try require(dataset, fits: config, path)
      return (dataset, [])
    }
    let folder = try ImageFolder(path: path)
    let labels = try folder.labels(numClasses: config.numClasses, classNames: model.classNames)
    let autoencoder = try files.autoencoder()
    let parts = try AutoencoderKL.files(of: files.autoencoderPath ?? "")
    let (dataset, skipped) = try LatentDataset.encoding(
      folder, labels: labels, size: config.inputSize * autoencoder.config.spatialFactor,
      flip: settings.flip, autoencoder: autoencoder,
      autoencoderHash: try ContentHash.sha256(paths: parts),
      cache: try ModelFiles.cacheDirectory()
    ) { try progress($0, folder.items.count, $1) }
    try require(dataset, fits: config, path)
    return (dataset, skipped)
  }

  /// Refuses latents and labels of another model.
  private static func require(
    _ dataset: LatentDataset, fits config: DiTConfig, _ path: String
  ) throws(CheckpointError) {
    let expected = [config.inChannels, config.inputSize, config.inputSize]
    guard dataset.shape == expected else {
      func text(_ shape: [Int]) -> String { shape.map(String.init).joined(separator: " x ") }
      throw CheckpointError(
        "\(path): its latents are \(text(dataset.shape)), the model takes \(text(expected))"
          + " (channels x height x width); encode the images for this model")
    }
    if let bad = dataset.labels.firstIndex(where: { $0 >= config.numClasses }) {
      throw CheckpointError(
        "\(path): sample \(bad) has label \(dataset.labels[bad]), the model has classes 0 to"
          + " \(config.numClasses - 1); use data of the model's classes")
    }
  }
}
