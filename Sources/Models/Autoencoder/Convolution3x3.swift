import Nn
import TensorCore

/// 3x3 convolution with optional fused normalisation, SiLU, doubling and residual addition.
package struct Convolution3x3 {
  /// Change of resolution.
  package enum Resampling {
    /// Same resolution; zero padding of 1 on every side.
    case none
    /// Nearest-neighbour doubling before the convolution.
    case doubling
    /// Stride 2; zero padding only below and right, as in diffusers, or on every side.
    case halving(padsAllSides: Bool)
  }

  private let inputs: Int
  private let outputs: Int
  private let resampling: Resampling
  private let kernel: any ConvolutionKernel

  /// Reads `name.weight` (outputs, inputs, 3, 3) and `name.bias`.
  ///
  /// - Throws: Errors of the source.
  package init(
    _ weights: any WeightSource, _ name: String, _ inputs: Int, _ outputs: Int,
    _ resampling: Resampling = .none, _ precision: PrecisionRule = .float32
  ) throws {
    let weight = try weights.tensor(name + ".weight", [outputs, inputs, 3, 3], .xavierUniform)
    let bias = try weights.tensor(name + ".bias", [outputs], .zeros)
    self.inputs = inputs
    self.outputs = outputs
    self.resampling = resampling
    kernel =
      switch precision.precision(forWeightOf: weight.count) {
      case .bfloat16, .int8: BFloat16Convolution(weight, bias, resampling)
      case .float32 where WinogradConvolution.suits(outputs: outputs, resampling):
        WinogradConvolution(weight, bias, resampling)
      case .float32: DirectConvolution(weight, bias, resampling)
      }
  }

  /// Convolves x (batch, inputs, H, W).
  ///
  /// - Parameters:
  ///   - x: The input.
  ///   - norm: If given, the input is SiLU(norm(x)).
  ///   - residual: Added to the result.
  ///   - clampsNegative: Whether to apply ReLU.
  /// - Returns: (batch, outputs, H', W').
  package func callAsFunction(
    _ x: Tensor, after norm: GroupNorm? = nil, plus residual: Tensor? = nil,
    clampsNegative: Bool = false
  ) -> Tensor {
    precondition(x.shape.count == 4 && x.shape[1] == inputs, "convolution: input \(x.shape)")
    let (height, width) = resampling.size(height: x.shape[2], width: x.shape[3])
    precondition(height > 0 && width > 0, "convolution: input \(x.shape) leaves no pixel")
    let result = Tensor([x.shape[0], outputs, height, width])
    precondition(residual == nil || residual?.shape == result.shape, "convolution: residual")
    kernel.apply(
      ConvolutionInput(x: x, affine: norm?.planeScales(x)), plus: residual,
      clampsNegative: clampsNegative, into: result)
    return result
  }
}

extension Convolution3x3.Resampling {
  /// Output size for an input size.
  func size(height: Int, width: Int) -> (height: Int, width: Int) {
    switch self {
    case .none: return (height, width)
    case .doubling: return (2 * height, 2 * width)
    case .halving(let padsAllSides):
      let padding = padsAllSides ? 1 : 0
      return ((height + padding) / 2, (width + padding) / 2)
    }
  }
}

/// Input of a convolution.
struct ConvolutionInput {
  /// (batch, inputs, H, W).
  let x: Tensor
  /// Scale and shift (batch, inputs); if given, the input is SiLU(scale x + shift).
  let affine: (scale: Tensor, shift: Tensor)?
}

/// Algorithm of 3x3 convolutions, with its packed weights.
protocol ConvolutionKernel {
  /// Stores the convolution of `input` plus bias and residual in `result`, with ReLU if
  /// `clampsNegative`.
  func apply(
    _ input: ConvolutionInput, plus residual: Tensor?, clampsNegative: Bool, into result: Tensor)
}
