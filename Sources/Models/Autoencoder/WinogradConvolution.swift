import CKernels
import TensorCore

/// Winograd 3x3 convolution of stride 1: less than half of the multiplications of direct
/// convolution, a quarter with doubling.
struct WinogradConvolution: ConvolutionKernel {
  private let packed, bias: Tensor
  private let inputs, outputs: Int
  private let doubles: Bool
  /// Output channels per tile of the product.
  private let group = Int32(ck_get_tile_rows())

  /// Whether the algorithm supports a resampling and is faster than direct convolution.
  static func suits(outputs: Int, _ resampling: Convolution3x3.Resampling) -> Bool {
    switch resampling {
    case .none: outputs >= 16
    case .doubling: true
    case .halving: false
    }
  }

  /// Takes a weight (outputs, inputs, 3, 3) and a bias (outputs).
  init(_ weight: Tensor, _ bias: Tensor, _ resampling: Convolution3x3.Resampling) {
    (outputs, inputs) = (weight.shape[0], weight.shape[1])
    if case .doubling = resampling { doubles = true } else { doubles = false }
    self.bias = bias
    let shape = ck_winograd_geometry(
      1, 1, Int32(inputs), Int32(outputs), doubles ? 1 : 0, group)
    let packed = Tensor([withUnsafePointer(to: shape) { Int(ck_winograd_packed_size($0)) }])
    let groups = withUnsafePointer(to: shape) { Int(ck_winograd_groups($0)) }
    Parallel.ranges(groups) { range in
      var shape = shape
      ck_winograd_pack_f32(
        packed.pointer, weight.pointer, &shape, Int32(range.lowerBound), Int32(range.upperBound))
    }
    self.packed = packed
  }

  func apply(
    _ input: ConvolutionInput, plus residual: Tensor?, clampsNegative: Bool, into result: Tensor
  ) {
    let x = input.x
    let (batch, inputSize, outputSize) = (
      x.shape[0], x.count / max(1, x.shape[0]), result.count / max(1, x.shape[0])
    )
    var shape = ck_winograd_geometry(
      Int32(x.shape[2]), Int32(x.shape[3]), Int32(inputs), Int32(outputs), doubles ? 1 : 0, group)
    let groups = Int(ck_winograd_groups(&shape))
    for index in 0..<ck_winograd_band_count(&shape) {
      var band = ck_winograd_band_at(&shape, index)
      let size = Int(ck_winograd_band_size(&shape, &band))
      // Small images are processed several at a time.
      let step = max(1, Self.budget / size)
      for first in stride(from: 0, to: batch, by: step) {
        let images = first..<min(batch, first + step)
        let tiles = Tensor([images.count, size])
        split(inputs, by: 16, images) { [shape, band] image, channels in
          var (shape, band) = (shape, band)
          ck_winograd_transform_f32(
            tiles.pointer + (image - first) * size, x.pointer + image * inputSize,
            input.affine.map { UnsafePointer($0.scale.pointer + image * inputs) },
            input.affine.map { UnsafePointer($0.shift.pointer + image * inputs) }, &shape, &band,
            Int32(channels.lowerBound), Int32(channels.upperBound))
        }
        split(groups, by: 8, images) { [shape, band] image, groups in
          var (shape, band) = (shape, band)
          ck_winograd_multiply_f32(
            result.pointer + image * outputSize, tiles.pointer + (image - first) * size,
            packed.pointer, bias.pointer,
            residual.map { UnsafePointer($0.pointer + image * outputSize) }, &shape, &band,
            Int32(groups.lowerBound), Int32(groups.upperBound), clampsNegative ? 1 : 0)
        }
      }
    }
  }

  /// Cache budget of transformed tiles in elements (4 MiB).
  private static let budget = 1 << 20

  /// Calls `body` with every image and ranges of about `grain` out of `count`, balanced over the
  /// threads.
  private func split(
    _ count: Int, by grain: Int, _ images: Range<Int>, _ body: (Int, Range<Int>) -> Void
  ) {
    let threads = Parallel.threads
    let rounds = (count + grain * threads - 1) / (grain * threads)
    let parts = min(count, rounds * threads)
    Parallel.tasks(images.count * parts) { task in
      let part = task % parts
      body(
        images.lowerBound + task / parts, (count * part / parts)..<(count * (part + 1) / parts))
    }
  }
}
