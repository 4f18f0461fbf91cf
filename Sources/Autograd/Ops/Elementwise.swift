import CKernels
import TensorCore

private let grain = 1 << 13

extension Tensor {
  /// Applies a kernel to every element, on all threads.
  fileprivate func mapped(
    _ kernel: (UnsafePointer<Float>?, UnsafeMutablePointer<Float>?, Int) -> Void
  ) -> Tensor {
    let y = Tensor(shape)
    Parallel.ranges(count, grain: grain) { range in
      kernel(pointer + range.lowerBound, y.pointer + range.lowerBound, range.count)
    }
    return y
  }
}

/// GELU in its tanh form, element-wise; of bfloat16 in bfloat16.
package struct GELU: MixedPrecisionOp {
  package init() {}

  package func forward(_ inputs: [MixedTensor]) -> (output: MixedTensor, saved: Void) {
    switch inputs[0] {
    case .float32(let x): return (.float32(x.mapped(ck_gelu_forward_f32)), ())
    case .bfloat16(let x):
      let y = BFloat16Tensor(x.shape)
      Parallel.ranges(x.count, grain: grain) { range in
        ck_gelu_forward_bf16(
          x.pointer + range.lowerBound, y.pointer + range.lowerBound, range.count)
      }
      return (.bfloat16(y), ())
    }
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [MixedTensor], output: MixedTensor, saved: Void,
    into sink: GradientSink
  ) {
    sink.contribute(0) { gradInput, accumulate in
      Parallel.ranges(gradInput.count, grain: grain) { range in
        let (from, count) = (range.lowerBound, range.count)
        switch inputs[0] {
        case .float32(let x):
          ck_gelu_backward_f32(
            x.pointer + from, gradOutput.pointer + from, gradInput.pointer + from, count,
            accumulate ? 1 : 0)
        case .bfloat16(let x):
          ck_gelu_backward_bf16(
            x.pointer + from, gradOutput.pointer + from, gradInput.pointer + from, count,
            accumulate ? 1 : 0)
        }
      }
    }
  }
}

/// SiLU, x sigmoid(x), element-wise.
package struct SiLU: DifferentiableOp {
  package init() {}

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    (inputs[0].mapped(ck_silu_forward_f32), ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    sink.contribute(0) { gradInput, accumulate in
      Parallel.ranges(gradInput.count, grain: grain) { range in
        ck_silu_backward_f32(
          inputs[0].pointer + range.lowerBound, gradOutput.pointer + range.lowerBound,
          gradInput.pointer + range.lowerBound, range.count, accumulate ? 1 : 0)
      }
    }
  }
}

/// Adds the second input to the first; the second may be smaller and repeats along leading axes.
package struct Add: DifferentiableOp {
  package init() {}

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    let y = inputs[0].copied()
    let other = inputs[1]
    precondition(y.count % other.count == 0, "Add: \(y.shape) and \(other.shape)")
    Parallel.ranges(y.count / other.count) { range in
      for index in range {
        ck_add_f32(y.pointer + index * other.count, other.pointer, other.count)
      }
    }
    return (y, ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    if sink.needs(1) {
      sink.add(1) { gradOther in
        for index in 0..<(gradOutput.count / gradOther.count) {
          ck_add_f32(
            gradOther.pointer, gradOutput.pointer + index * gradOther.count, gradOther.count)
        }
      }
    }
    if sink.needs(0) { sink.pass(0, gradOutput) }
  }
}

/// The sum of tensors of one shape, each times a constant.
package struct WeightedSum: DifferentiableOp {
  private let factors: [Float]

  /// Makes the sum; one factor for each input.
  package init(_ factors: [Float]) { self.factors = factors }

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    precondition(
      inputs.count == factors.count && inputs.allSatisfy { $0.shape == inputs[0].shape },
      "WeightedSum: \(factors.count) factors, inputs \(inputs.map(\.shape))")
    let y = Tensor.zeros(inputs[0].shape)
    for (input, factor) in zip(inputs, factors) { add(input, factor, to: y) }
    return (y, ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    for (index, factor) in factors.enumerated() where sink.needs(index) {
      sink.add(index) { add(gradOutput, factor, to: $0) }
    }
  }

  private func add(_ x: Tensor, _ factor: Float, to sum: Tensor) {
    Parallel.ranges(sum.count, grain: grain) { range in
      ck_axpy_f32(
        sum.pointer + range.lowerBound, factor, x.pointer + range.lowerBound, range.count)
    }
  }
}

/// Rows of a table (entries, dim) by index; one input, the table; output (indices, dim).
package struct Embedding: DifferentiableOp {
  private let indices: [Int]

  package init(_ indices: [Int]) { self.indices = indices }

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    let table = inputs[0]
    let dim = table.shape[1]
    let y = Tensor([indices.count, dim])
    for (row, index) in indices.enumerated() {
      precondition(index >= 0 && index < table.shape[0], "Embedding: index \(index)")
      (y.pointer + row * dim).update(from: table.pointer + index * dim, count: dim)
    }
    return (y, ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    let dim = inputs[0].shape[1]
    sink.add(0) { gradTable in
      for (row, index) in indices.enumerated() {
        ck_add_f32(gradTable.pointer + index * dim, gradOutput.pointer + row * dim, dim)
      }
    }
  }
}

/// Puts copies of a row beside each other: x (rows, dim) -> (rows, copies * dim).
package struct RepeatColumns: DifferentiableOp {
  private let copies: Int

  package init(_ copies: Int) { self.copies = copies }

  private func lookup(_ x: Tensor) -> Embedding {
    Embedding((0..<(x.shape[0] * copies)).map { $0 / copies })
  }

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    let x = inputs[0]
    let rows = lookup(x).forward(inputs).output
    return (rows.reshaped([x.shape[0], copies * x.shape[1]]), ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    lookup(inputs[0]).backward(
      gradOutput, inputs: inputs, output: output, saved: (), into: sink)
  }
}
