import CKernels

/// What passes between the operations of a model: float32, or bfloat16 between operations that work in it.
package enum Activation {
  case floats(Tensor)
  case rounded(RoundedTensor)

  /// Makes one in the format of another; its elements are not initialised.
  package init(_ shape: [Int], like other: Activation) {
    switch other {
    case .floats: self = .floats(Tensor(shape))
    case .rounded: self = .rounded(RoundedTensor(shape))
    }
  }

  package var shape: [Int] {
    switch self {
    case .floats(let tensor): tensor.shape
    case .rounded(let tensor): tensor.shape
    }
  }

  /// The values in float32; a new tensor where they are rounded.
  package var floats: Tensor {
    switch self {
    case .floats(let tensor): tensor
    case .rounded(let tensor): tensor.floats
    }
  }

  /// Reads a part of the rows in float32: where it lies, or from a copy where it is rounded.
  ///
  /// - Parameters:
  ///   - rows: Rows, all axes but the last taken together.
  ///   - starts: First columns of the runs of columns to read.
  ///   - width: Columns of each run.
  ///   - body: Is given the first element of every run, and the elements from one row to the next.
  package func read(
    rows: Range<Int>, from starts: [Int], width: Int,
    _ body: ([UnsafePointer<Float>], _ stride: Int) -> Void
  ) {
    let columns = shape[shape.count - 1]
    switch self {
    case .floats(let tensor):
      let first = UnsafePointer(tensor.pointer + rows.lowerBound * columns)
      withExtendedLifetime(tensor) { body(starts.map { first + $0 }, columns) }
    case .rounded(let tensor):
      let stride = starts.count * width
      let copy = Tensor([rows.count, stride])
      for (index, row) in rows.enumerated() {
        for (run, start) in starts.enumerated() {
          ck_bfloat16_to_f32(
            tensor.halves + row * columns + start, copy.pointer + index * stride + run * width,
            width)
        }
      }
      withExtendedLifetime(copy) {
        body(starts.indices.map { UnsafePointer(copy.pointer + $0 * width) }, stride)
      }
    }
  }

  /// Writes a part of the rows in float32: where it lies, or rounded when all is written.
  ///
  /// - Parameters:
  ///   - rows: Rows, all axes but the last taken together.
  ///   - start: First column.
  ///   - width: Columns, all of which `body` must store.
  ///   - body: Is given the first element, and the elements from one row to the next.
  package func write(
    rows: Range<Int>, from start: Int, width: Int,
    _ body: (UnsafeMutablePointer<Float>, _ stride: Int) -> Void
  ) {
    let columns = shape[shape.count - 1]
    switch self {
    case .floats(let tensor):
      withExtendedLifetime(tensor) {
        body(tensor.pointer + rows.lowerBound * columns + start, columns)
      }
    case .rounded(let tensor):
      let copy = Tensor([rows.count, width])
      body(copy.pointer, width)
      for (index, row) in rows.enumerated() {
        ck_bfloat16_from_f32(
          copy.pointer + index * width, tensor.halves + row * columns + start, width)
      }
    }
  }
}
