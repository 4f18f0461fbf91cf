import CKernels
import TensorCore

/// A 3x3 convolution by its definition, from planes copied with zeros around them.
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
    var shape = geometry(height: x.shape[2], width: x.shape[3])
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
    // A task is a band of rows whose input stays in the cache while all output channels use it.
    let height = Int(shape.out_height)
    let rowSize = inputs * Int(shape.row) * Int(shape.stride)
    let rows = max(1, min(height, 65536 / max(1, rowSize)))
    let bands = (height + rows - 1) / rows
    let outputSize = result.count / max(1, batch)
    Parallel.tasks(batch * bands) { task in
      var shape = shape
      let image = task / bands
      let first = task % bands * rows
      ck_conv3x3_forward_f32(
        result.pointer + image * outputSize, planes.pointer + image * inputs * plane,
        packed.pointer, bias.pointer,
        residual.map { UnsafePointer($0.pointer + image * outputSize) },
        &shape, Int32(inputs), Int32(outputs), Int32(first), Int32(min(height, first + rows)),
        clampsNegative ? 1 : 0)
    }
  }

  private func geometry(height: Int, width: Int) -> ck_conv3x3_shape {
    let (upsample, stride, pad): (Int32, Int32, Int32) =
      switch resampling {
      case .none: (1, 1, 1)
      case .doubling: (2, 1, 1)
      case .halving(let padsAllSides): (1, 2, padsAllSides ? 1 : 0)
      }
    return ck_conv3x3_geometry(Int32(height), Int32(width), upsample, stride, pad)
  }
}
