import CKernels

/// A row-major matrix in bfloat16, on its way from one product to the next.
package struct RoundedMatrix {
  package let rows, columns: Int
  /// Two elements in the place of a float.
  let memory: Tensor

  init(rows: Int, columns: Int) {
    (self.rows, self.columns) = (rows, columns)
    memory = Tensor([(rows * columns + 1) / 2])
  }

  /// The elements' bits.
  var halves: UnsafeMutablePointer<UInt16> {
    UnsafeMutableRawPointer(memory.pointer).assumingMemoryBound(to: UInt16.self)
  }

  /// The same in float32 (rows, columns).
  package func floats() -> Tensor {
    let result = Tensor([rows, columns])
    Parallel.ranges(result.count, grain: 1 << 14) { range in
      ck_bfloat16_to_f32(
        halves + range.lowerBound, result.pointer + range.lowerBound, range.count)
    }
    return result
  }
}
