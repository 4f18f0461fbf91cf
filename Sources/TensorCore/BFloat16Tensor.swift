import CKernels

/// A dense, contiguous, row-major bfloat16 array.
package struct BFloat16Tensor {
  package let shape: [Int]
  /// Number of elements.
  package let count: Int
  private let storage: Storage

  /// Makes a tensor of the given shape whose elements are not initialised.
  package init(_ shape: [Int]) {
    self.shape = shape
    count = shape.reduce(1, *)
    storage = Storage(bytes: count * MemoryLayout<UInt16>.size)
  }

  /// Rounds a float32 tensor to nearest, ties to even.
  package init(rounding x: Tensor) {
    self.init(x.shape)
    Parallel.ranges(count, grain: 1 << 14) { range in
      ck_bfloat16_from_f32(x.pointer + range.lowerBound, pointer + range.lowerBound, range.count)
    }
  }

  /// The first element, as its bits.
  package var pointer: UnsafeMutablePointer<UInt16> { storage.elements() }

  /// The same values in a new float32 tensor.
  package var float32: Tensor {
    let result = Tensor(shape)
    Parallel.ranges(count, grain: 1 << 14) { range in
      ck_bfloat16_to_f32(
        pointer + range.lowerBound, result.pointer + range.lowerBound, range.count)
    }
    return result
  }
}
