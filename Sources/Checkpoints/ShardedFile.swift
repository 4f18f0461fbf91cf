import Files
import Foundation

/// Model in several files listed by an index (`….safetensors.index.json`, `….bin.index.json`, with
/// a variant such as `fp16` before or after `index`).
package final class ShardedFile: TensorFile {
  package let path: String
  package let format: String
  package let names: [String]
  package let metadata: [String: String]
  private let shards: [any TensorFile]
  /// The shard of each tensor.
  private let places: [String: Int]

  private struct Index: Decodable {
    let weightMap: [String: String]
    private enum CodingKeys: String, CodingKey { case weightMap = "weight_map" }
  }

  private static let indexLimit = 16 << 20

  /// Reads the index and opens all listed files.
  ///
  /// - Throws: `FileError` when the index or a file is damaged, or a tensor is not where the
  ///   index says.
  package init(index path: String) throws(FileError) {
    let text = try AtomicFile.read(path, limit: Self.indexLimit)
    guard let map = try? JSONDecoder().decode(Index.self, from: Data(text)).weightMap, !map.isEmpty
    else {
      throw FileError(
        "\(path): has no \"weight_map\" of tensor names to file names;"
          + " name the index of a sharded model")
    }
    let fileNames = Set(map.values).sorted()
    if let bad = fileNames.first(where: { $0.contains("/") || $0.hasSuffix(".json") }) {
      throw FileError(
        "\(path): names the shard \(bad.jsonQuoted), expected a file of weights in the same folder;"
          + " fetch the index again")
    }
    var shards: [any TensorFile] = []
    for name in fileNames {
      shards.append(try Checkpoint.open("\(AtomicFile.directory(of: path))/\(name)"))
    }
    var places: [String: Int] = [:]
    var names: [String] = []
    for (number, shard) in shards.enumerated() {
      for name in shard.names where map[name] == fileNames[number] {
        names.append(name)
        places[name] = number
      }
    }
    if let lost = map.keys.sorted().first(where: { places[$0] == nil }) {
      throw FileError(
        "\(path): tensor \"\(lost)\" is not in the shard \"\(map[lost] ?? "")\";"
          + " fetch the index and its shards again")
    }
    self.path = path
    self.names = names
    self.shards = shards
    self.places = places
    format = "sharded \(shards[0].format)"
    metadata = shards[0].metadata
  }

  package var files: [String] { [path] + shards.map(\.path) }

  package func entry(_ name: String) -> TensorEntry? {
    places[name].flatMap { shards[$0].entry(name) }
  }

  package func isMapped(_ entry: TensorEntry) -> Bool {
    places[entry.name].map { shards[$0].isMapped(entry) } ?? false
  }

  package func withBytes<Result>(
    of entry: TensorEntry, _ body: (UnsafeRawBufferPointer) -> Result
  ) throws(FileError) -> Result {
    guard let shard = places[entry.name] else {
      throw FileError("\(path): has no tensor \"\(entry.name)\"; check that this is the right file")
    }
    return try shards[shard].withBytes(of: entry, body)
  }
}
