/// A picture of eight-bit red, green and blue, row-major from the top left.
package struct RGBImage: Sendable, Equatable {
  /// Columns.
  package let width: Int
  /// Rows.
  package let height: Int
  /// `3 * width * height` bytes.
  package var pixels: [UInt8]

  /// Makes a picture from its bytes.
  ///
  /// - Precondition: both extents are positive and there are `3 * width * height` bytes.
  package init(width: Int, height: Int, pixels: [UInt8]) {
    precondition(width > 0 && height > 0, "an image needs a positive size")
    precondition(pixels.count == 3 * width * height, "an image needs 3 bytes a pixel")
    self.width = width
    self.height = height
    self.pixels = pixels
  }

  /// Makes a picture of one grey level.
  package init(width: Int, height: Int, grey: UInt8 = 0) {
    self.init(
      width: width, height: height, pixels: [UInt8](repeating: grey, count: 3 * width * height))
  }

  /// The picture at another size: each axis averages by area downwards and repeats upwards.
  ///
  /// - Precondition: both extents are positive.
  package func scaled(width newWidth: Int, height newHeight: Int) -> RGBImage {
    precondition(newWidth > 0 && newHeight > 0, "an image needs a positive size")
    if newWidth == width && newHeight == height { return self }
    let columns = Self.shares(from: width, to: newWidth)
    let rows = Self.shares(from: height, to: newHeight)
    var result = RGBImage(width: newWidth, height: newHeight)
    for (top, row) in rows.enumerated() {
      for (left, column) in columns.enumerated() {
        var sum: (Float, Float, Float) = (0, 0, 0)
        for (y, down) in row {
          for (x, across) in column {
            let share = down * across
            let at = 3 * (y * width + x)
            sum.0 += share * Float(pixels[at])
            sum.1 += share * Float(pixels[at + 1])
            sum.2 += share * Float(pixels[at + 2])
          }
        }
        let at = 3 * (top * newWidth + left)
        result.pixels[at] = UInt8(min(255, max(0, sum.0.rounded())))
        result.pixels[at + 1] = UInt8(min(255, max(0, sum.1.rounded())))
        result.pixels[at + 2] = UInt8(min(255, max(0, sum.2.rounded())))
      }
    }
    return result
  }

  /// Pictures of one size laid out row by row, `gap` dark pixels apart; missing ones stay dark.
  ///
  /// - Precondition: there is at least one picture, all have the same size, `columns` is positive.
  package static func grid(_ images: [RGBImage], columns: Int, gap: Int) -> RGBImage {
    precondition(columns > 0 && gap >= 0, "a grid needs columns and a gap of 0 or more")
    guard let first = images.first else { preconditionFailure("a grid needs an image") }
    let across = min(columns, images.count)
    let down = (images.count + across - 1) / across
    var result = RGBImage(
      width: across * (first.width + gap) - gap, height: down * (first.height + gap) - gap, grey: 24
    )
    for (index, image) in images.enumerated() {
      precondition(
        image.width == first.width && image.height == first.height,
        "the images of a grid need one size")
      let left = index % across * (first.width + gap)
      let top = index / across * (first.height + gap)
      for row in 0..<image.height {
        let source = 3 * row * image.width
        let target = 3 * ((top + row) * result.width + left)
        result.pixels.replaceSubrange(
          target..<target + 3 * image.width, with: image.pixels[source..<source + 3 * image.width])
      }
    }
    return result
  }

  /// For each new cell of an axis, the old cells it covers and their shares, which sum to one.
  private static func shares(from old: Int, to new: Int) -> [[(index: Int, share: Float)]] {
    (0..<new).map { cell in
      if new >= old { return [(index: min(old - 1, (2 * cell + 1) * old / (2 * new)), share: 1)] }
      // Whole-number arithmetic: the axis has old * new units, an old cell `new`, a new cell `old`.
      let (begin, end) = (cell * old, (cell + 1) * old)
      return (begin / new...(end - 1) / new).map { index in
        let covered = min(end, (index + 1) * new) - max(begin, index * new)
        return (index: index, share: Float(covered) / Float(old))
      }
    }
  }
}
