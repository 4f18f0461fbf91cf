import CKernels
import TensorCore

/// Direct 3x3 convolution of zero-padded planes; does not support doubling.
struct DirectConvolution: ConvolutionKernel {
  private let packed, bias: Tensor
  private let inputs, outputs: Int
  private let resampling: Convolution3x3.Resampling

  /// Takes a weight (outputs, inputs, 3, 3) and a bias (outputs).
  init(_ weight: Tensor, _ bias: Tensor, _ resampling: Convolution3x3.Resampling) {
    (outputs, inputs) = (weight.shape[0], weight.shape[1])
    packed = Tensor([Int(ck_conv3x3_packed_size(Int32(outputs), Int32(inputs)))])
    ck_conv3x3_pack_f32(packed.pointer, weight.pointer, Int32(outputs), Int32(inputs))
    self.bias = bias
    self.resampling = resampling
  }

  func apply(
    _ input: ConvolutionInput, plus residual: Tensor?, clampsNegative: Bool, into result: Tensor
  ) {
    let (x, affine) = (input.x, input.affine)
    let batch = x.shape[0]
    var shape = resampling.paddedShape(of: x)
    let plane = Int(ck_conv3x3_plane_size(&shape))
    let planes = Tensor([batch * inputs, plane])
    let size = x.shape[2] * x.shape[3]
    Parallel.ranges(batch * inputs, grain: max(1, 16384 / plane)) { range in
      var shape = shape
      for index in range {
        ck_conv3x3_fill_f32(
          planes.pointer + index * plane, x.pointer + index * size, &shape,
          affine?.scale[index] ?? 1, affine?.shift[index] ?? 0, affine == nil ? 0 : 1)
      }
    }
    let outputSize = result.count / max(1, batch)
    shape.forBands(of: batch, planes: inputs) { [shape] image, rows in
      var shape = shape
      ck_conv3x3_forward_f32(
        result.pointer + image * outputSize, planes.pointer + image * inputs * plane,
        packed.pointer, bias.pointer,
        residual.map { UnsafePointer($0.pointer + image * outputSize) },
        &shape, Int32(inputs), Int32(outputs), Int32(rows.lowerBound), Int32(rows.upperBound),
        clampsNegative ? 1 : 0)
    }
  }
}

extension Convolution3x3.Resampling {
  /// Memory layout of the padded planes of x (batch, inputs, H, W), before doubling.
  func paddedShape(of x: Tensor) -> ck_conv3x3_shape {
    let (stride, pad): (Int32, Int32) =
      switch self {
      case .none, .doubling: (1, 1)
      case .halving(let padsAllSides): (2, padsAllSides ? 1 : 0)
      }
    return ck_conv3x3_geometry(Int32(x.shape[2]), Int32(x.shape[3]), stride, pad)
  }
}

extension ck_conv3x3_shape {
  /// Calls `body` in parallel with every image and bands of output rows whose input fits the cache
  /// for all output channels.
  func forBands(of batch: Int, planes: Int, _ body: (Int, Range<Int>) -> Void) {
    let height = Int(out_height)
    let rowSize = planes * Int(row) * Int(stride)
    let share = batch * height / Parallel.threads
    let rows = max(1, min(height, share, 65536 / max(1, rowSize)))
    let bands = (height + rows - 1) / rows
    Parallel.tasks(batch * bands) { task in
      let first = task % bands * rows
      body(task / bands, first..<min(height, first + rows))
    }
  }
}
