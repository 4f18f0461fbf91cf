import Files

/// Summary of the elements of a tensor.
package struct TensorStatistics: Encodable, Equatable, Sendable {
  /// Mean, root mean square, smallest and largest of the finite elements; nil if there are none.
  package let mean, rms, smallest, largest: Double?
  /// Number of elements that are zero, and of those that are infinite or no numbers.
  package let zeros, nonFinite: Int

  /// Summarises elements, with sums in float64.
  package init(_ elements: some Sequence<Float>) {
    var (count, zeros, nonFinite, sum, squares) = (0, 0, 0, 0.0, 0.0)
    var (smallest, largest) = (Float.infinity, -Float.infinity)
    for element in elements {
      guard element.isFinite else {
        nonFinite += 1
        continue
      }
      count += 1
      if element == 0 { zeros += 1 }
      (smallest, largest) = (min(smallest, element), max(largest, element))
      sum += Double(element)
      squares += Double(element) * Double(element)
    }
    (self.zeros, self.nonFinite) = (zeros, nonFinite)
    let isEmpty = count == 0
    mean = isEmpty ? nil : sum / Double(count)
    rms = isEmpty ? nil : (squares / Double(count)).squareRoot()
    (self.smallest, self.largest) = (
      isEmpty ? nil : Double(smallest), isEmpty ? nil : Double(largest)
    )
  }
}

extension TensorFile {
  /// Summary of the elements of a tensor as float32.
  ///
  /// Pages of the file that hold only this tensor are released afterwards, so that a model is never in memory as a whole.
  ///
  /// - Throws: `FileError` when there is no such tensor or its bytes are damaged.
  package func statistics(of name: String) throws(FileError) -> TensorStatistics {
    let count = try existing(name).count
    let buffer = UnsafeMutableBufferPointer<Float>.allocate(capacity: count)
    defer { buffer.deallocate() }
    try readFloats(name, into: buffer)
    return TensorStatistics(buffer)
  }
}
