import CKernels
import TensorCore

/// Puts copies of a row beside each other: x (rows, dim) -> (rows, copies * dim).
package struct RepeatColumns: DifferentiableOp {
  private let copies: Int

  package init(_ copies: Int) { self.copies = copies }

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    let x = inputs[0]
    let dim = x.shape[1]
    let y = Tensor([x.shape[0], copies * dim])
    for index in 0..<(x.shape[0] * copies) {
      (y.pointer + index * dim).update(from: x.pointer + index / copies * dim, count: dim)
    }
    return (y, ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    let dim = inputs[0].shape[1]
    sink.add(0) { gradX in
      for index in 0..<(inputs[0].shape[0] * copies) {
        ck_add_f32(
          gradX.pointer + index / copies * dim, gradOutput.pointer + index * dim, dim)
      }
    }
  }
}
