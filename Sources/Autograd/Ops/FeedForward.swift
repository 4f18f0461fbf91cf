import TensorCore

extension Tape {
  /// The hidden activations of two linear layers with a GELU between them: GELU(up(x)).
  ///
  /// Where the layer is multiplied in bfloat16, they are bfloat16, rounded before GELU as well, as PyTorch's autocast
  /// rounds them. In inference they are stored once: GELU is applied to each block of the product in place.
  ///
  /// - Parameters:
  ///   - x: (..., in).
  ///   - up: Weight (hidden, in) and bias of the first layer.
  /// - Returns: (..., hidden).
  package func hidden(_ x: Value, up: (weight: Parameter, bias: Parameter)) -> Value {
    let isFused = isForInference && up.weight.precision.isRounded && up.weight.adapter == nil
    return isFused
      ? linear(x, up.weight, up.bias, .bfloat16GELU)
      : apply(GELU(), linear(x, up.weight, up.bias, rounds: true))
  }
}
