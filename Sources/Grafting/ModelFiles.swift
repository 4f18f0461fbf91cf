import Assets
import Checkpoints
import Foundation
import ImageSources
import Models
import Plans

/// A DiT on disk with the files that belong to it.
package struct ModelFiles: Sendable {
  /// The name that stands for the shipped model.
  package static let demo = "demo"

  /// What the model is called in plans: `demo` or an absolute path, good from any directory.
  package let name: String
  package let modelPath: String
  /// The autoencoder of its latents, if there is one beside the model.
  package let autoencoderPath: String?
  /// The judge of its images, if there is one beside the model.
  package let judgePath: String?

  /// Finds a model and, beside it, `autoencoder.safetensors` and `judge.safetensors`.
  ///
  /// - Throws: `CheckpointError` if the model does not exist.
  package init(_ name: String) throws {
    let path = try Self.path(of: name)
    self.name = name == Self.demo ? name : path
    modelPath = path
    // A grafted model uses the autoencoder and the judge of its teacher.
    let plan = try DiTFile(path: path).plan()
    let companion = try plan.map { try Self.path(of: $0.model.path) } ?? path
    let folder = URL(fileURLWithPath: companion).deletingLastPathComponent()
    func beside(_ file: String) -> String? {
      let candidate = folder.appending(path: file).path
      return FileManager.default.fileExists(atPath: candidate) ? candidate : nil
    }
    autoencoderPath = beside("autoencoder.safetensors")
    judgePath = beside("judge.safetensors")
  }

  private static func path(of name: String) throws -> String {
    let path =
      name == demo
      ? DemoAssets.directory.appending(path: "model.safetensors").path
      : URL(fileURLWithPath: name).standardizedFileURL.path
    guard FileManager.default.fileExists(atPath: path) else {
      throw CheckpointError(
        "\(name): there is no such file; give '\(demo)' or the path of a DiT safetensors file")
    }
    return path
  }

  /// Opens the model's file.
  package func open() throws -> DiTFile { try DiTFile(path: modelPath) }

  /// The model as a plan refers to it; reads the whole file once for its hash.
  package func reference() throws -> ModelReference {
    ModelReference(
      path: name, shape: try open().shape, contentHash: try ContentHash.sha256(path: modelPath))
  }

  /// Loads the autoencoder.
  ///
  /// - Throws: `CheckpointError` if there is none beside the model, or one of other latents.
  package func autoencoder() throws -> AutoencoderKL {
    guard let autoencoderPath else {
      throw CheckpointError(
        "\(modelPath): no 'autoencoder.safetensors' beside it; put the model's autoencoder there")
    }
    let autoencoder = try AutoencoderKL(path: autoencoderPath)
    let (channels, expected) = (autoencoder.config.latentChannels, try open().config.inChannels)
    guard channels == expected else {
      throw CheckpointError(
        "\(autoencoderPath): has \(channels) latent channels, \(modelPath) has \(expected); "
          + "put the model's own autoencoder there")
    }
    return autoencoder
  }

  /// Loads the judge.
  ///
  /// - Throws: `CheckpointError` if there is none beside the model, or it knows other classes.
  package func judge() throws -> ShapeJudge {
    guard let judgePath else {
      throw CheckpointError(
        "\(modelPath): no 'judge.safetensors' beside it; agreement and Fréchet distance need one")
    }
    try requireShapes()
    return try ShapeJudge(path: judgePath)
  }

  /// Latents to distil and analyse on: the procedural images through the model's autoencoder.
  ///
  /// - Parameters:
  ///   - stream: Seed of the procedural source.
  ///   - count: Number of images.
  ///   - progress: Called with the number of images encoded; may throw to stop.
  /// - Returns: Normalised latents with labels.
  /// - Throws: `CheckpointError` if the model was not trained on the procedural images.
  package func latents(stream: UInt64, count: Int, progress: (Int) throws -> Void = { _ in })
    throws -> LatentDataset
  {
    try requireShapes()
    let autoencoder = try autoencoder()
    let identity = "autoencoder \(try ContentHash.sha256(path: autoencoderPath ?? ""))"
    let cache = try Self.cacheDirectory() + "/latents-\(stream)-\(count).safetensors"
    return try .encoding(
      ShapeSource(seed: stream), count: count, autoencoder: autoencoder, cache: cache,
      identity: identity, progress: progress)
  }

  /// Refuses a model of other images than the procedural ones, which alone are known here.
  private func requireShapes() throws {
    let file = try open()
    guard file.classNames == ShapeSource.classNames,
      file.config.numClasses == ShapeSource.numClasses
    else {
      throw CheckpointError(
        "\(modelPath): its classes are not the procedural shapes, and no other data set is known; "
          + "use a model trained by 'espalier pretrain' with its autoencoder beside it")
    }
    let side = file.config.inputSize * (try autoencoder().config.spatialFactor)
    guard side == ShapeSource.side else {
      throw CheckpointError(
        "\(modelPath): its images are \(side) pixels wide, the procedural ones \(ShapeSource.side); "
          + "use a model trained by 'espalier pretrain' with its autoencoder beside it")
    }
  }

  /// The folder for things that can be computed again: `$XDG_CACHE_HOME/espalier`.
  package static func cacheDirectory() throws -> String {
    let environment = ProcessInfo.processInfo.environment
    let base =
      environment["XDG_CACHE_HOME"].flatMap { $0.hasPrefix("/") ? $0 : nil }
      ?? NSHomeDirectory() + "/.cache"
    let path = base + "/espalier"
    try AtomicFile.makeDirectory(path)
    return path
  }
}
