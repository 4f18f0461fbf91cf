import CKernels

/// A tensor that passes between operations, in float32 or in bfloat16.
package enum MixedTensor {
  case float32(Tensor)
  case bfloat16(BFloat16Tensor)

  /// Makes a tensor in the number format of another; its elements are not initialised.
  package init(_ shape: [Int], like other: MixedTensor) {
    self.init(shape, isBFloat16: other.isBFloat16)
  }

  /// Makes a tensor in either number format; its elements are not initialised.
  package init(_ shape: [Int], isBFloat16: Bool) {
    self = isBFloat16 ? .bfloat16(BFloat16Tensor(shape)) : .float32(Tensor(shape))
  }

  package var isBFloat16: Bool {
    if case .bfloat16 = self { true } else { false }
  }

  package var shape: [Int] {
    switch self {
    case .float32(let tensor): tensor.shape
    case .bfloat16(let tensor): tensor.shape
    }
  }

  /// Number of elements.
  package var count: Int {
    switch self {
    case .float32(let tensor): tensor.count
    case .bfloat16(let tensor): tensor.count
    }
  }

  /// The values in float32; a new tensor if they are bfloat16.
  package var float32: Tensor {
    switch self {
    case .float32(let tensor): tensor
    case .bfloat16(let tensor): tensor.float32
    }
  }

  /// Address of an element, for kernels that take either number format.
  package func address(of element: Int) -> UnsafeMutableRawPointer {
    switch self {
    case .float32(let tensor): UnsafeMutableRawPointer(tensor.pointer + element)
    case .bfloat16(let tensor): UnsafeMutableRawPointer(tensor.pointer + element)
    }
  }

  /// Reads columns of some rows in float32: in place, or from a copy of bfloat16.
  ///
  /// - Parameters:
  ///   - rows: Rows, all axes but the last taken together.
  ///   - starts: First column of each run of columns.
  ///   - width: Columns of each run.
  ///   - body: Receives the first element of every run and the row stride in elements.
  package func read(
    rows: Range<Int>, from starts: [Int], width: Int,
    _ body: ([UnsafePointer<Float>], _ stride: Int) -> Void
  ) {
    let columns = shape[shape.count - 1]
    switch self {
    case .float32(let tensor):
      let first = UnsafePointer(tensor.pointer + rows.lowerBound * columns)
      withExtendedLifetime(tensor) { body(starts.map { first + $0 }, columns) }
    case .bfloat16(let tensor):
      let stride = starts.count * width
      let copy = Tensor([rows.count, stride])
      for (index, row) in rows.enumerated() {
        for (run, start) in starts.enumerated() {
          ck_bfloat16_to_f32(
            tensor.pointer + row * columns + start, copy.pointer + index * stride + run * width,
            width)
        }
      }
      withExtendedLifetime(copy) {
        body(starts.indices.map { UnsafePointer(copy.pointer + $0 * width) }, stride)
      }
    }
  }

  /// Writes columns of some rows in float32: in place, or into a copy that is rounded afterwards.
  ///
  /// - Parameters:
  ///   - rows: Rows, all axes but the last taken together.
  ///   - start: First column.
  ///   - width: Columns, all of which `body` must store.
  ///   - body: Receives the first element and the row stride in elements.
  package func write(
    rows: Range<Int>, from start: Int, width: Int,
    _ body: (UnsafeMutablePointer<Float>, _ stride: Int) -> Void
  ) {
    let columns = shape[shape.count - 1]
    switch self {
    case .float32(let tensor):
      withExtendedLifetime(tensor) {
        body(tensor.pointer + rows.lowerBound * columns + start, columns)
      }
    case .bfloat16(let tensor):
      let copy = Tensor([rows.count, width])
      body(copy.pointer, width)
      for (index, row) in rows.enumerated() {
        ck_bfloat16_from_f32(
          copy.pointer + index * width, tensor.pointer + row * columns + start, width)
      }
    }
  }
}
