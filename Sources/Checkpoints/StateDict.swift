import Files

/// One state dict of a checkpoint, under the names of the module that it belongs to.
///
/// Training checkpoints hold several: `ema` is taken before `model` before `state_dict`, as samplers
/// do; released grafted models have `ema` alone. Wrapper prefixes (`module.`, `_orig_mod.`) are
/// stripped. Files of one plain state dict are passed on as they are.
package final class StateDict: TensorFile {
  /// The file.
  package let file: any TensorFile
  /// The entry that was chosen; nil if the file is one plain state dict.
  package let container: String?
  /// The wrapper prefixes that were stripped.
  package let strippedPrefixes: [String]
  package let names: [String]
  private let entries: [String: TensorEntry]

  /// The entries that hold a model's weights, best first.
  package static let containers = ["ema", "model", "state_dict"]

  /// The first parts of the names of a file that has containers, in the file's order.
  package static func topLevelKeys(of file: any TensorFile) -> [String] {
    var seen: Set<Substring> = []
    return file.names.compactMap { name in
      let key = name.prefix { $0 != "." }
      return seen.insert(key).inserted ? String(key) : nil
    }
  }

  /// Chooses a state dict.
  ///
  /// - Parameters:
  ///   - file: The checkpoint.
  ///   - container: The entry to take instead of the usual one; dots lead into nested ones.
  /// - Throws: `FileError` if there is no such entry.
  package init(_ file: any TensorFile, container: String? = nil) throws(FileError) {
    let keys = Self.topLevelKeys(of: file)
    if let container, !file.names.contains(where: { $0.hasPrefix(container + ".") }) {
      throw FileError(
        "\(file.path): has no entry '\(container)' with tensors; choose one of"
          + " \(keys.prefix(8).joined(separator: ", "))")
    }
    let chosen = container ?? Self.containers.first { keys.contains($0) && file.entry($0) == nil }
    let prefix = chosen.map { $0 + "." } ?? ""
    let own = file.names.filter { $0.hasPrefix(prefix) }
    var shorts = own.map { String($0.dropFirst(prefix.count)) }
    var stripped: [String] = []
    for wrapper in ["module.", "_orig_mod.", "module."]
    where !shorts.isEmpty && shorts.allSatisfy({ $0.hasPrefix(wrapper) }) {
      shorts = shorts.map { String($0.dropFirst(wrapper.count)) }
      stripped.append(wrapper)
    }
    // Modules may also be compiled one by one, inside of others.
    if shorts.contains(where: { $0.contains("_orig_mod.") }) {
      shorts = shorts.map { $0.replacing("_orig_mod.", with: "") }
      stripped.append("_orig_mod.")
    }
    var entries: [String: TensorEntry] = [:]
    for (name, short) in zip(own, shorts) {
      guard let entry = file.entry(name) else { continue }
      guard entries.updateValue(entry.renamed(short), forKey: short) == nil else {
        throw FileError(
          "\(file.path): two tensors are called '\(short)' without their prefixes;"
            + " save the state dict of the unwrapped model")
      }
    }
    self.file = file
    self.container = chosen
    strippedPrefixes = stripped
    names = shorts
    self.entries = entries
  }

  package var path: String { file.path }
  package var format: String { file.format }
  package var files: [String] { file.files }
  package var metadata: [String: String] { file.metadata }
  package var values: [String: PlainValue] { file.values }

  package func entry(_ name: String) -> TensorEntry? { entries[name] }

  package func withBytes<Result>(
    of entry: TensorEntry, _ body: (UnsafeRawBufferPointer) -> Result
  ) throws(FileError) -> Result {
    try file.withBytes(of: entry, body)
  }
}
