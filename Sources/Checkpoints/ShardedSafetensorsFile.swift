import Files
import Foundation

/// A model in several safetensors files that an index names (`….safetensors.index.json`).
package final class ShardedSafetensorsFile: TensorFile {
  package let path: String
  package let format = "sharded safetensors"
  package let names: [String]
  package let metadata: [String: String]
  private let shards: [SafetensorsFile]
  private let entries: [String: TensorEntry]

  private struct Index: Decodable {
    let weightMap: [String: String]
    private enum CodingKeys: String, CodingKey { case weightMap = "weight_map" }
  }

  private static let indexLimit = 16 << 20

  /// Reads the index and opens every file that it names.
  ///
  /// - Throws: `FileError` when the index or a file is damaged, or a tensor is not where the
  ///   index says.
  package init(index path: String) throws(FileError) {
    let text = try AtomicFile.read(path, limit: Self.indexLimit)
    guard let map = try? JSONDecoder().decode(Index.self, from: Data(text)).weightMap, !map.isEmpty
    else {
      throw FileError(
        "\(path): has no \"weight_map\" of tensor names to file names;"
          + " name the index of a sharded safetensors model")
    }
    let fileNames = Set(map.values).sorted()
    if let bad = fileNames.first(where: { $0.contains("/") || !$0.hasSuffix(".safetensors") }) {
      throw FileError(
        "\(path): names the shard \(bad.jsonQuoted), expected a safetensors file in the same folder;"
          + " fetch the index again")
    }
    var shards: [SafetensorsFile] = []
    for name in fileNames {
      shards.append(try SafetensorsFile(path: "\(AtomicFile.directory(of: path))/\(name)"))
    }
    var entries: [String: TensorEntry] = [:]
    var names: [String] = []
    for (number, shard) in shards.enumerated() {
      for name in shard.names where map[name] == fileNames[number] {
        guard let entry = shard.entry(name) else { continue }
        names.append(name)
        entries[name] = TensorEntry(
          name: name, dtype: entry.dtype, shape: entry.shape, storage: number, offset: entry.offset)
      }
    }
    if let lost = map.keys.sorted().first(where: { entries[$0] == nil }) {
      throw FileError(
        "\(path): tensor \"\(lost)\" is not in the shard \"\(map[lost] ?? "")\";"
          + " fetch the index and its shards again")
    }
    self.path = path
    self.names = names
    self.shards = shards
    self.entries = entries
    metadata = shards[0].metadata
  }

  package var files: [String] { [path] + shards.map(\.path) }

  package func entry(_ name: String) -> TensorEntry? { entries[name] }

  package func withBytes<Result>(
    of entry: TensorEntry, _ body: (UnsafeRawBufferPointer) -> Result
  ) throws(FileError) -> Result {
    try shards[entry.storage].withBytes(of: entry, body)
  }
}
