import Pictures

/// Images as text: two pixels a cell with the upper half block, or one shaded character without colours.
package enum BlockImage {
  /// One cell of an image.
  package struct Part: Equatable, Sendable {
    /// The column of the screen.
    package var column: Int
    /// The row of the screen.
    package var row: Int
    /// What is drawn there.
    package var cell: Cell
  }

  private static let shades = Array(" .:-=+*#%@")

  /// The cells of an image, upper left corner first; positions are those of the screen.
  package static func parts(of image: ImagePlacement, cellWidth: Int, cellHeight: Int, colors: Bool)
    -> [Part]
  {
    let size = image.fittedSize(cellWidth: cellWidth, cellHeight: cellHeight)
    guard size.width > 0 else { return [] }
    let down = colors ? image.rows * 2 : image.rows
    let pixelHeight = Double(image.rows * cellHeight) / Double(down)
    let width = fit(Double(size.width) / Double(cellWidth), limit: image.columns)
    let height = fit(Double(size.height) / pixelHeight, limit: down)
    let pixels = image.scaled(width: width, height: height)
    return colors ? halfBlocks(pixels, image) : shaded(pixels, image)
  }

  private static func fit(_ length: Double, limit: Int) -> Int {
    min(limit, max(1, Int(length.rounded())))
  }

  private static func halfBlocks(_ pixels: RGBImage, _ image: ImagePlacement) -> [Part] {
    var parts: [Part] = []
    for row in 0..<((pixels.height + 1) / 2) {
      for column in 0..<pixels.width {
        let upper = pixels.at(column, row * 2)
        var style = Style(foreground: .rgb(upper.0, upper.1, upper.2))
        if row * 2 + 1 < pixels.height {
          let lower = pixels.at(column, row * 2 + 1)
          style.background = .rgb(lower.0, lower.1, lower.2)
        }
        parts.append(
          Part(
            column: image.column + column, row: image.row + row,
            cell: Cell(character: "▀", style: style)))
      }
    }
    return parts
  }

  private static func shaded(_ pixels: RGBImage, _ image: ImagePlacement) -> [Part] {
    var parts: [Part] = []
    for row in 0..<pixels.height {
      for column in 0..<pixels.width {
        let (red, green, blue) = pixels.at(column, row)
        let light = (299 * Int(red) + 587 * Int(green) + 114 * Int(blue)) / 1000
        parts.append(
          Part(
            column: image.column + column, row: image.row + row,
            cell: Cell(character: shades[light * (shades.count - 1) / 255])))
      }
    }
    return parts
  }
}
