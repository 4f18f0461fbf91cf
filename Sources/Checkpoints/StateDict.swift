import Files

/// One state dict of a checkpoint, with the names of its module.
///
/// Training checkpoints hold several: averaged weights are preferred, as in samplers; released
/// grafted models have `ema` only. Wrapper prefixes (`module.`, `_orig_mod.`, those of FSDP) are stripped.
/// Files with one plain state dict are unchanged.
package final class StateDict: TensorFile {
  /// The file.
  package let file: any TensorFile
  /// The selected entry; nil if the file is a plain state dict.
  package let container: String?
  /// The wrapper prefixes that were stripped.
  package let strippedPrefixes: [String]
  /// Whether the entry is the default selection.
  package let isUsual: Bool
  /// Sentence naming the state dict selected by default; nil if there was only one.
  package let note: String?
  package let names: [String]
  /// The file's entries by the names here.
  private let entries: [String: TensorEntry]

  /// Entries with the weights of a model, preferred ones first.
  private static let containers = ["ema", "model", "state_dict"]
  private static let wrappers = Set(["module"] + nested)
  /// Wrappers that may enclose single modules too: compilation, FSDP and activation checkpoints.
  private static let nested: [Substring] = [
    "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module",
  ]

  /// Top-level keys of a file with containers, in file order.
  package static func topLevelKeys(of file: any TensorFile) -> [String] {
    var seen: Set<Substring> = []
    return file.names.compactMap { name in
      let key = name.prefix { $0 != "." }
      return seen.insert(key).inserted ? String(key) : nil
    }
  }

  /// Selects a state dict.
  ///
  /// - Parameters:
  ///   - file: The checkpoint.
  ///   - container: The entry; dots separate nested keys; nil selects the default.
  ///   - anchors: Tensors that a model of interest has one of: state dicts are then found below whatever
  ///     names stand in front of them.
  /// - Throws: `FileError` if the entry is missing, or the selection is ambiguous.
  package init(
    _ file: any TensorFile, container: String? = nil, anchors: [String] = []
  ) throws(FileError) {
    let keys = Self.topLevelKeys(of: file)
    if let container, !file.names.contains(where: { $0.hasPrefix(container + ".") }) {
      throw FileError(
        "\(file.path): has no entry '\(container)' with tensors; choose one of"
          + " \(keys.prefix(8).joined(separator: ", "))")
    }
    if container == nil {
      for name in Self.containers {
        if keys.contains(name) && file.entry(name) == nil { break }
        guard case .object(let kind) = file.values[name] else { continue }
        throw FileError(
          "\(file.path): entry '\(name)' is an object of class \(kind), expected a dictionary of tensors;"
            + " save its state_dict(), or name another entry, such as FILE#model")
      }
    }
    var prefixes = Self.prefixes(of: anchors, in: file.names)
    if prefixes.isEmpty {
      try Self.refuseNamelessAndForeign(file, anchors)
      let usual = Self.containers.first { keys.contains($0) && file.entry($0) == nil }
      prefixes = [usual.map { $0 + "." } ?? ""]
    }
    var asked = prefixes
    if let container {
      asked = prefixes.filter { $0.hasPrefix(container + ".") }
      if asked.isEmpty { asked = [container + "."] }
    }
    let prefix = try Self.best(of: asked, in: file)
    try Self.refuseForeignWeights(file, prefix, anchors)
    try Self.refusePartitioned(file, prefix, anchors)
    let own = prefix.isEmpty ? file.names : file.names.filter { $0.hasPrefix(prefix) }
    var shorts = own.map { String($0.dropFirst(prefix.count)) }
    var parts = prefix.split(separator: ".")
    var stripped: [String] = []
    while let last = parts.last, Self.wrappers.contains(last) {
      stripped.insert("\(parts.removeLast()).", at: 0)
    }
    for wrapper in ["module.", "_orig_mod.", "module."]
    where !shorts.isEmpty && shorts.allSatisfy({ $0.hasPrefix(wrapper) }) {
      shorts = shorts.map { String($0.dropFirst(wrapper.count)) }
      stripped.append(wrapper)
    }
    for wrapper in Self.nested.map({ "\($0)." })
    where shorts.contains(where: { $0.contains(wrapper) }) {
      shorts = shorts.map { $0.replacing(wrapper, with: "") }
      stripped.append(wrapper)
    }
    var entries: [String: TensorEntry] = [:]
    for (name, short) in zip(own, shorts) {
      guard let entry = file.entry(name) else { continue }
      guard entries.updateValue(entry, forKey: short) == nil else {
        throw FileError(
          "\(file.path): two tensors are called '\(short)' without their prefixes;"
            + " save the state dict of the unwrapped model")
      }
    }
    let known = Self.flattenedAverages(in: file, of: own, prefix)
    let averages = container == nil ? known : [:]
    for (name, average) in averages {
      if let place = own.firstIndex(of: name), let entry = file.entry(average) {
        entries[shorts[place]] = entry
      }
    }
    self.file = file
    self.container = parts.isEmpty ? nil : parts.joined(separator: ".")
    strippedPrefixes = stripped
    isUsual =
      container == nil || known.isEmpty && prefix == (try? Self.best(of: prefixes, in: file))
    let others = prefixes.filter { $0 != prefix && !$0.isEmpty }
      .map { "\(file.path)#\($0.dropLast())" }.prefix(4).joined(separator: ", ")
    let names = others.isEmpty ? "" : "; \(others) names another"
    let trained =
      prefix.isEmpty ? "" : "; \(file.path)#\(prefix.dropLast()) names the weights as trained"
    let taken = parts.joined(separator: ".")
    let averaged =
      "\(file.path): the averages in '\(Self.flattened)' are taken for \(averages.count) of \(own.count) tensors"
      + trained
    if container != nil {
      note = nil
    } else if !averages.isEmpty {
      note = averaged
    } else if prefixes.count > 1 {
      note = "\(file.path): of several models in it '\(taken)' is taken\(names)"
    } else if !prefix.isEmpty, !anchors.isEmpty,
      !prefix.split(separator: ".").contains(where: Self.isAverage)
    {
      note = Self.unusedAverages(file, prefixes).map {
        "\(file.path): '\($0)' holds averages that are no whole model with names, so '\(taken)'"
          + " is taken, the weights as trained"
      }
    } else {
      note = nil
    }
    self.names = shorts
    self.entries = entries
  }

  /// Entry of averages whose names have no dots, as latent-diffusion keeps them.
  private static let flattened = "model_ema"

  /// The averages of tensors below a prefix, by the names of those, if latent-diffusion's `LitEma` keeps them beside
  /// the model: under the name of the parameter in the enclosing module, without dots.
  private static func flattenedAverages(
    in file: any TensorFile, of names: [String], _ prefix: String
  ) -> [String: String] {
    let counter = "\(flattened).num_updates"
    guard let found = file.names.first(where: { $0.contains(counter) }) else { return [:] }
    let root = String(found.dropLast(counter.count))
    guard prefix.hasPrefix(root) else { return [:] }
    // The averaged module is that which has them, such as `state_dict.model.`.
    var enclosing = prefix
    while enclosing.count >= root.count {
      let found = names.compactMap { name -> (String, String)? in
        let average =
          root + "\(flattened)." + name.dropFirst(enclosing.count).replacing(".", with: "")
        guard let entry = file.entry(average) else { return nil }
        return entry.shape == file.entry(name)?.shape ? (name, average) : nil
      }
      if !found.isEmpty { return Dictionary(uniqueKeysWithValues: found) }
      guard enclosing.count > root.count else { break }
      let parts = enclosing.dropLast().split(separator: ".", omittingEmptySubsequences: false)
      enclosing = parts.dropLast().map { "\($0)." }.joined()
    }
    return [:]
  }

  /// Throws if weights of the chosen model are objects that are no dense tensors.
  private static func refuseForeignWeights(
    _ file: any TensorFile, _ prefix: String, _ anchors: [String]
  ) throws(FileError) {
    guard !anchors.isEmpty else { return }
    let modules = Set(
      file.names.filter { $0.hasPrefix(prefix) }
        .compactMap { $0.dropFirst(prefix.count).split(separator: ".").first })
    for name in file.values.keys.sorted() where name.hasPrefix(prefix) {
      guard case .object(let kind) = file.values[name],
        name.hasSuffix(".weight") || name.hasSuffix(".bias"),
        modules.contains(name.dropFirst(prefix.count).prefix { $0 != "." })
      else { continue }
      throw foreign(name, kind, file)
    }
  }

  /// Throws if a file without any model has one whose weights are no tensors, or have no names.
  private static func refuseNamelessAndForeign(
    _ file: any TensorFile, _ anchors: [String]
  ) throws(FileError) {
    let name = file.values.keys.sorted().first { name in
      anchors.contains { name == $0 || name.hasSuffix("." + $0) }
    }
    if let name, case .object(let kind) = file.values[name] { throw foreign(name, kind, file) }
    guard !anchors.isEmpty else { return }
    for (sign, what) in nameless {
      guard let name = file.names.first(where: { $0.contains(sign) }) else { continue }
      throw FileError("\(file.path): '\(name)' is one of \(what)")
    }
  }

  /// Parts of names of tensors that hold weights without their names or shapes, what they are, and what to do.
  private static let nameless = [
    (
      "shadow_params.",
      "averages without names, as diffusers' EMAModel and torch_ema keep them; copy them into the model"
        + " (ema.copy_to(model.parameters())) and save its state_dict()"
    ),
    (
      "_flat_param",
      "weights that FSDP flattened; save the model with StateDictType.FULL_STATE_DICT"
    ),
    ("fp32_groups", partitions), ("fp32_flat_groups", partitions),
  ]
  private static let partitions =
    "a DeepSpeed optimizer's partitions; run the zero_to_fp32.py beside it and name what it writes"

  /// Throws for a model whose tensors are empty, as DeepSpeed's ZeRO stage 3 leaves them in its files of models.
  private static func refusePartitioned(
    _ file: any TensorFile, _ prefix: String, _ anchors: [String]
  ) throws(FileError) {
    for anchor in anchors {
      guard let entry = file.entry(prefix + anchor), entry.count == 0 else { continue }
      throw FileError(
        "\(file.path): tensor '\(entry.name)' is empty, as in files of DeepSpeed's ZeRO stage 3, which partitions"
          + " weights; run the zero_to_fp32.py beside it and name what it writes")
    }
  }

  /// Entry of averages that are those of no model by name; nil if there is none.
  private static func unusedAverages(_ file: any TensorFile, _ prefixes: [String]) -> String? {
    let name = file.names.first { name in
      !prefixes.contains(where: name.hasPrefix)
        && name.split(separator: ".").dropLast().contains(where: isAverage)
    }
    guard let parts = name?.split(separator: "."), let end = parts.firstIndex(where: isAverage)
    else { return nil }
    return parts[...end].joined(separator: ".")
  }

  /// Whether a part of a tensor's name is that of averaged weights.
  private static func isAverage(_ part: Substring) -> Bool {
    part == "shadow_params" || part.split(separator: "_").contains("ema")
  }

  private static func foreign(_ name: String, _ kind: String, _ file: any TensorFile) -> FileError {
    FileError(
      "\(file.path): '\(name)' is \(kind), expected a dense tensor of numbers; save it as one"
        + " (torch.from_numpy, to_dense, dequantize)")
  }

  /// Distinct prefixes of the models among names.
  private static func prefixes(of anchors: [String], in names: [String]) -> [String] {
    var seen: Set<String> = []
    return names.compactMap { name in
      guard let anchor = anchors.first(where: { name == $0 || name.hasSuffix("." + $0) }) else {
        return nil
      }
      let prefix = String(name.dropLast(anchor.count))
      return seen.insert(prefix).inserted ? prefix : nil
    }
  }

  /// Prefix of the preferred model: averaged weights first, then by known names.
  private static func best(
    of prefixes: [String], in file: any TensorFile
  ) throws(FileError) -> String {
    func rank(_ prefix: String) -> Int {
      let parts = prefix.split(separator: ".").filter { !wrappers.contains($0) }
      let averages = parts.count(where: isAverage)
      if averages > 0 { return (parts.contains("ema") ? 1 : 2) - averages }
      if parts.isEmpty { return 2 }
      return containers.firstIndex(of: String(parts[0])).map { 3 + $0 } ?? 3 + containers.count
    }
    let ranked = prefixes.map { (prefix: $0, rank: rank($0)) }
    guard let lowest = ranked.map(\.rank).min() else { return "" }
    let best = ranked.filter { $0.rank == lowest }.map(\.prefix)
    guard best.count == 1 else {
      throw FileError(
        "\(file.path): holds several models, and nothing tells which is meant; choose one of"
          + " \(best.prefix(8).map { "\(file.path)#\($0.dropLast())" }.joined(separator: ", "))")
    }
    return best[0]
  }

  /// Makes a state dict of the same entries under other names.
  private init(_ other: StateDict, names: [String], entries: [String: TensorEntry]) {
    (file, container, note) = (other.file, other.container, other.note)
    (strippedPrefixes, isUsual) = (other.strippedPrefixes, other.isUsual)
    (self.names, self.entries) = (names, entries)
  }

  /// The same tensors under other names.
  ///
  /// - Parameter map: Gives a tensor's new name, distinct from all others; nil leaves the tensor out.
  /// - Returns: The renamed state dict.
  package func renamed(_ map: (String) -> String?) -> StateDict {
    var entries: [String: TensorEntry] = [:]
    let names = names.compactMap { name in
      let new = map(name)
      if let new { entries[new] = self.entries[name] }
      return new
    }
    return StateDict(self, names: names, entries: entries)
  }

  package var path: String { file.path }
  package var format: String { file.format }
  package var files: [String] { file.files }
  package var metadata: [String: String] { file.metadata }
  package var values: [String: PlainValue] { file.values }

  package func entry(_ name: String) -> TensorEntry? { entries[name]?.renamed(name) }

  package func isMapped(_ entry: TensorEntry) -> Bool {
    file.isMapped(entries[entry.name] ?? entry)
  }

  package func withBytes<Result>(
    of entry: TensorEntry, _ body: (UnsafeRawBufferPointer) -> Result
  ) throws(FileError) -> Result {
    try file.withBytes(of: entries[entry.name] ?? entry, body)
  }
}
