import Autograd
import Checkpoints
import Files
import Foundation
import TensorCore

/// File of low-rank adapters (LoRA) of another program: peft, diffusers or OneTrainer, in any of their namings.
///
/// The scale of an adapter is alpha / rank, or alpha / sqrt(rank) with rslora. Alpha is that of `adapter_config.json`
/// beside the file, otherwise of the metadata entry `lora_adapter_metadata`, otherwise of the tensor
/// `MODULE.alpha`; without any it is peft's default of 8 with an `adapter_config.json`, else the rank.
package struct LoRAFile {
  /// Adapter of one linear layer or convolution.
  package struct Adapter {
    /// A (rank, in) and B (out, rank); those of convolutions are flattened.
    package let down, up: Tensor
    package let scale: Float
  }

  package let path: String
  /// Adapters by module as the file names it, without the prefixes of programs.
  package let adapters: [String: Adapter]

  /// Endings of A, B and alpha.
  private static let downs = [
    ".lora_A.weight", ".lora_A.default.weight", ".lora.down.weight", ".lora_down.weight",
  ]
  private static let ups = [
    ".lora_B.weight", ".lora_B.default.weight", ".lora.up.weight", ".lora_up.weight",
  ]
  private static let prefixes = [
    "base_model.model.", "unet.", "transformer.", "model.diffusion_model.", "diffusion_model.",
    "lora_transformer_", "lora_unet_",
  ]

  /// Whether names of tensors are those of adapters without the model that they belong to.
  static func isAdapter(_ names: [String]) -> Bool {
    !names.isEmpty
      && names.allSatisfy { name in
        (downs + ups).contains(where: name.hasSuffix) || name.hasSuffix(".alpha")
          || name.contains("lora_magnitude_vector")
      }
  }

  /// Opens a file, or a folder with `adapter_model.safetensors` or `pytorch_lora_weights.safetensors`.
  ///
  /// - Throws: `FileError` for a file without adapters, an incomplete one, and kinds that are not supported.
  package init(path: String) throws {
    var place = path
    if DiffusersFolder.isFolder(path) {
      let names = [
        "adapter_model.safetensors", "pytorch_lora_weights.safetensors", "adapter_model.bin",
      ]
      guard let name = names.first(where: { access("\(path)/\($0)", F_OK) == 0 }) else {
        throw FileError(
          "\(path): holds no LoRA adapter, expected \(names.joined(separator: " or ")); name the file"
        )
      }
      place = "\(path)/\(name)"
    }
    let file = try Checkpoint.open(place)
    self.path = place
    let config = try Config(of: file)
    var found: [String: [String: String]] = [:]
    for name in file.names {
      guard !name.contains("lora_magnitude_vector") else {
        throw FileError(
          "\(place): tensor '\(name)' is a magnitude of DoRA, which is not supported; merge the adapter"
            + " with peft (merge_and_unload) and use the merged model")
      }
      for (kind, endings) in [("down", Self.downs), ("up", Self.ups), ("alpha", [".alpha"])] {
        guard let ending = endings.first(where: name.hasSuffix) else { continue }
        found[Self.module(String(name.dropLast(ending.count))), default: [:]][kind] = name
      }
      guard
        (Self.downs + Self.ups + [".alpha"]).contains(where: name.hasSuffix)
      else {
        throw FileError(
          "\(place): tensor '\(name)' is no part of a LoRA adapter, expected names such as"
            + " 'MODULE.lora_A.weight'; give a file of adapters alone")
      }
    }
    guard !found.isEmpty else {
      throw FileError("\(place): holds no tensors; give a file of LoRA adapters")
    }
    var adapters: [String: Adapter] = [:]
    for (module, names) in found {
      guard let down = names["down"], let up = names["up"] else {
        throw FileError(
          "\(place): the adapter of '\(module)' lacks \(names["down"] == nil ? "A" : "B"); save both matrices"
            + " of every adapter")
      }
      func matrix(_ name: String) throws(FileError) -> Tensor {
        let entry = try file.existing(name)
        guard entry.shape.count >= 2, entry.count > 0 else {
          throw FileError(
            "\(place): tensor '\(name)' has shape \(entry.shape), expected a matrix; fetch the file again"
          )
        }
        try file.requireFloats(entry)
        let rows = entry.shape[0]
        let tensor = Tensor(try file.floats(name), shape: [rows, entry.count / rows])
        guard tensor.isFinite else {
          throw FileError(
            "\(place): tensor '\(name)' holds values that are not finite; train the adapter again")
        }
        return tensor
      }
      let (a, b) = (try matrix(down), try matrix(up))
      let rank = a.shape[0]
      guard b.shape[1] == rank else {
        throw FileError(
          "\(place): '\(down)' has rank \(rank) and '\(up)' \(b.shape[1]); fetch the file again")
      }
      let alpha = try names["alpha"].map { name throws(FileError) in
        let values = try file.floats(name)
        guard values.count == 1 else {
          throw FileError(
            "\(place): tensor '\(name)' has \(values.count) elements, expected one number; fetch the file again"
          )
        }
        return values[0]
      }
      adapters[module] = Adapter(
        down: a, up: b, scale: try config.scale(of: module, rank: rank, alpha: alpha, in: place))
    }
    self.adapters = adapters
  }

  private static func module(_ name: String) -> String {
    var name = name[...]
    while let prefix = prefixes.first(where: name.hasPrefix) { name = name.dropFirst(prefix.count) }
    return String(name)
  }

  // MARK: - Application

  /// Finds the adapters of the parameters of a model, whose modules may have the names of the original repository or
  /// of diffusers, with underscores in place of dots as well.
  ///
  /// - Returns: For every adapted parameter one entry per part whose rows concatenate to it, nil where a part has none.
  /// - Throws: `FileError` for an adapter that fits no layer of the model.
  package func adapters(
    for model: any DiffusionTransformer
  ) throws(FileError) -> [(parameter: Parameter, parts: [Adapter?])] {
    var rest = adapters
    func take(_ module: String) -> Adapter? {
      rest.removeValue(forKey: module)
        ?? rest.removeValue(forKey: module.replacing(".", with: "_"))
    }
    var result: [(Parameter, [Adapter?])] = []
    for parameter in model.parameters {
      guard parameter.name.hasSuffix(".weight"), parameter.shape.count > 1 else { continue }
      let keys = [parameter.name]
      var parts: [Adapter?] = []
      for names in [keys, model.diffusersKeys(parameter.name)] where parts.allSatisfy({ $0 == nil })
      {
        parts = names.map { take(String($0.dropLast(".weight".count))) }
      }
      guard parts.contains(where: { $0 != nil }) else { continue }
      let rows = parameter.shape[0] / parts.count
      let columns = parameter.shape.dropFirst().reduce(1, *)
      for part in parts.compactMap(\.self)
      where part.up.shape[0] != rows || part.down.shape[1] != columns {
        throw FileError(
          "\(path): an adapter of '\(parameter.name)' is for a layer of \(part.down.shape[1]) inputs and"
            + " \(part.up.shape[0]) outputs, expected \(columns) and \(rows); use the model that it was trained"
            + " for")
      }
      result.append((parameter, parts))
    }
    if let module = rest.keys.min() {
      throw FileError(
        "\(path): the adapter of '\(module)' fits no layer of the model, which may be grafted there or of another"
          + " family; use the model that it was trained for")
    }
    return result
  }

  /// Adds the adapters to the weights of a model: W + scale alpha / rank B A.
  ///
  /// - Parameters:
  ///   - model: A model with float32 weights.
  ///   - strength: Factor of all scales.
  /// - Throws: `FileError` for an adapter that fits no layer of the model.
  package func merge(into model: any DiffusionTransformer, strength: Float = 1) throws(FileError) {
    for (parameter, parts) in try adapters(for: model) {
      let merged = parameter.value.copied()
      let (rows, columns) = (
        merged.shape[0] / parts.count, merged.shape.dropFirst().reduce(1, *)
      )
      for (index, part) in parts.enumerated() {
        guard let part else { continue }
        let up = part.up.copied()
        for element in 0..<up.count { up[element] *= part.scale * strength }
        Gemm.run(
          m: rows, n: columns, k: part.down.shape[0], a: up.pointer, b: part.down.pointer,
          accumulate: true, c: merged.pointer + index * rows * columns)
      }
      parameter.update { $0 = merged }
    }
  }

  // MARK: - Configuration

  /// Ranks and scales of `adapter_config.json` or of the metadata.
  private struct Config {
    private var alpha: Double?
    private var rankPattern: [String: Double] = [:]
    private var alphaPattern: [String: Double] = [:]
    private var rank: Double?
    private var isRootScaled = false
    /// Alpha where nothing states it; nil for the rank.
    private var usual: Double?
    /// Initialisations that replace the weights of the model by what the first adapter leaves of them.
    private static let changingStarts = ["pissa", "olora", "corda", "loftq", "lora_ga"]

    init(of file: any TensorFile) throws {
      let beside = "\(AtomicFile.directory(of: file.path))/adapter_config.json"
      var (table, origin): ([String: Any], String) = ([:], beside)
      if access(beside, F_OK) == 0 {
        let bytes = try AtomicFile.readJSON(beside, limit: 16 << 20)
        guard let object = try? JSONSerialization.jsonObject(with: Data(bytes)) as? [String: Any]
        else { throw FileError("\(beside): is no JSON object; fetch it again") }
        table = object
      } else if let text = file.metadata["lora_adapter_metadata"] {
        origin = "\(file.path) (lora_adapter_metadata)"
        guard
          let object = try? JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any]
        else { throw FileError("\(origin): is no JSON object; fetch the file again") }
        for (key, value) in object {
          table[
            ["transformer.", "unet."].first(where: key.hasPrefix).map {
              String(key.dropFirst($0.count))
            } ?? key] = value
        }
      } else {
        return
      }
      if let kind = table["peft_type"] as? String, kind.uppercased() != "LORA" {
        throw FileError(
          "\(origin): key 'peft_type' is '\(kind.prefix(40))', expected 'LORA'; merge the adapter with peft"
            + " and use the merged model")
      }
      for key in ["use_dora", "fan_in_fan_out", "use_qalora", "use_bdlora"]
      where table[key] as? Bool == true {
        throw FileError(
          "\(origin): key '\(key)' is true, which is not supported; merge the adapter with peft"
            + " (merge_and_unload) and use the merged model")
      }
      if let start = table["init_lora_weights"] as? String,
        let kind = Self.changingStarts.first(where: start.lowercased().hasPrefix)
      {
        throw FileError(
          "\(origin): key 'init_lora_weights' is '\(start.prefix(40))', and \(kind) changed the weights that the adapter"
            + " is added to; merge the adapter with peft (merge_and_unload) and use the merged model"
        )
      }
      func number(_ key: String, _ value: Any?) throws(FileError) -> Double? {
        guard let value, !(value is NSNull) else { return nil }
        if let number = value as? NSNumber { return number.doubleValue }
        throw FileError(
          "\(origin): key '\(key)' is \(String(describing: value).prefix(40)), expected a number; correct it"
        )
      }
      func pattern(_ key: String) throws(FileError) -> [String: Double] {
        var result: [String: Double] = [:]
        for (name, value) in table[key] as? [String: Any] ?? [:] {
          // Repeated groups, and many repetitions, can take the matcher for ever.
          guard !name.contains(#/\)[*+{]/#), name.count(where: "*+{".contains) <= 4 else {
            throw FileError(
              "\(origin): '\(key)' has '\(name.prefix(40))', which repeats groups or too much; name the modules"
            )
          }
          result[name] = try number("\(key).\(name)", value)
        }
        return result
      }
      (alpha, rank) = (try number("lora_alpha", table["lora_alpha"]), try number("r", table["r"]))
      if origin == beside { usual = 8 }
      isRootScaled = table["use_rslora"] as? Bool ?? false
      (rankPattern, alphaPattern) = (try pattern("rank_pattern"), try pattern("alpha_pattern"))
    }

    /// The value of a pattern whose key names the module or its end, as peft matches it.
    private func match(_ pattern: [String: Double], _ module: String) -> Double? {
      pattern.sorted { $0.key < $1.key }.first { key, _ in
        guard let expression = try? Regex("(.*\\.)?(\(key))$") else {
          return module == key || module.hasSuffix(".\(key)")
        }
        return (try? expression.wholeMatch(in: module)) != nil
      }?.value
    }

    func scale(
      of module: String, rank found: Int, alpha own: Float?, in path: String
    ) throws(FileError) -> Float {
      if let stated = match(rankPattern, module) ?? rank, Int(exactly: stated) != found {
        throw FileError(
          "\(path): the adapter of '\(module)' has rank \(found), but its configuration states"
            + " \(stated); use the adapter_config.json that belongs to it")
      }
      let alpha =
        match(alphaPattern, module) ?? alpha
        ?? own.map(Double.init) ?? usual ?? Double(found)
      guard alpha.isFinite else {
        throw FileError(
          "\(path): alpha of the adapter of '\(module)' is \(alpha), expected a number; train the adapter again"
        )
      }
      return Float(alpha / (isRootScaled ? Double(found).squareRoot() : Double(found)))
    }
  }
}
