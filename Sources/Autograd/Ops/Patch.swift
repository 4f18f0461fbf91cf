import TensorCore

/// Cuts images (batch, channels, height, width) into patches (batch, tokens, channels * p * p).
///
/// The features of a patch are ordered channel, row, column: a patch convolution's flattened weight.
package struct Patchify: DifferentiableOp {
  private let patch: Int

  package init(patch: Int) { self.patch = patch }

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    let x = inputs[0]
    let (batch, channels) = (x.shape[0], x.shape[1])
    let tokens = (x.shape[2] / patch) * (x.shape[3] / patch)
    let y = Tensor([batch, tokens, channels * patch * patch])
    move(image: x) { y.pointer[$1] = x.pointer[$0] }
    return (y, ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    sink.add(0) { gradX in move(image: gradX) { gradX.pointer[$0] += gradOutput.pointer[$1] } }
  }

  private func move(image: Tensor, _ body: (_ pixel: Int, _ feature: Int) -> Void) {
    let patch = patch
    forEachPixel(of: image, patch: patch, body) { channel, y, x in
      (channel * patch + y) * patch + x
    }
  }
}

/// Calls `body` with every pixel of images (batch, channels, height, width) and the index of its
/// feature among those of all tokens; `order` is its place within the token, by channel, row and
/// column.
@inline(__always)
private func forEachPixel(
  of image: Tensor, patch: Int, _ body: (_ pixel: Int, _ feature: Int) -> Void,
  order: (_ channel: Int, _ y: Int, _ x: Int) -> Int
) {
  let (channels, height, width) = (image.shape[1], image.shape[2], image.shape[3])
  let (rows, columns) = (height / patch, width / patch)
  for item in 0..<image.shape[0] {
    for channel in 0..<channels {
      for y in 0..<height {
        let base = ((item * channels + channel) * height + y) * width
        for x in 0..<width {
          let token = (item * rows + y / patch) * columns + x / patch
          let feature = order(channel, y % patch, x % patch)
          body(base + x, token * channels * patch * patch + feature)
        }
      }
    }
  }
}

/// Puts tokens (batch, rows * columns, p * p * channels) back into images (batch, channels, height, width).
///
/// The features of a token are ordered row, column, channel, as in DiT's `unpatchify`.
package struct Unpatchify: DifferentiableOp {
  private let patch, channels, rows, columns: Int

  package init(patch: Int, channels: Int, rows: Int, columns: Int) {
    self.patch = patch
    self.channels = channels
    self.rows = rows
    self.columns = columns
  }

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    let x = inputs[0]
    precondition(
      x.shape[1] == rows * columns, "Unpatchify: \(x.shape[1]) tokens for \(rows) x \(columns)")
    let y = Tensor([x.shape[0], channels, rows * patch, columns * patch])
    move(y) { y.pointer[$0] = x.pointer[$1] }
    return (y, ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    sink.add(0) { gradX in
      move(output) { gradX.pointer[$1] += gradOutput.pointer[$0] }
    }
  }

  private func move(_ image: Tensor, _ body: (_ pixel: Int, _ feature: Int) -> Void) {
    let (channels, patch) = (channels, patch)
    forEachPixel(of: image, patch: patch, body) { channel, y, x in
      (y * patch + x) * channels + channel
    }
  }
}
