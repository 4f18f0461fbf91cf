import Checkpoints

/// Translates the tensor names of CompVis/latent-diffusion, which VA-VAE, MAR's autoencoder and single files of
/// Stable Diffusion have, to those of diffusers.
enum AutoencoderKLKeyMap {
  private static let parts = [
    ("mid.block_1.", "mid_block.resnets.0."), ("mid.block_2.", "mid_block.resnets.1."),
    ("mid.attn_1.", "mid_block.attentions.0."), (".norm_out.", ".conv_norm_out."),
    (".block.", ".resnets."), (".attn.", ".attentions."), (".downsample.", ".downsamplers.0."),
    (".upsample.", ".upsamplers.0."), (".nin_shortcut.", ".conv_shortcut."),
  ]
  private static let attentionParts = [
    (".norm.", ".group_norm."), (".q.", ".to_q."), (".k.", ".to_k."), (".v.", ".to_v."),
    (".proj_out.", ".to_out.0."),
  ]

  /// A state dict in the names of diffusers; what a training kept beside the autoencoder under the names of
  /// latent-diffusion (losses, foundation models) is left out.
  static func renamed(_ file: StateDict) -> StateDict {
    guard file.entry("encoder.norm_out.weight") != nil else { return file }
    let stages = file.names.compactMap { name -> Int? in
      let words = name.split(separator: ".")
      return words.count > 2 && words[1] == "up" ? Int(words[2]) : nil
    }
    let last = stages.max() ?? 0
    return file.renamed { diffusersName($0, lastStage: last) }
  }

  /// The name of diffusers; nil for a tensor that is not the autoencoder's.
  private static func diffusersName(_ name: String, lastStage: Int) -> String? {
    var words = name.split(separator: ".").map(String.init)
    if ["quant_conv", "post_quant_conv"].contains(words[0]) { return name }
    guard ["encoder", "decoder"].contains(words[0]) else { return nil }
    if words.count > 2, let stage = Int(words[2]) {
      // The decoder's stages are numbered from the finest, those of diffusers from the coarsest.
      if words[1] == "up" { words[2] = "\(lastStage - stage)" }
      words[1] += "_blocks"
    }
    var name = words.joined(separator: ".")
    for (own, other) in parts { name = name.replacing(own, with: other) }
    guard name.contains(".attentions.") else { return name }
    for (own, other) in attentionParts { name = name.replacing(own, with: other) }
    return name
  }
}
