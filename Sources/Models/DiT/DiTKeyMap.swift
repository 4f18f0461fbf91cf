import Checkpoints
import Files
import Nn
import TensorCore

/// Parameter naming of DiT checkpoints.
package enum DiTNaming: String, CaseIterable, Sendable {
  /// Names of facebookresearch/DiT, used by the engine.
  case official
  /// Names of `DiTTransformer2DModel` in diffusers: separate queries, keys and values, no position
  /// table, and a copy of the timestep and label embedders in every block.
  case diffusers
}

/// Translates official parameter names to those of diffusers.
package enum DiTKeyMap {
  /// The embedders, which diffusers stores in every block.
  private static let embedders = [
    "t_embedder.mlp.0.": "norm1.emb.timestep_embedder.linear_1.",
    "t_embedder.mlp.2.": "norm1.emb.timestep_embedder.linear_2.",
    "y_embedder.embedding_table.": "norm1.emb.class_embedder.embedding_table.",
  ]
  private static let ends = [
    "x_embedder.proj.": "pos_embed.proj.", "final_layer.adaLN_modulation.1.": "proj_out_1.",
    "final_layer.linear.": "proj_out_2.",
  ]
  private static let insideBlocks = [
    "adaLN_modulation.1.": ["norm1.linear."],
    "attn.qkv.": ["attn1.to_q.", "attn1.to_k.", "attn1.to_v."],
    "attn.proj.": ["attn1.to_out.0."], "mlp.fc1.": ["ff.net.0.proj."], "mlp.fc2.": ["ff.net.2."],
  ]

  /// The position table, which diffusers computes; some releases also stored it.
  static let positionTable = "pos_embed"
  static let storedPositionTable = "pos_embed.pos_embed"

  /// Returns the diffusers keys whose rows concatenate to an official parameter.
  ///
  /// - Parameters:
  ///   - official: The official name.
  ///   - block: Block of the copy of the embedders.
  /// - Returns: One key, three for queries, keys and values, none for the position table; nil for a
  ///   name without equivalent in diffusers.
  package static func diffusersKeys(_ official: String, embeddersOf block: Int = 0) -> [String]? {
    if official == positionTable { return [] }
    for (start, other) in ends where official.hasPrefix(start) {
      return [other + official.dropFirst(start.count)]
    }
    for (start, other) in embedders where official.hasPrefix(start) {
      return ["transformer_blocks.\(block).\(other)\(official.dropFirst(start.count))"]
    }
    let parts = official.split(separator: ".", maxSplits: 2)
    guard parts.count == 3, parts[0] == "blocks", let index = Int(parts[1]) else { return nil }
    for (start, others) in insideBlocks where parts[2].hasPrefix(start) {
      return others.map { "transformer_blocks.\(index).\($0)\(parts[2].dropFirst(start.count))" }
    }
    return nil
  }

  /// Weight source of official keys over weights with diffusers names; other names are the same in both.
  package static func renamed(_ weights: any WeightSource) -> RenamedWeights {
    RenamedWeights(weights) { diffusersKeys($0) ?? [$0] }
  }

  /// Whether an official parameter belongs to the embedders, which diffusers stores in every block.
  package static func isEmbedder(_ official: String) -> Bool {
    embedders.keys.contains(where: official.hasPrefix)
  }

  /// Whether a file's names are those of diffusers.
  static func isDiffusers(_ file: any TensorFile) -> Bool {
    file.entry("transformer_blocks.0.norm1.linear.weight") != nil
  }

  /// Throws if the embedders differ between blocks, because the official model shares one.
  static func requireSharedEmbedders(_ file: any TensorFile, depth: Int) throws(FileError) {
    for start in embedders.keys.sorted() {
      for name in [start + "weight", start + "bias"] {
        guard let first = diffusersKeys(name)?.first, file.entry(first) != nil else { continue }
        let expected = try file.floats(first)
        for block in 1..<max(1, depth) {
          guard let key = diffusersKeys(name, embeddersOf: block)?.first, file.entry(key) != nil
          else { continue }
          guard try file.floats(key) == expected else {
            throw FileError(
              "\(file.path): tensor '\(key)' differs from '\(first)', but a DiT has one embedder for"
                + " all blocks; use weights that were converted from a DiT")
          }
        }
      }
    }
  }
}
