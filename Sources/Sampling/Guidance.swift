import Models
import TensorCore

/// Classifier-free guidance as in DiT's `forward_with_cfg`.
package enum Guidance {
  /// Number of leading noise channels that DiT guides; the fourth is not guided.
  package static let guidedChannels = 3

  /// Wraps a model so that its noise prediction over a doubled batch is guided.
  ///
  /// Rows of the batch are [conditional | unconditional]. Only the first half of the latents is read;
  /// both halves of the result carry the guided noise e_u + scale (e_c - e_u) in the guided channels and
  /// their own prediction in all others.
  /// - Parameters:
  ///   - model: The network; its labels must be [labels | null class].
  ///   - scale: 1 is no guidance.
  ///   - channels: Number of leading channels that are guided.
  /// - Returns: A model over [conditional | unconditional] batches.
  package static func guided(
    _ model: @escaping DenoisingModel, scale: Float, channels: Int = guidedChannels
  ) -> DenoisingModel {
    { latents, timesteps in
      let half = latents.shape[0] / 2
      precondition(latents.shape[0] == 2 * half, "guidance: the batch must be doubled")
      let doubled = Tensor(latents.shape)
      doubled.rows(0..<half).assign(latents.rows(0..<half))
      doubled.rows(half..<(2 * half)).assign(latents.rows(0..<half))
      let output = try model(doubled, timesteps)
      let result = output.copied()
      let rowWidth = output.count / (2 * half)
      let guided = min(channels, latents.shape[1])
      let guidedWidth = guided * output.shape[2] * output.shape[3]
      for row in 0..<half {
        for i in 0..<guidedWidth {
          let conditional = row * rowWidth + i
          let unconditional = (half + row) * rowWidth + i
          let value =
            output[unconditional] + scale * (output[conditional] - output[unconditional])
          result[conditional] = value
          result[unconditional] = value
        }
      }
      return result
    }
  }
}
