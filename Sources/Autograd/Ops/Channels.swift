import CKernels
import TensorCore

/// Some neighbouring channels in float32: (..., channels) -> (..., range.count).
package struct ChannelSlice: MixedPrecisionOp {
  private let range: Range<Int>

  package init(_ range: Range<Int>) { self.range = range }

  package func forward(_ inputs: [MixedTensor]) -> (output: MixedTensor, saved: Void) {
    let shape = inputs[0].shape
    let width = shape[shape.count - 1]
    precondition(range.upperBound <= width, "ChannelSlice: \(range) of \(shape)")
    let y = Tensor(shape.dropLast() + [range.count])
    Parallel.ranges(y.count / range.count, grain: max(1, 8192 / range.count)) { rows in
      for row in rows {
        let (from, to) = (row * width + range.lowerBound, y.pointer + row * range.count)
        switch inputs[0] {
        case .float32(let x): to.update(from: x.pointer + from, count: range.count)
        case .bfloat16(let x): ck_bfloat16_to_f32(x.pointer + from, to, range.count)
        }
      }
    }
    return (.float32(y), ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [MixedTensor], output: MixedTensor, saved: Void,
    into sink: GradientSink
  ) {
    let width = inputs[0].shape[inputs[0].shape.count - 1]
    sink.add(0) { gradX in
      Parallel.ranges(gradX.count / width, grain: max(1, 8192 / range.count)) { rows in
        for row in rows {
          ck_add_f32(
            gradX.pointer + row * width + range.lowerBound,
            gradOutput.pointer + row * range.count, range.count)
        }
      }
    }
  }
}

/// Concatenates the channels of two tensors: (..., a) and (..., b) -> (..., a + b).
package struct ConcatenateChannels: DifferentiableOp {
  package init() {}

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    precondition(
      inputs[0].shape.dropLast() == inputs[1].shape.dropLast(),
      "ConcatenateChannels: \(inputs[0].shape), \(inputs[1].shape)")
    let widths = inputs.map { $0.shape[$0.shape.count - 1] }
    let width = widths[0] + widths[1]
    let y = Tensor(inputs[0].shape.dropLast() + [width])
    Parallel.ranges(y.count / width, grain: max(1, 8192 / width)) { rows in
      for row in rows {
        let target = y.pointer + row * width
        target.update(from: inputs[0].pointer + row * widths[0], count: widths[0])
        (target + widths[0]).update(from: inputs[1].pointer + row * widths[1], count: widths[1])
      }
    }
    return (y, ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    let width = output.shape[output.shape.count - 1]
    for index in 0..<2 where sink.needs(index) {
      let own = inputs[index].shape[inputs[index].shape.count - 1]
      let start = index == 0 ? 0 : width - own
      sink.add(index) { gradient in
        Parallel.ranges(gradient.count / own, grain: max(1, 8192 / own)) { rows in
          for row in rows {
            ck_add_f32(
              gradient.pointer + row * own, gradOutput.pointer + row * width + start, own)
          }
        }
      }
    }
  }
}
