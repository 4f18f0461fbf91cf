import CKernels
import TensorCore

/// SiLU of the first half of the channels times the second: (..., 2 width) -> (..., width), in the input's format.
///
/// Source: Shazeer, arXiv 2002.05202.
package struct SwiGLU: MixedPrecisionOp {
  package init() {}

  package func forward(_ inputs: [MixedTensor]) -> (output: MixedTensor, saved: Void) {
    let shape = inputs[0].shape
    let width = shape[shape.count - 1] / 2
    let y = MixedTensor(shape.dropLast() + [width], like: inputs[0])
    Parallel.ranges(y.count / width, grain: max(1, 4096 / width)) { range in
      inputs[0].read(rows: range, from: [0, width], width: width) { places, stride in
        y.write(rows: range, from: 0, width: width) { place, outStride in
          ck_swiglu_forward_f32(
            places[0], places[1], stride, place, outStride, range.count, width)
        }
      }
    }
    return (y, ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [MixedTensor], output: MixedTensor, saved: Void,
    into sink: GradientSink
  ) {
    let x = inputs[0].float32
    let width = x.shape[x.shape.count - 1] / 2
    let gradient = Tensor(x.shape)
    Parallel.ranges(x.count / (2 * width), grain: max(1, 4096 / width)) { range in
      let (from, to) = (
        x.pointer + range.lowerBound * 2 * width, gradient.pointer + range.lowerBound * 2 * width
      )
      ck_swiglu_backward_f32(
        gradOutput.pointer + range.lowerBound * width, from, from + width, 2 * width, to,
        to + width, 2 * width, range.count, width)
    }
    sink.pass(0, gradient)
  }
}
