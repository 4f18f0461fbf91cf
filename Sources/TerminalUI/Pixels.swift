/// RGB pixels, 8 bits each, row-major.
package struct Pixels: Equatable, Sendable {
  /// Pixels across.
  package var width: Int
  /// Pixels down.
  package var height: Int
  /// `width * height * 3` bytes.
  package var bytes: [UInt8]

  /// Makes an image of its bytes.
  package init(width: Int, height: Int, bytes: [UInt8]) {
    self.width = width
    self.height = height
    self.bytes = bytes
  }

  /// Red, green and blue of one pixel.
  package func at(_ x: Int, _ y: Int) -> (UInt8, UInt8, UInt8) {
    let index = (y * width + x) * 3
    return (bytes[index], bytes[index + 1], bytes[index + 2])
  }

  /// The image at another size: each new pixel is the mean of the area that it covers.
  package func resampled(width newWidth: Int, height newHeight: Int) -> Pixels {
    guard width > 0, height > 0, newWidth > 0, newHeight > 0 else {
      return Pixels(width: 0, height: 0, bytes: [])
    }
    if newWidth == width && newHeight == height { return self }
    let across = Self.spans(from: width, to: newWidth)
    let down = Self.spans(from: height, to: newHeight)
    // Rows first: a row of sums of `newWidth` pixels for each old row.
    var rows = [Float](repeating: 0, count: newWidth * 3 * height)
    for y in 0..<height {
      for (x, span) in across.enumerated() {
        var sums: (Float, Float, Float) = (0, 0, 0)
        for (offset, weight) in span.weights.enumerated() {
          let index = (y * width + span.first + offset) * 3
          sums.0 += weight * Float(bytes[index])
          sums.1 += weight * Float(bytes[index + 1])
          sums.2 += weight * Float(bytes[index + 2])
        }
        let index = (y * newWidth + x) * 3
        (rows[index], rows[index + 1], rows[index + 2]) = sums
      }
    }
    var result = [UInt8](repeating: 0, count: newWidth * newHeight * 3)
    for (y, span) in down.enumerated() {
      for column in 0..<(newWidth * 3) {
        var sum: Float = 0
        for (offset, weight) in span.weights.enumerated() {
          sum += weight * rows[(span.first + offset) * newWidth * 3 + column]
        }
        result[y * newWidth * 3 + column] = UInt8(min(255, max(0, sum.rounded())))
      }
    }
    return Pixels(width: newWidth, height: newHeight, bytes: result)
  }

  /// Which old pixels a new one covers, and how much of it each of them is.
  private static func spans(from count: Int, to newCount: Int) -> [(first: Int, weights: [Float])] {
    let scale = Double(count) / Double(newCount)
    return (0..<newCount).map { index in
      let start = Double(index) * scale
      let end = min(Double(count), start + scale)
      let first = min(count - 1, Int(start))
      let last = max(first, min(count - 1, Int(end.rounded(.up)) - 1))
      let weights = (first...last).map { old in
        Float(max(0, min(end, Double(old + 1)) - max(start, Double(old))))
      }
      let total = weights.reduce(0, +)
      return (first, total > 0 ? weights.map { $0 / total } : weights.map { _ in 1 })
    }
  }
}

extension ImagePlacement {
  var source: Pixels { Pixels(width: width, height: height, bytes: pixels) }

  /// The largest size in pixels with the image's aspect ratio in the rectangle of cells.
  package func fittedSize(cellWidth: Int, cellHeight: Int) -> (width: Int, height: Int) {
    guard width > 0, height > 0, columns > 0, rows > 0 else { return (0, 0) }
    let scale = min(
      Double(columns * cellWidth) / Double(width), Double(rows * cellHeight) / Double(height))
    return (
      max(1, Int((Double(width) * scale).rounded(.down))),
      max(1, Int((Double(height) * scale).rounded(.down)))
    )
  }
}
