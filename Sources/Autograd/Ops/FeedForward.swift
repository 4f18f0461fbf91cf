import TensorCore

extension Tape {
  /// Two linear layers with a GELU between them.
  ///
  /// Where both weights are multiplied in bfloat16 and nothing is recorded, what is between the layers
  /// is never stored in float32: bias, GELU and rounding are done on each block of the first product.
  /// The result is that of the three operations one after the other, which round there too.
  ///
  /// - Parameters:
  ///   - x: (..., in).
  ///   - up: Weight (hidden, in) and bias of the first layer.
  ///   - down: Weight (out, hidden) and bias of the second.
  /// - Returns: (..., out).
  package func feedForward(
    _ x: Value, up: (weight: Parameter, bias: Parameter), down: (weight: Parameter, bias: Parameter)
  ) -> Value {
    let isRounded = [up.weight, down.weight].allSatisfy {
      $0.precision == .bfloat16 && $0.adapter == nil
    }
    guard isRounded, isSilent else {
      return linear(apply(GELU(), linear(x, up.weight, up.bias)), down.weight, down.bias)
    }
    return apply(
      RoundedFeedForward(up: up.weight, down: down.weight), x, Value(up.weight), Value(up.bias),
      Value(down.weight), Value(down.bias))
  }
}

/// Linear layer, GELU, linear layer in bfloat16, for tapes that do not record.
private struct RoundedFeedForward: DifferentiableOp {
  let up, down: Parameter

  func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    let (x, bias, lastBias) = (inputs[0], inputs[2], inputs[4])
    let rows = x.count / up.value.shape[1]
    let y = Tensor(x.shape.dropLast() + [down.value.shape[0]])
    let hidden = up.factor(isBackward: false)
      .gelu(m: rows, a: x.pointer, source: up.value.pointer, bias: bias.pointer)
    down.factor(isBackward: false)
      .multiply(hidden, source: down.value.pointer, bias: lastBias.pointer, into: y.pointer)
    return (y, ())
  }

  func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    preconditionFailure("RoundedFeedForward: recorded")
  }
}
