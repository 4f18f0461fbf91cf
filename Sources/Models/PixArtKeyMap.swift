/// The two namings of PixArt's parameters: the original repository's, which the model uses, and that of
/// diffusers' `PixArtTransformer2DModel`.
package enum PixArtKeyMap {
  /// How the keys of a file are named.
  package enum Naming: Sendable {
    case original, diffusers

    /// The naming that a list of keys follows; nil if it is no PixArt's.
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

  /// Original beginnings of keys outside the blocks, and those of diffusers.
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

  /// The same inside a block.
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

  /// Buffers that files may hold and the model computes itself or does not need.
  package static let ignored: Set<String> = ["pos_embed", "pos_embed.pos_embed"]

  /// The null caption that training replaces captions with, in the original naming only.
  package static let nullCaption = "y_embedder.y_embedding"

  /// The keys of a naming whose tensors, stacked along the first axis, are an original key's tensor.
  ///
  /// A key that diffusers has no name for, such as a grafted operator's, keeps its own.
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
    return [original]
  }
}
