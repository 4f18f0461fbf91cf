import TensorCore

/// Training terms of a velocity model: noisy latents, their velocity and the loss (SiT `transport.py`).
package struct VelocityLoss {
  /// Noisy latents x_t (batch, C, H, W).
  package let latents: Tensor
  /// Velocity of the path at x_t, the target of the model.
  package let target: Tensor

  /// Makes the terms of a batch.
  ///
  /// - Parameters:
  ///   - data: Clean latents x_1 (batch, C, H, W).
  ///   - noise: Standard normal noise x_0 in that shape.
  ///   - times: In [0, 1), one per row.
  ///   - path: The path.
  package init(data: Tensor, noise: Tensor, times: [Double], path: Interpolant) {
    (latents, target) = (Tensor(data.shape), Tensor(data.shape))
    let width = data.count / max(1, times.count)
    for (row, time) in times.enumerated() {
      let at = path(at: time)
      for index in (row * width)..<((row + 1) * width) {
        let (x1, x0) = (Double(data[index]), Double(noise[index]))
        latents[index] = Float(at.alpha * x1 + at.sigma * x0)
        target[index] = Float(at.alphaRate * x1 + at.sigmaRate * x0)
      }
    }
  }

  /// Mean squared errors of rows, and the gradient of their mean with respect to the model's output.
  ///
  /// - Parameter output: (batch, C or more channels, H, W); only the first C are the velocity.
  /// - Returns: One loss per row, and a tensor of the output's shape to seed a backward pass.
  package func losses(_ output: Tensor) -> (rows: [Double], gradient: Tensor) {
    let rows = target.shape[0]
    let (width, all) = (target.count / max(1, rows), output.count / max(1, rows))
    let gradient = Tensor.zeros(output.shape)
    let losses = (0..<rows).map { row in
      var sum = 0.0
      for index in 0..<width {
        let error = Double(output[row * all + index]) - Double(target[row * width + index])
        sum += error * error
        gradient[row * all + index] = Float(2 * error / Double(width * rows))
      }
      return sum / Double(width)
    }
    return (losses, gradient)
  }
}
