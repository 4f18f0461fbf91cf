import Assets
import Checkpoints
import Files
import Foundation
import Plans
import TensorCore

/// A DiT on disk with the files that belong to it.
package struct ModelFiles: Sendable {
  /// The name that stands for the shipped model.
  package static let demo = "demo"

  /// What the model is called in plans: `demo` or an absolute path, good from any directory, with the
  /// chosen entry of a training checkpoint behind a `#`.
  package let name: String
  /// The model's file, or its folder of diffusers.
  package let modelPath: String
  /// The autoencoder of its latents, a file or a folder of diffusers, if there is one with the model.
  package let autoencoderPath: String?
  /// The judge of its images, if there is one beside the model.
  package let judgePath: String?
  /// The entry of a training checkpoint that was chosen; nil takes the usual one.
  private let container: String?

  /// Finds a model and what belongs to it: `autoencoder.safetensors` or a folder `vae`, and
  /// `judge.safetensors`, beside the file or inside the folder.
  ///
  /// - Throws: `FileError` if the model does not exist.
  package init(_ name: String) throws {
    let (path, container) = try Self.place(of: name)
    self.name = name == Self.demo ? name : container.map { "\(path)#\($0)" } ?? path
    modelPath = path
    self.container = container
    // A grafted model uses the autoencoder and the judge of its teacher.
    let file = try DiTFile(path: path, container: container)
    let companion = try file.plan().map { try Self.place(of: $0.model.path).path } ?? path
    let folder =
      DiffusersFolder.isFolder(companion) ? companion : AtomicFile.directory(of: companion)
    func beside(_ file: String) -> String? {
      let candidate = "\(folder)/\(file)"
      return FileManager.default.fileExists(atPath: candidate) ? candidate : nil
    }
    autoencoderPath =
      file.autoencoderFolder ?? beside("autoencoder.safetensors") ?? beside("vae")
    judgePath = beside("judge.safetensors")
  }

  /// Whether a name stands for a model, a file or a folder that exists.
  package static func exists(_ name: String) -> Bool { (try? place(of: name)) != nil }

  /// The path of a model and, if its name ends in `#` and an entry of a training checkpoint, that entry.
  private static func place(of name: String) throws -> (path: String, container: String?) {
    // A file may well have the sign in its own name.
    guard let mark = name.lastIndex(of: "#"), !FileManager.default.fileExists(atPath: name) else {
      return (try path(of: name), nil)
    }
    return (try path(of: String(name[..<mark])), String(name[name.index(after: mark)...]))
  }

  /// The path of a model: of the shipped one, of a published one such as `DiT-XL/2` (with `-512` for
  /// the larger images) in `pretrained_models` or here under the name that it was published with, or
  /// the path that was given.
  private static func path(of name: String) throws -> String {
    func absolute(_ path: String) -> String {
      URL(fileURLWithPath: path).standardizedFileURL.path
    }
    var path =
      name == demo
      ? DemoAssets.directory.appending(path: "model.safetensors").path : absolute(name)
    let isLarge = name.hasSuffix("-512")
    let published = isLarge ? String(name.dropLast(4)) : name
    if DiTConfig(named: published) != nil, !FileManager.default.fileExists(atPath: path) {
      let side = isLarge ? 512 : 256
      let file = "\(published.replacing("/", with: "-"))-\(side)x\(side).pt"
      let places = ["pretrained_models/\(file)", file]
      guard let place = places.first(where: FileManager.default.fileExists(atPath:)) else {
        throw FileError(
          "\(name): there is neither '\(places[0])' nor '\(file)'; put the published weights there"
            + " or give the path of a file")
      }
      path = absolute(place)
    }
    guard FileManager.default.fileExists(atPath: path) else {
      throw FileError(
        "\(name): there is no such file; give '\(demo)', the path of a DiT's weights (.safetensors,"
          + " .pt), or a folder of diffusers")
    }
    return path
  }

  /// Opens a model by its name alone, with what its file does not tell.
  ///
  /// - Parameters:
  ///   - name: As models are called.
  ///   - numHeads: Attention heads, if they cannot be told otherwise.
  /// - Returns: The open model.
  /// - Throws: `FileError` if there is no such model.
  package static func open(_ name: String, numHeads: Int? = nil) throws -> DiTFile {
    let (path, container) = try place(of: name)
    return try DiTFile(path: path, container: container, numHeads: numHeads)
  }

  /// The file of a model's weights, which need not be a DiT.
  ///
  /// - Parameter name: As models are called.
  /// - Returns: A path, and the entry of a training checkpoint that the name chooses.
  /// - Throws: `FileError` for a folder without a model.
  package static func weights(of name: String) throws -> (path: String, container: String?) {
    let isFile = name != demo && FileManager.default.fileExists(atPath: name)
    let (path, container) = isFile ? (name, nil) : try place(of: name)
    guard DiffusersFolder.isFolder(path) else { return (path, container) }
    return (try DiffusersFolder.weights(in: try DiffusersFolder(path).transformer), container)
  }

  /// Opens the model's file.
  package func open() throws -> DiTFile { try DiTFile(path: modelPath, container: container) }

  /// The model as a plan refers to it; reads the whole file once for its hash.
  ///
  /// - Throws: `FileError` for a model that is itself a graft: plans are for pretrained ones.
  package func reference() throws -> ModelReference {
    let file = try open()
    if let plan = try file.plan() {
      throw FileError(
        "\(modelPath): expected a pretrained model, found a graft of \(plan.model.path), which cannot"
          + " be grafted again; make one plan of all changes for \(plan.model.path)")
    }
    return ModelReference(path: name, shape: file.shape, contentHash: try contentHash())
  }

  /// Names what the model computes; an entry other than the usual one of a training checkpoint is part
  /// of it.
  package func contentHash() throws -> String {
    let file = try open()
    var hash = try ContentHash.sha256(paths: file.files, keptIn: Self.cachePath)
    let taken = file.tensors.container
    if let taken, try StateDict(file.tensors.file).container != taken {
      hash = ContentHash.sha256(Data("\(hash)#\(taken)".utf8))
    }
    return hash
  }

  /// Loads the autoencoder.
  ///
  /// - Parameter precision: What its large convolutions multiply in.
  /// - Returns: The autoencoder.
  /// - Throws: `FileError` if there is none beside the model, or one of other latents.
  package func autoencoder(_ precision: Precision) throws -> AutoencoderKL {
    guard let autoencoderPath else {
      throw FileError(
        "\(modelPath): no 'autoencoder.safetensors' beside it and no folder 'vae'; put the model's autoencoder there"
      )
    }
    let autoencoder = try AutoencoderKL(path: autoencoderPath, precision: precision)
    let (channels, expected) = (autoencoder.config.latentChannels, try open().config.inChannels)
    guard channels == expected else {
      throw FileError(
        "\(autoencoderPath): has \(channels) latent channels, \(modelPath) has \(expected); "
          + "put the model's own autoencoder there")
    }
    return autoencoder
  }

  /// The folder for things that can be computed again: `$XDG_CACHE_HOME/espalier`.
  package static func cacheDirectory() throws -> String {
    let path = cachePath
    try AtomicFile.makeDirectory(path)
    return path
  }

  /// Where that folder is or would be.
  package static var cachePath: String {
    let environment = ProcessInfo.processInfo.environment
    let base =
      environment["XDG_CACHE_HOME"].flatMap { $0.hasPrefix("/") ? $0 : nil }
      ?? NSHomeDirectory() + "/.cache"
    return base + "/espalier"
  }
}
