import Checkpoints
import Files
import Foundation
import Plans

/// Open weights of a model: a file of any format, or a folder of diffusers.
package struct ModelWeights {
  /// Name of the model in plans: `demo` or an absolute path, followed by `#` and the chosen entry
  /// of a training checkpoint.
  package let name: String
  /// The family that the name of the model states, if any.
  package let statedFamily: ModelFamily?
  /// Path of the weights, or of the index of a sharded model.
  package let path: String
  /// The folder of diffusers that the weights lie in, if it is one.
  package let folder: DiffusersFolder?
  /// The state dict without wrapper prefixes; names as in the file.
  package let tensors: StateDict
  /// Metadata of the file and of `NAME.json` next to it.
  package let metadata: [String: String]
  /// The files that were read.
  package let files: [String]

  /// Tensors present in every model of a family; their prefix is the entry of the model in a file.
  static let anchors = [
    "x_embedder.proj.weight", "transformer_blocks.0.norm1.linear.weight",
    "adaln_single.linear.weight",
  ]

  /// Opens weights.
  ///
  /// - Parameters:
  ///   - path: The file or folder.
  ///   - container: Entry of the checkpoint; nil selects the default.
  ///   - name: Name of the model in plans; nil selects the path.
  ///   - family: The family that the name of the model states, if any.
  /// - Throws: `FileError` if the file cannot be read, or the folder is not one of diffusers.
  package init(
    path: String, container: String? = nil, name: String? = nil, family: ModelFamily? = nil
  ) throws {
    (self.name, statedFamily) = (name ?? path, family)
    if DiffusersFolder.isFolder(path) {
      let folder = try DiffusersFolder(path)
      (self.folder, self.path) = (folder, try DiffusersFolder.weights(in: folder.transformer))
    } else {
      let own = AtomicFile.directory(of: path)
      let isOfFolder =
        AtomicFile.name(of: path).hasPrefix("diffusion_pytorch_model")
        && access("\(own)/config.json", F_OK) == 0
      (folder, self.path) = (isOfFolder ? try DiffusersFolder(own) : nil, path)
    }
    tensors = try StateDict(
      try Checkpoint.open(self.path), container: container, anchors: Self.anchors)
    let sidecar = Sidecar.path(of: self.path)
    let extra = try Sidecar.read(sidecar)
    metadata = tensors.metadata.merging(extra ?? [:]) { $1 }
    files = tensors.files + (extra == nil ? [] : [sidecar])
  }

  /// Refuses weights that are not those of the model alone, or quantised.
  func requirePlain() throws(FileError) {
    for name in tensors.names where name.hasSuffix(".weight") {
      if let entry = tensors.entry(name) { try tensors.requireFloats(entry) }
    }
    let scales = [
      ".SCB", ".absmax", ".scale_weight", ".weight_scale", ".scales", ".weight_scale_inv",
    ]
    if let name = tensors.names.first(where: { scales.contains(where: $0.hasSuffix) }) {
      throw FileError(
        "\(path): tensor '\(name)' is a scale of quantised weights, which are not read; save the model without"
          + " quantisation (dequantize)")
    }
    guard
      let name = tensors.names.first(where: {
        $0.contains(".lora_A.") || $0.contains(".lora_down.")
      })
    else { return }
    throw FileError(
      "\(path): tensor '\(name)' belongs to a LoRA adapter, and adapters are not applied; merge it into"
        + " the model (peft: merge_and_unload) and save that")
  }
}

/// Metadata file `NAME.json` for formats without metadata, an object of strings or objects.
package enum Sidecar {
  private static let sizeLimit = 16 << 20

  /// Path of the metadata of a file.
  package static func path(of file: String) -> String { file + ".json" }

  /// Reads the metadata; nil if there is none.
  ///
  /// - Throws: `FileError` if it is not a JSON object.
  static func read(_ path: String) throws -> [String: String]? {
    guard access(path, F_OK) == 0 else { return nil }
    let text = try AtomicFile.readJSON(path, limit: sizeLimit)
    guard let object = try? JSONSerialization.jsonObject(with: Data(text)),
      let table = object as? [String: Any]
    else { throw FileError("\(path): is no JSON object; correct it or remove it") }
    return try table.mapValues { value in
      if let text = value as? String { return text }
      let json = try JSONSerialization.data(
        withJSONObject: value, options: [.fragmentsAllowed, .sortedKeys])
      return String(decoding: json, as: UTF8.self)
    }
  }

  /// Writes the metadata of a file; values that are JSON become objects.
  ///
  /// - Throws: `FileError` if it cannot be written.
  package static func write(_ metadata: [String: String], beside file: String) throws {
    let values = metadata.mapValues { text -> Any in
      let object = try? JSONSerialization.jsonObject(with: Data(text.utf8))
      return object ?? text
    }
    let json = try JSONSerialization.data(
      withJSONObject: values, options: [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes])
    try AtomicFile.write(json, to: path(of: file))
  }
}
