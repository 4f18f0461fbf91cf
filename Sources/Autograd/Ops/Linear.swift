import CKernels
import TensorCore

/// y = x W^T + b for x (..., in), W (out, in), b (out); inputs are x, W and optionally b, or x and optionally b
/// if W was sealed for inference.
///
/// A weight whose precision is bfloat16 is multiplied in it: operands are rounded as PyTorch's autocast rounds
/// them, biases and sums stay float32, and so does the result unless it is wanted in bfloat16.
package struct Linear: MixedPrecisionOp {
  /// The number format of the result of a product in bfloat16, and its fused epilogue.
  enum Output {
    case float32
    case bfloat16
    /// GELU of the result in bfloat16; only where nothing is recorded.
    case bfloat16GELU
  }

  /// The layer's weight; nil for an input that is no parameter.
  private let weight: Parameter?
  private let output: Output

  /// Makes the operation in float32.
  package init() { (weight, output) = (nil, .float32) }

  /// Makes the operation in the precision of `weight`, its second input.
  init(_ weight: Parameter, _ output: Output = .float32) {
    self.weight = weight
    self.output = output
  }

  private func bias(_ inputs: [MixedTensor]) -> Tensor? {
    let index = weight?.isSealed == true ? 1 : 2
    return inputs.count > index ? inputs[index].float32 : nil
  }

  package func forward(_ inputs: [MixedTensor]) -> (output: MixedTensor, saved: Void) {
    let (x, shape) = (inputs[0], weight?.shape ?? inputs[1].shape)
    precondition(x.shape.last == shape[1], "Linear: input \(x.shape), weight \(shape)")
    let y = MixedTensor(
      x.shape.dropLast() + [shape[0]],
      isBFloat16: weight?.precision.isRounded == true && output != .float32)
    switch (y, weight?.matrix(isBackward: false, rows: x.count / shape[1])) {
    case (.bfloat16(let y), let matrix?):
      matrix.multiply(x, bias: bias(inputs), into: .bfloat16(y, gelu: output == .bfloat16GELU))
    case (.float32(let y), let matrix?):
      matrix.multiply(x, bias: bias(inputs), into: .float32(y))
    default:
      Float32Linear(x.shape, inputs[1].shape)
        .forward(x.float32, inputs[1].float32, bias: bias(inputs), into: y.float32)
    }
    return (y, ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [MixedTensor], output: MixedTensor, saved: Void,
    into sink: GradientSink
  ) {
    precondition(
      self.output != .bfloat16GELU && weight?.isSealed != true,
      "Linear: a fused GELU or a weight sealed for inference has no gradient")
    let (x, product) = (inputs[0], Float32Linear(inputs[0].shape, inputs[1].shape))
    let rows = x.count / inputs[1].shape[1]
    if sink.needs(0) {
      sink.contribute(0) { gradInput, accumulate in
        if let matrix = weight?.matrix(isBackward: true, rows: rows) {
          matrix.multiply(.float32(gradOutput), into: .float32(gradInput, accumulate: accumulate))
        } else {
          product.inputGradient(
            gradOutput, inputs[1].float32, into: gradInput, accumulate: accumulate)
        }
      }
    }
    if sink.needs(1) {
      sink.contribute(1) { gradWeight, accumulate in
        if let weight, weight.precision.isRounded {
          PackedMatrix(x, isTransposed: false, weight.precision.withoutInt8).multiply(
            .float32(gradOutput), isTransposed: true,
            into: .float32(gradWeight, accumulate: accumulate))
        } else {
          product.weightGradient(gradOutput, x.float32, into: gradWeight, accumulate: accumulate)
        }
      }
    }
    if inputs.count > 2, sink.needs(2) {
      sink.add(2) { product.biasGradient(gradOutput, into: $0) }
    }
  }
}

/// The products of a linear layer in float32, divided between threads so that no sum is.
///
/// Kernels of their own multiply where the weight fits the second-level cache, general products elsewhere.
private struct Float32Linear {
  private let rows, inputs, outputs: Int
  private let isSmall: Bool
  /// Smallest number of rows worth a thread of their own.
  private var grain: Int { max(64, 400_000 / (inputs * outputs)) }

  init(_ x: [Int], _ weight: [Int]) {
    (outputs, inputs) = (weight[0], weight[1])
    rows = x.dropLast().reduce(1, *)
    isSmall = rows >= 64 && ck_linear_fits(inputs, outputs) != 0
  }

  func forward(_ x: Tensor, _ weight: Tensor, bias: Tensor?, into y: Tensor) {
    if isSmall {
      return Parallel.ranges(rows, grain: grain) { range in
        ck_linear_forward_f32(
          x.pointer + range.lowerBound * inputs, weight.pointer, bias?.pointer,
          y.pointer + range.lowerBound * outputs, range.count, inputs, outputs)
      }
    }
    if let bias {
      Parallel.ranges(rows, grain: max(1, 8192 / outputs)) { range in
        for row in range {
          (y.pointer + row * outputs).update(from: bias.pointer, count: outputs)
        }
      }
    }
    Gemm.run(
      transposeB: true, m: rows, n: outputs, k: inputs, a: x.pointer, b: weight.pointer,
      accumulate: bias != nil, c: y.pointer)
  }

  func inputGradient(
    _ gradOutput: Tensor, _ weight: Tensor, into gradInput: Tensor, accumulate: Bool
  ) {
    if isSmall {
      return Parallel.ranges(rows, grain: grain) { range in
        ck_linear_input_gradient_f32(
          gradOutput.pointer + range.lowerBound * outputs, weight.pointer,
          gradInput.pointer + range.lowerBound * inputs, range.count, inputs, outputs,
          accumulate ? 1 : 0)
      }
    }
    Gemm.run(
      m: rows, n: inputs, k: outputs, a: gradOutput.pointer, b: weight.pointer,
      accumulate: accumulate, c: gradInput.pointer)
  }

  func weightGradient(
    _ gradOutput: Tensor, _ x: Tensor, into gradWeight: Tensor, accumulate: Bool
  ) {
    guard isSmall else {
      return Gemm.gradient(
        m: outputs, n: inputs, k: rows, a: gradOutput.pointer, b: x.pointer,
        accumulate: accumulate, c: gradWeight.pointer)
    }
    Parallel.ranges(outputs, grain: max(24, 400_000 / (rows * inputs))) { range in
      ck_linear_weight_gradient_f32(
        gradOutput.pointer + range.lowerBound, outputs, x.pointer,
        gradWeight.pointer + range.lowerBound * inputs, rows, inputs, range.count,
        accumulate ? 1 : 0)
    }
  }

  /// Adds the sum of the rows.
  func biasGradient(_ gradOutput: Tensor, into gradBias: Tensor) {
    let width = 16
    Parallel.ranges((outputs + width - 1) / width, grain: max(4, (1 << 14) / (width * rows))) {
      let columns = $0.lowerBound * width..<min(outputs, $0.upperBound * width)
      ck_bias_backward_f32(
        gradOutput.pointer + columns.lowerBound, outputs, gradBias.pointer + columns.lowerBound,
        rows, columns.count)
    }
  }
}

extension Tape {
  /// A linear layer: y = x W^T + b, with the low-rank addition of the weight's adapter if it has one.
  ///
  /// - Parameters:
  ///   - x: (..., in).
  ///   - weight: (out, in).
  ///   - bias: (out), or nil for none.
  ///   - rounds: Whether the result may be bfloat16, which it is if the weight is multiplied in bfloat16 and
  ///     has no adapter.
  /// - Returns: (..., out).
  package func linear(
    _ x: Value, _ weight: Parameter, _ bias: Parameter? = nil, rounds: Bool = false
  ) -> Value {
    let y = linear(x, weight, bias, rounds && weight.adapter == nil ? .bfloat16 : .float32)
    guard let adapter = weight.adapter else { return y }
    let low = apply(Linear(), x, Value(adapter.down))
    return apply(LowRankUpdate(scale: adapter.scale), y, low, Value(adapter.up))
  }

  func linear(
    _ x: Value, _ weight: Parameter, _ bias: Parameter?, _ output: Linear.Output
  ) -> Value {
    let inputs = [x] + (weight.isSealed ? [] : [Value(weight)]) + (bias.map { [Value($0)] } ?? [])
    return apply(Linear(weight, output), inputs)
  }
}

/// Sums the contributions of rows, divided into parts that do not depend on the number of threads.
///
/// - Parameters:
///   - rows: Number of rows.
///   - total: Receives the sum; its former content is kept.
///   - grain: Smallest number of rows worth a part of their own.
///   - body: Adds the contribution of a range of rows to the buffer it is given.
func addOverRows(
  rows: Int, into total: Tensor, grain: Int = 512,
  _ body: (Range<Int>, UnsafeMutablePointer<Float>) -> Void
) {
  Parallel.sum(rows, grain: grain, into: total.pointer, count: total.count, accumulate: true) {
    range, part, accumulate in
    if !accumulate { part.update(repeating: 0, count: total.count) }
    body(range, part)
  }
}
