import Files
import Foundation
import Models
import Sampling
import TensorCore
import TorchEngine

/// Images of a model that another engine draws over its ranks.
///
/// Finished chunks are files in a folder beside the result, so an interrupted drawing goes on; the folder
/// is removed when the result is there.
struct EngineDrawing {
  let engine: Engine
  let files: ModelFiles
  let sampler: LatentSampler

  /// Name of the sampler in the engine; nil if it has none such.
  private var method: String? {
    switch sampler.method {
    case .ddim, .ancestral, .dpmpp: sampler.method.rawValue
    case .heun: "ode"
    case .sde: "sde"
    default: nil
    }
  }

  /// Why the engine cannot draw it; nil if it can.
  var refusal: String? {
    if engine.isLinked {
      return "it works through run directories at \(engine.hostName), and drawing makes none"
    }
    if sampler.guidedChannels != nil || sampler.diffusion.form != .sigma
      || sampler.diffusion.norm != 1 || sampler.lastStep.kind != .mean
      || sampler.lastStep.length != 0.04
    {
      return
        "it knows no other guided channels, diffusion coefficients and last steps than the usual ones"
    }
    if sampler.guidanceInterval != 0...1 || sampler.timeShift != 1 {
      return
        "it has no intervals of guidance and no shifted times (--guidance-low 0 --time-shift 1 leave them out)"
    }
    if sampler.cache != nil { return "it has no step caching" }
    if method == nil { return "it has no sampler \(sampler.method.rawValue)" }
    if files.missingTeacher != nil { return "the graft's teacher is not there any more" }
    return nil
  }

  /// Draws images.
  ///
  /// - Parameters:
  ///   - count: Number of images.
  ///   - classes: Classes separated by commas; nil for all in turn.
  ///   - npz: The archive of images to write; nil for none.
  ///   - latents: The file of latents to write; nil for none.
  ///   - precision: Precision of large matrix products.
  ///   - autoencoder: A file or folder; nil for the one beside the model.
  ///   - captions: Embeddings of captions, for a text-conditional model.
  /// - Throws: `FileError` if the engine fails, `PlanError` if it cannot be started.
  func draw(
    count: Int, classes: String?, npz: String?, latents: String?, precision: Precision,
    autoencoder: String?, captions: String?
  ) throws {
    guard let target = npz ?? latents, let method else { return }
    let folder = "\(AtomicFile.absolute(target)).chunks"
    var words = [
      "--output", folder, "--count", "\(count)", "--method", method, "--steps", "\(sampler.steps)",
      "--guidance", "\(sampler.guidance)", "--seed", "\(sampler.seed)", "--eta", "\(sampler.eta)",
      "--precision", precision.rawValue,
    ]
    let optional = [
      ("--npz", npz), ("--latents", latents), ("--classes", classes),
      ("--autoencoder", autoencoder ?? (npz == nil ? nil : files.autoencoderPath)),
      ("--captions", captions),
    ]
    for case (let key, let value?) in optional { words += [key, value] }
    let shape = files.model.shape
    if shape.family.condition == .classes {
      // What a file does not show both engines take from here.
      words += ["--config", String(decoding: try JSONEncoder().encode(shape), as: UTF8.self)]
    }
    let name = files.name == ModelFiles.demo ? files.modelPath : files.name
    let process = try engine.process(engine.sampleCommand(words + [name]))
    try engine.start(process)
    // Ctrl-C reaches the engine as well; its chunks stay for the next time.
    process.waitUntilExit()
    guard process.terminationReason == .exit, process.terminationStatus == 0 else {
      throw FileError(
        "\(target): was not written, the engine \(engine.name) ended with code \(process.terminationStatus);"
          + " see its message above, and repeat the command to go on after the chunks in \(folder)")
    }
    try? FileManager.default.removeItem(atPath: folder)
  }
}
