/// 8-bit RGB image, row-major from the top left.
package struct RGBImage: Sendable, Equatable {
  /// Width in pixels.
  package let width: Int
  /// Height in pixels.
  package let height: Int
  /// Interleaved RGB (height, width, 3).
  package var pixels: [UInt8]

  /// Makes an image from its bytes.
  ///
  /// - Precondition: both extents are positive and there are `3 * width * height` bytes.
  package init(width: Int, height: Int, pixels: [UInt8]) {
    precondition(width > 0 && height > 0, "an image needs a positive size")
    precondition(pixels.count == 3 * width * height, "an image needs 3 bytes a pixel")
    self.width = width
    self.height = height
    self.pixels = pixels
  }

  /// Makes an image of one grey level.
  package init(width: Int, height: Int, grey: UInt8 = 0) {
    self.init(
      width: width, height: height, pixels: [UInt8](repeating: grey, count: 3 * width * height))
  }

  /// Red, green and blue of one pixel.
  package func at(_ column: Int, _ row: Int) -> (UInt8, UInt8, UInt8) {
    let index = 3 * (row * width + column)
    return (pixels[index], pixels[index + 1], pixels[index + 2])
  }

  /// Arranges images of one size in rows of `columns`, separated by `gap` dark pixels; empty cells
  /// are dark.
  ///
  /// - Precondition: there is at least one image, all have the same size, `columns` is positive.
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
}
