import CKernels
import TensorCore

/// Merges blocks of keys and values on a grid by one depthwise convolution for both.
///
/// Inputs: fused qkv (batch, rows * columns, 3 dim), of which keys and values are read, weight
/// (dim, 1, factor, factor) and bias (dim); output (batch, rows/factor * columns/factor, 2 dim). Upstream:
/// PixArt-sigma `AttentionKVCompress.downsample_2d`, mode `conv`.
package struct TokenCompression: DifferentiableOp {
  /// The largest factor that the kernel takes.
  package static let largestFactor = 8

  private let rows, columns, factor: Int

  /// Makes the operation for a grid of tokens.
  package init(rows: Int, columns: Int, factor: Int) {
    precondition(
      (1...Self.largestFactor).contains(factor) && rows >= factor && columns >= factor,
      "TokenCompression: factor \(factor) on a grid of \(rows) x \(columns)")
    self.rows = rows
    self.columns = columns
    self.factor = factor
  }

  private func shape(_ qkv: Tensor) -> ck_compression_shape {
    precondition(qkv.shape[1] == rows * columns, "TokenCompression: \(qkv.shape)")
    let dim = qkv.shape[2] / 3
    return ck_compression_shape(
      rows: rows, columns: columns, factor: factor, dim: dim, stride: 3 * dim, out_stride: 2 * dim)
  }

  /// Tokens after the compression.
  private var merged: Int { (rows / factor) * (columns / factor) }

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    let (qkv, weight, bias) = (inputs[0], inputs[1], inputs[2])
    let shape = shape(qkv)
    let out = Tensor([qkv.shape[0], merged, 2 * shape.dim])
    eachHalf(qkv, shape) { shape, from, to in
      ck_token_compression_forward_f32(
        qkv.pointer + from, weight.pointer, bias.pointer, out.pointer + to, shape)
    }
    return (out, ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    let (qkv, weight) = (inputs[0], inputs[1])
    let shape = shape(qkv)
    if sink.needs(0) {
      sink.add(0) { gradQKV in
        eachHalf(qkv, shape) { shape, from, to in
          ck_token_compression_backward_f32(
            qkv.pointer + from, weight.pointer, gradOutput.pointer + to, gradQKV.pointer + from,
            nil, nil, shape)
        }
      }
    }
    guard sink.needs(1) || sink.needs(2) else { return }
    // The kernel gives weight and bias together; whichever is not wanted falls away in the sink.
    let gradients = Tensor.zeros([weight.count + shape.dim])
    addOverRows(rows: 2 * qkv.shape[0], into: gradients, grain: 1) { range, part in
      var shape = shape
      for half in range {
        let (from, to) = offsets(half, shape)
        ck_token_compression_backward_f32(
          qkv.pointer + from, weight.pointer, gradOutput.pointer + to, nil, part,
          part + weight.count, &shape)
      }
    }
    sink.pass(1, Tensor(storage: gradients.storage, shape: weight.shape))
    sink.pass(
      2, Tensor(storage: gradients.storage, offset: weight.count, shape: [shape.dim]))
  }

  /// Offsets of the keys (even) or values (odd) of a batch item, before and after.
  private func offsets(_ half: Int, _ shape: ck_compression_shape) -> (from: Int, to: Int) {
    let (item, part) = (half / 2, half % 2)
    return (
      item * rows * columns * shape.stride + (1 + part) * shape.dim,
      item * merged * shape.out_stride + part * shape.dim
    )
  }

  private func eachHalf(
    _ qkv: Tensor, _ shape: ck_compression_shape,
    _ body: (UnsafePointer<ck_compression_shape>, _ from: Int, _ to: Int) -> Void
  ) {
    Parallel.tasks(2 * qkv.shape[0]) { half in
      var shape = shape
      let (from, to) = offsets(half, shape)
      body(&shape, from, to)
    }
  }
}
