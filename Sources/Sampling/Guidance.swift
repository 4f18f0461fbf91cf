import Models
import Plans
import TensorCore

/// Classifier-free guidance as in DiT's `forward_with_cfg`.
package enum Guidance {
  /// Number of leading noise channels that DiT guides; the fourth is not guided.
  package static let guidedChannels = 3

  /// Number of leading latent channels that a model's own convention guides: all in diffusers and REPA, else DiT's
  /// three.
  package static func guidedChannels(of shape: ModelShape) -> Int {
    shape.frequencyShift == 0 && !shape.reversedTime
      ? min(guidedChannels, shape.inChannels) : shape.inChannels
  }

  /// Combines conditional and unconditional predictions.
  ///
  /// - Parameters:
  ///   - output: Predictions (2 batch, channels, height, width), rows [conditional | unconditional].
  ///   - scales: One for each row; 1 is no guidance.
  ///   - channels: Number of leading channels that are guided.
  /// - Returns: (batch, channels, height, width): e_u + scale (e_c - e_u) in the guided channels, the conditional
  ///   prediction in all others.
  package static func combined(_ output: Tensor, scales: [Float], channels: Int) -> Tensor {
    let half = output.shape[0] / 2
    precondition(output.shape[0] == 2 * half, "guidance: the batch must be doubled")
    let result = output.rows(0..<half).copied()
    let width = output.count / max(1, 2 * half)
    for row in 0..<half {
      let conditional = result.pointer + row * width
      let unconditional = output.pointer + (half + row) * width
      for i in 0..<(channels * output.shape[2] * output.shape[3]) {
        conditional[i] = unconditional[i] + scales[row] * (conditional[i] - unconditional[i])
      }
    }
    return result
  }

  /// Wraps a model so that its noise prediction over a doubled batch is guided.
  ///
  /// Rows of the batch are [conditional | unconditional]. Only the first half of the latents is read;
  /// both halves of the result carry the guided noise in the guided channels and their own prediction in all others.
  /// - Parameters:
  ///   - model: The network; its labels must be [labels | null class].
  ///   - channels: Number of leading channels that are guided.
  ///   - scale: Gives the scale at a time of the network; 1 is no guidance, both halves carry the conditional
  ///     prediction in the guided channels.
  /// - Returns: A model over [conditional | unconditional] batches.
  package static func guided(
    _ model: @escaping DenoisingModel, channels: Int = guidedChannels,
    scale: @escaping (_ time: Float) -> Float
  ) -> DenoisingModel {
    { latents, timesteps in
      let half = latents.shape[0] / 2
      let output = try model(latents.selecting((0..<(2 * half)).map { $0 % half }), timesteps)
      let channels = min(channels, latents.shape[1])
      let guided = combined(
        output, scales: timesteps.prefix(half).map(scale), channels: channels)
      let result = output.copied()
      result.rows(0..<half).assign(guided)
      let width = output.count / (2 * half)
      for row in 0..<half {
        (result.pointer + (half + row) * width).update(
          from: guided.pointer + row * width, count: channels * output.shape[2] * output.shape[3])
      }
      return result
    }
  }
}
