import COpenBLAS
import TensorCore

/// Inner products of the rows of two sets in double precision, by blocks of matrix products.
enum RowProducts {
  /// Rows of the two sets that are multiplied at a time.
  private static let (leftRows, rightRows) = (64, 1024)

  /// Reduces the products of each row of `left` with all rows of `right` to one number, in parallel over the rows;
  /// the results do not depend on the number of threads.
  ///
  /// - Parameters:
  ///   - left: Features (samples, d).
  ///   - rows: Rows of `left`, in order.
  ///   - right: Features (samples, d).
  ///   - columns: Rows of `right`, in order.
  ///   - body: Reduces the place of a row in `rows` and its products with all `columns`.
  /// - Returns: One number for each of `rows`.
  static func reduce(
    _ left: Tensor, _ rows: [Int], _ right: Tensor, _ columns: [Int],
    _ body: (Int, UnsafeBufferPointer<Double>) -> Double
  ) -> [Double] {
    _ = singleThreaded
    let width = left.shape[1]
    func copy(
      _ set: Tensor, _ chosen: ArraySlice<Int>, to target: UnsafeMutablePointer<Double>
    ) {
      for (place, row) in chosen.enumerated() {
        let source = set.pointer + row * width
        for column in 0..<width { target[place * width + column] = Double(source[column]) }
      }
    }
    var result = [Double](repeating: 0, count: rows.count)
    result.withUnsafeMutableBufferPointer { result in
      let target = UnsafeMutableBufferPointer(rebasing: result[...])
      Parallel.tasks((rows.count + leftRows - 1) / leftRows) { block in
        let own = (block * leftRows)..<min(rows.count, (block + 1) * leftRows)
        let a = UnsafeMutablePointer<Double>.allocate(capacity: leftRows * width)
        let b = UnsafeMutablePointer<Double>.allocate(capacity: rightRows * width)
        let products = UnsafeMutablePointer<Double>.allocate(capacity: own.count * columns.count)
        defer { for buffer in [a, b, products] { buffer.deallocate() } }
        copy(left, rows[own], to: a)
        for first in stride(from: 0, to: columns.count, by: rightRows) {
          let others = first..<min(columns.count, first + rightRows)
          copy(right, columns[others], to: b)
          cblas_dgemm(
            CblasRowMajor, CblasNoTrans, CblasTrans, .init(own.count), .init(others.count),
            .init(width), 1, a, .init(width), b, .init(width), 0, products + first,
            .init(columns.count))
        }
        for (row, index) in own.enumerated() {
          target[index] = body(
            index, UnsafeBufferPointer(start: products + row * columns.count, count: columns.count))
        }
      }
    }
    return result
  }

  /// Squared lengths of rows.
  static func squares(_ set: Tensor, _ rows: [Int]) -> [Double] {
    _ = singleThreaded
    let width = set.shape[1]
    return withUnsafeTemporaryAllocation(of: Double.self, capacity: width) { values in
      rows.map { row in
        for column in 0..<width { values[column] = Double(set[row * width + column]) }
        return cblas_ddot(.init(width), values.baseAddress, 1, values.baseAddress, 1)
      }
    }
  }

  private static let singleThreaded: Void = openblas_set_num_threads(1)
}
