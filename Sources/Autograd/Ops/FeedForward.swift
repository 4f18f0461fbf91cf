import TensorCore

extension Tape {
  /// Two linear layers with a GELU between them.
  ///
  /// Where a layer is multiplied in bfloat16, what is between the layers is bfloat16; in inference it is
  /// stored once, with bias and GELU done on each block of the first product. Recorded, it is rounded before
  /// GELU as well, as PyTorch's autocast rounds it, so the two differ by a rounding.
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
      ? apply(Linear(up.weight, .activated), x, Value(up.weight), Value(up.bias))
      : apply(GELU(), linear(x, up.weight, up.bias, rounds: true))
    return linear(hidden, down.weight, down.bias)
  }
}
