import CKernels

/// A dense, row-major array in bfloat16, on its way from one operation to the next.
package struct RoundedTensor {
  package let shape: [Int]
  /// Number of elements.
  package let count: Int
  /// Two elements in the place of a float.
  private let memory: Tensor

  /// Makes an array whose elements are not initialised.
  package init(_ shape: [Int]) {
    self.shape = shape
    count = shape.reduce(1, *)
    memory = Tensor([(count + 1) / 2])
  }

  /// Rounds to nearest, ties to even.
  package init(rounding x: Tensor) {
    self.init(x.shape)
    Parallel.ranges(count, grain: 1 << 14) { range in
      ck_bfloat16_from_f32(x.pointer + range.lowerBound, halves + range.lowerBound, range.count)
    }
  }

  /// The elements' bits.
  package var halves: UnsafeMutablePointer<UInt16> {
    UnsafeMutableRawPointer(memory.pointer).assumingMemoryBound(to: UInt16.self)
  }

  /// The same in float32.
  package var floats: Tensor {
    let result = Tensor(shape)
    Parallel.ranges(count, grain: 1 << 14) { range in
      ck_bfloat16_to_f32(
        halves + range.lowerBound, result.pointer + range.lowerBound, range.count)
    }
    return result
  }
}
