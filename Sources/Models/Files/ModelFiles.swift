import Assets
import Checkpoints
import Files
import Foundation
import Plans
import TensorCore

/// Model of any family opened by name, with its autoencoder and judge.
package struct ModelFiles {
  /// Name of the shipped model.
  package static let demo = "demo"

  /// The model.
  package let model: any ModelFile
  /// Path of its autoencoder, a file or a folder of diffusers; nil if none was found.
  package let autoencoderPath: String?
  /// Folder with its text encoder and tokenizer, in `text_encoder` and `tokenizer`; nil if none was found.
  package let textEncoderPath: String?
  /// Statistics of the latents that the model was trained on, beside it or in its file; nil without.
  package let latentStatistics: LatentStatistics?
  /// Path of its judge; nil if none was found.
  package let judgePath: String?
  /// Path of the teacher of a graft, if it no longer exists.
  package let missingTeacher: String?

  /// Name of the model in plans.
  package var name: String { model.weights.name }
  /// Path of the weights.
  package var modelPath: String { model.path }

  /// Opens a model and locates `autoencoder.safetensors` (or `.pt`, `.pth`, `.ckpt`) or a folder `vae`, and
  /// `judge.safetensors`, in the folder of the file or of the model; for a graft in that of its
  /// teacher, if it exists.
  ///
  /// - Parameters:
  ///   - name: `demo`, a published name, a file or a folder of diffusers.
  ///   - numHeads: Number of attention heads, if it is not known otherwise.
  /// - Throws: `FileError` if the model does not exist.
  package init(_ name: String, numHeads: Int? = nil) throws {
    if name.hasSuffix(".json"), (try? GraftPlan.load(path: name)) != nil {
      throw FileError("\(name): is a plan and no model; name the model, and the plan with --plan")
    }
    try self.init(ModelWeights(named: name).model(numHeads: numHeads))
  }

  /// Locates autoencoder and judge of an open model.
  package init(_ model: any ModelFile) throws {
    self.model = model
    let teacher = model.plan?.model.path
    let companion = teacher.flatMap { try? ModelWeights.place(of: $0).path }
    missingTeacher = companion == nil ? teacher : nil
    let folder =
      companion.map { DiffusersFolder.isFolder($0) ? $0 : AtomicFile.directory(of: $0) }
      ?? model.weights.folder?.path ?? AtomicFile.directory(of: model.path)
    func beside(_ file: String) -> String? {
      let candidate = AtomicFile.resolved(file, in: folder)
      return FileManager.default.fileExists(atPath: candidate) ? candidate : nil
    }
    autoencoderPath =
      model.weights.folder?.autoencoder
      ?? ["safetensors", "pt", "pth", "ckpt"].lazy.compactMap { beside("autoencoder.\($0)") }.first
      ?? beside("vae") ?? beside("../vae")
    judgePath = beside("judge.safetensors")
    latentStatistics = try LatentStatistics(of: model.tensors) ?? LatentStatistics(in: folder)
    textEncoderPath = [model.weights.folder?.pipeline, folder, "\(folder)/.."]
      .compactMap { $0.map { URL(filePath: $0).standardizedFileURL.path } }
      .first { DiffusersFolder.isFolder("\($0)/text_encoder") }
  }

  /// Assumptions about the model, in sentences.
  package var notes: [String] {
    let gone = missingTeacher.map {
      "\(modelPath): its teacher \($0) is not there any more; the graft has all weights itself, its"
        + " autoencoder and judge are looked for beside it"
    }
    return model.notes + (gone.map { [$0] } ?? [])
  }

  /// Makes a reference to the model for plans; reads the whole file for its digest.
  ///
  /// - Throws: `FileError` for a graft, because plans are for pretrained models.
  package func reference() throws -> ModelReference {
    guard !model.isGraft else {
      let teacher = model.plan?.model.path ?? "its pretrained model"
      throw FileError(
        "\(modelPath): expected a pretrained model, found a graft of \(teacher), which cannot"
          + " be grafted again; make one plan of all changes for \(teacher)")
    }
    return ModelReference(path: name, shape: model.shape, contentHash: try contentHash())
  }

  /// Digest of the files of the model, of the entry of a training checkpoint if it is not the
  /// default, and of the family that its name states.
  package func contentHash() throws -> String {
    let hash = try ContentHash.sha256(paths: model.files, keptIn: UserDirectory.cache.path())
    var choice = model.tensors.isUsual ? "" : model.tensors.container.map { "#\($0)" } ?? ""
    if let family = model.weights.statedFamily { choice += " as \(family.rawValue)" }
    return choice.isEmpty ? hash : ContentHash.sha256(Data("\(hash)\(choice)".utf8))
  }

  /// Loads the autoencoder.
  ///
  /// - Parameters:
  ///   - precision: Precision of the products in large convolutions.
  ///   - path: The file or folder; nil selects the one found.
  /// - Returns: The autoencoder.
  /// - Throws: `FileError` if none was found, or its latents do not fit.
  package func autoencoder(_ precision: Precision, path: String? = nil) throws -> AutoencoderKL {
    guard let found = path ?? autoencoderPath else {
      let place = missingTeacher.map { ", nor beside its teacher \($0), which is gone" } ?? ""
      throw FileError(
        "\(modelPath): no 'autoencoder.safetensors' beside it and no folder 'vae'\(place); put the model's"
          + " autoencoder there (also as .pt, .pth or .ckpt)")
    }
    let file = try AutoencoderKL.file(of: found)
    let stated = try AutoencoderKLConfig.stated(for: file)
    guard
      stated != nil || latentStatistics != nil || model.shape.family.assumesScalingFactor
    else {
      // Shapes do not determine the scaling factor, and PixArt's is not the default.
      throw FileError(
        "\(found): there is no config.json of an AutoencoderKL beside it, nor a \(LatentStatistics.fileName)"
          + " beside the model; put the autoencoder's own config.json there, or the statistics of the model's"
          + " latents beside it")
    }
    var config = try AutoencoderKLConfig.find(for: file)
    if let latentStatistics {
      try latentStatistics.require(channels: config.latentChannels)
      (config.latentMean, config.latentStd) = (latentStatistics.mean, latentStatistics.deviation)
      config.scalingFactor = 1
    }
    let autoencoder = try AutoencoderKL(path: found, config: config, precision: precision)
    let (channels, expected) = (autoencoder.config.latentChannels, model.shape.inChannels)
    guard channels == expected else {
      throw FileError(
        "\(found): has \(channels) latent channels, \(modelPath) has \(expected); "
          + "put the model's own autoencoder there")
    }
    return autoencoder
  }

  /// Digest of the autoencoder and of the scale of its latents.
  package func autoencoderHash() throws -> String {
    let parts = try AutoencoderKL.files(of: autoencoderPath ?? "")
    let hash = try ContentHash.sha256(paths: parts)
    guard let latentStatistics else { return hash }
    let scale = "\(latentStatistics.mean) \(latentStatistics.deviation)"
    return ContentHash.sha256(Data("\(hash) \(scale)".utf8))
  }

  /// Whether the model works in pixel space: it has three channels, and no autoencoder of its own
  /// with three latent channels.
  ///
  /// - Throws: `FileError` for an autoencoder that cannot be read.
  package var drawsPixels: Bool {
    get throws {
      guard model.shape.inChannels == 3 else { return false }
      guard let autoencoderPath else { return true }
      let config = try AutoencoderKLConfig.find(for: AutoencoderKL.file(of: autoencoderPath))
      return config.latentChannels != 3
    }
  }

  /// Cache folder: `$XDG_CACHE_HOME/espalier`.
  package static func cacheDirectory() throws -> String {
    let path = UserDirectory.cache.path()
    try AtomicFile.makeDirectory(path)
    return path
  }
}

extension ModelWeights {
  /// Opens weights of any family by the name of a model.
  ///
  /// - Parameter name: `demo`, a published name such as `DiT-XL/2`, a file or a folder of diffusers; a file
  ///   may be followed by `#` and an entry of a training checkpoint, and follow a family, as in `sit:FILE`.
  /// - Throws: `FileError` if the model does not exist or cannot be read.
  package init(named name: String) throws {
    let (family, name) = Self.family(in: name)
    let (path, container) = try Self.place(of: name)
    let prefix = family.map { "\($0.rawValue):" } ?? ""
    let canonical = prefix + (container.map { "\(path)#\($0)" } ?? path)
    try self.init(
      path: path, container: container, name: name == ModelFiles.demo ? name : canonical,
      family: family)
  }

  /// The family that a name states, as in `sit:FILE`, and the rest of the name.
  private static func family(in name: String) -> (ModelFamily?, String) {
    guard let mark = name.firstIndex(of: ":"), !FileManager.default.fileExists(atPath: name),
      let family = ModelFamily(rawValue: String(name[..<mark]))
    else { return (nil, name) }
    return (family, String(name[name.index(after: mark)...]))
  }

  /// Whether a model, file or folder of this name exists.
  package static func exists(_ name: String) -> Bool { (try? place(of: name)) != nil }

  /// Returns the path of a model and the entry of a training checkpoint after `#` in its name, if
  /// any.
  static func place(of name: String) throws -> (path: String, container: String?) {
    let name = family(in: name).1
    // The name of a file may contain the sign itself.
    guard let mark = name.lastIndex(of: "#"), !FileManager.default.fileExists(atPath: name) else {
      return (try path(of: name), nil)
    }
    return (try path(of: String(name[..<mark])), String(name[name.index(after: mark)...]))
  }

  /// Returns the path of a model: the shipped one, a published one such as `DiT-XL/2` (with `-512`
  /// for the larger images) in `pretrained_models` or the current folder under its published file
  /// name, or the given path.
  private static func path(of name: String) throws -> String {
    var path = AtomicFile.resolved(name)
    if name == ModelFiles.demo {
      guard let folder = DemoAssets.directory else {
        let places = DemoAssets.candidates.map(\.path).joined(separator: " nor ")
        throw FileError(
          "\(name): the shipped model is neither in \(places); keep the executable together with the"
            + " resources that it was built or installed with")
      }
      path = folder.appending(path: "model.safetensors").path
    }
    let isLarge = name.hasSuffix("-512")
    let published = isLarge ? String(name.dropLast(4)) : name
    if ModelShape(named: published) != nil, !FileManager.default.fileExists(atPath: path) {
      let side = isLarge ? 512 : 256
      let file = "\(published.replacing("/", with: "-"))-\(side)x\(side).pt"
      let places = ["pretrained_models/\(file)", file]
      guard let place = places.first(where: FileManager.default.fileExists(atPath:)) else {
        throw FileError(
          "\(name): there is neither '\(places[0])' nor '\(file)'; put the published weights there"
            + " or give the path of a file")
      }
      path = AtomicFile.resolved(place)
    }
    if !FileManager.default.fileExists(atPath: path) {
      let other = AtomicFile.resolved(name, in: "pretrained_models")
      if FileManager.default.fileExists(atPath: other) { path = other }
    }
    guard FileManager.default.fileExists(atPath: path) else {
      let advice =
        name.lowercased().contains("pixart")
        ? "put the published folder of diffusers (transformer, vae, text_encoder, tokenizer), or the .pth beside"
          + " such 'vae', 'text_encoder' and 'tokenizer', into 'pretrained_models', or give its path"
        : "give '\(ModelFiles.demo)', the path of a DiT's weights (.safetensors, .pt), or a folder of diffusers"
      throw FileError("\(name): there is no such file; \(advice)")
    }
    return path
  }
}
