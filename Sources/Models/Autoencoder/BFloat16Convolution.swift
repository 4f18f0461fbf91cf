import CKernels
import TensorCore

/// 3x3 convolution of inputs and weights rounded to bfloat16, accumulated in float32.
///
/// CPUs without bfloat16 dot products emulate them. With doubling, the input is convolved before
/// doubling with sums of weights, rounded after summation.
struct BFloat16Convolution: ConvolutionKernel {
  /// Packed weights, with pairs of adjacent input channels in 32-bit words.
  private let packed: Storage
  private let bias: Tensor
  private let inputs, outputs: Int
  private let resampling: Convolution3x3.Resampling
  private let doubles: Int32

  /// Packs a weight (outputs, inputs, 3, 3) and stores a bias (outputs).
  init(_ weight: Tensor, _ bias: Tensor, _ resampling: Convolution3x3.Resampling) {
    (outputs, inputs) = (weight.shape[0], weight.shape[1])
    if case .doubling = resampling { doubles = 1 } else { doubles = 0 }
    packed = Storage(
      bytes: 4 * ck_conv3x3_packed_size_bf16(Int32(outputs), Int32(inputs), doubles))
    ck_conv3x3_pack_bf16(
      packed.elements(), weight.pointer, Int32(outputs), Int32(inputs), doubles)
    self.bias = bias
    self.resampling = resampling
  }

  func apply(
    _ input: ConvolutionInput, plus residual: Tensor?, clampsNegative: Bool, into result: Tensor
  ) {
    let (x, affine) = (input.x, input.affine)
    let batch = x.shape[0]
    let pairs = (inputs + 1) / 2
    var shape = resampling.paddedShape(of: x)
    let plane = Int(ck_conv3x3_plane_size(&shape))
    let storage = Storage(bytes: 4 * batch * pairs * plane)
    let (planes, weights): (UnsafeMutablePointer<UInt32>, UnsafeMutablePointer<UInt32>) = (
      storage.elements(), packed.elements()
    )
    let size = x.shape[2] * x.shape[3]
    Parallel.ranges(batch * pairs, grain: max(1, 16384 / plane)) { range in
      var shape = shape
      for index in range {
        let channel = index / pairs * inputs + index % pairs * 2
        let isAlone = index % pairs * 2 + 1 == inputs
        ck_conv3x3_fill_bf16(
          planes + index * plane, x.pointer + channel * size, isAlone ? 1 : 2, &shape,
          affine.map { UnsafePointer($0.scale.pointer + channel) },
          affine.map { UnsafePointer($0.shift.pointer + channel) })
      }
    }
    let isNative = ck_has_bfloat16()
    let outputSize = result.count / max(1, batch)
    shape.forBands(of: batch, planes: pairs) { [shape] image, rows in
      var shape = shape
      ck_conv3x3_forward_bf16(
        result.pointer + image * outputSize, planes + image * pairs * plane, weights,
        bias.pointer, residual.map { UnsafePointer($0.pointer + image * outputSize) }, &shape,
        Int32(inputs), Int32(outputs), doubles, Int32(rows.lowerBound), Int32(rows.upperBound),
        clampsNegative ? 1 : 0, isNative)
    }
  }
}
