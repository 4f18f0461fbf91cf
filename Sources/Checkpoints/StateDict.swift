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
    var prefixes = Self.prefixes(of: anchors, in: file)
    if prefixes.isEmpty {
      let usual = Self.containers.first { keys.contains($0) && file.entry($0) == nil }
      prefixes = [usual.map { $0 + "." } ?? ""]
    }
    var asked = prefixes
    if let container {
      asked = prefixes.filter { $0.hasPrefix(container + ".") }
      if asked.isEmpty { asked = [container + "."] }
    }
    let prefix = try Self.best(of: asked, in: file)
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
    self.file = file
    self.container = parts.isEmpty ? nil : parts.joined(separator: ".")
    strippedPrefixes = stripped
    isUsual = container == nil || prefix == (try? Self.best(of: prefixes, in: file))
    let others = prefixes.filter { $0 != prefix && !$0.isEmpty }
      .map { "\(file.path)#\($0.dropLast())" }.prefix(4).joined(separator: ", ")
    let names = others.isEmpty ? "" : "; \(others) names another"
    note =
      container == nil && prefixes.count > 1
      ? "\(file.path): of several models in it '\(self.container ?? "")' is taken\(names)" : nil
    self.names = shorts
    self.entries = entries
  }

  /// Distinct prefixes of the models in the file.
  private static func prefixes(of anchors: [String], in file: any TensorFile) -> [String] {
    var seen: Set<String> = []
    return file.names.compactMap { name in
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
      if parts.contains("ema") { return 0 }
      if parts.contains(where: { $0.split(separator: "_").contains("ema") }) { return 1 }
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
