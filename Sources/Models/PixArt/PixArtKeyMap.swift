/// Parameter namings of PixArt: that of the original repository, used by the model, and that of
/// diffusers' `PixArtTransformer2DModel`.
package enum PixArtKeyMap {
  /// Naming of the keys of a file.
  package enum Naming: Sendable {
    case original, diffusers

    /// Detects the naming of a list of keys; nil if it is not a PixArt model.
    package init?(keys: some Sequence<String>) {
      let keys = Set(keys)
      if keys.contains("t_block.1.weight") {
        self = .original
      } else if keys.contains("adaln_single.linear.weight") {
        self = .diffusers
      } else {
        return nil
      }
    }
  }

  /// Key prefixes outside the blocks, original and in diffusers.
  private static let modules = [
    ("x_embedder.proj", ["pos_embed.proj"]),
    ("t_embedder.mlp.0", ["adaln_single.emb.timestep_embedder.linear_1"]),
    ("t_embedder.mlp.2", ["adaln_single.emb.timestep_embedder.linear_2"]),
    ("t_block.1", ["adaln_single.linear"]),
    ("y_embedder.y_proj.fc1", ["caption_projection.linear_1"]),
    ("y_embedder.y_proj.fc2", ["caption_projection.linear_2"]),
    ("final_layer.linear", ["proj_out"]),
    ("final_layer.scale_shift_table", ["scale_shift_table"]),
  ]

  /// Key prefixes inside a block, original and in diffusers.
  private static let blockModules = [
    ("scale_shift_table", ["scale_shift_table"]),
    ("attn.qkv", ["attn1.to_q", "attn1.to_k", "attn1.to_v"]),
    ("attn.proj", ["attn1.to_out.0"]),
    ("cross_attn.q_linear", ["attn2.to_q"]),
    ("cross_attn.kv_linear", ["attn2.to_k", "attn2.to_v"]),
    ("cross_attn.proj", ["attn2.to_out.0"]),
    ("mlp.fc1", ["ff.net.0.proj"]),
    ("mlp.fc2", ["ff.net.2"]),
  ]

  /// Buffers in files that the model computes or does not need.
  package static let ignored: Set<String> = ["pos_embed", "pos_embed.pos_embed"]

  /// The null caption that training replaces captions with, in the original naming only.
  package static let nullCaption = "y_embedder.y_embedding"

  /// Returns the keys of a naming whose tensors concatenate along the first axis to that of an
  /// original key.
  ///
  /// Parameters of a grafted operator, which diffusers has no names for, lie below its own names of the slots.
  package static func keys(_ original: String, in naming: Naming) -> [String] {
    guard naming == .diffusers else { return [original] }
    var (prefix, rest, rules) = ("", original[...], modules)
    let parts = original.split(separator: ".", maxSplits: 2)
    if parts.count == 3, parts[0] == "blocks" {
      (prefix, rest, rules) = ("transformer_blocks.\(parts[1]).", parts[2], blockModules)
    }
    for (mine, theirs) in rules where rest == mine || rest.hasPrefix(mine + ".") {
      return theirs.map { prefix + $0 + rest.dropFirst(mine.count) }
    }
    for (mine, theirs) in [("attn.", "attn1."), ("mlp.", "ff.")]
    where !prefix.isEmpty && rest.hasPrefix(mine) {
      return [prefix + theirs + rest.dropFirst(mine.count)]
    }
    return [original]
  }
}
