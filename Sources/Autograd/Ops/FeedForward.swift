import TensorCore

extension Tape {
  /// Two linear layers with a GELU between them.
  ///
  /// Where a layer is multiplied in bfloat16, the hidden activations are bfloat16. In inference they are stored
  /// once: bias and GELU are the fused epilogue of the first product. Recorded, they are rounded before GELU as
  /// well, as PyTorch's autocast rounds them, so the two differ by a rounding.
  ///
  /// - Parameters:
  ///   - x: (..., in).
  ///   - up: Weight (hidden, in) and bias of the first layer.
  ///   - down: Weight (out, hidden) and bias of the second.
  /// - Returns: (..., out).
  package func feedForward(
    _ x: Value, up: (weight: Parameter, bias: Parameter), down: (weight: Parameter, bias: Parameter)
  ) -> Value {
    let isFused = isForInference && up.weight.precision == .bfloat16 && up.weight.adapter == nil
    let hidden =
      isFused
      ? linear(x, up.weight, up.bias, .bfloat16GELU)
      : apply(GELU(), linear(x, up.weight, up.bias, rounds: true))
    return linear(hidden, down.weight, down.bias)
  }
}
