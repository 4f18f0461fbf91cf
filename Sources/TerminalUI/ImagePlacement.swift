import Pictures

/// An image on the screen: its pixels and the rectangle of cells that it is fitted into.
///
/// The aspect ratio is kept, the image starts at the rectangle's upper left corner. Cells written into the
/// rectangle after the image was added to the frame cover it.
package struct ImagePlacement: Equatable, Sendable {
  /// The name by which an image is followed from frame to frame.
  package var id: String
  /// The leftmost cell.
  package var column: Int
  /// The uppermost cell.
  package var row: Int
  /// Cells across.
  package var columns: Int
  /// Cells down.
  package var rows: Int
  /// The pixels.
  package var picture: RGBImage
  /// A hash of the pixels; equal hashes are taken for equal images.
  package var contentHash: Int

  /// Makes a placement, hashing the pixels unless the hash is already known.
  package init(
    id: String, column: Int, row: Int, columns: Int, rows: Int, picture: RGBImage,
    contentHash: Int? = nil
  ) {
    self.id = id
    self.column = column
    self.row = row
    self.columns = columns
    self.rows = rows
    self.picture = picture
    self.contentHash = contentHash ?? Self.hash(of: picture.pixels)
  }

  /// A 64-bit FNV-1a hash of the bytes, the same in every process.
  package static func hash(of pixels: [UInt8]) -> Int {
    var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    for byte in pixels {
      hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3
    }
    return Int(truncatingIfNeeded: hash)
  }

  /// Compares everything but the pixels, which are compared by their hash.
  package static func == (a: ImagePlacement, b: ImagePlacement) -> Bool {
    a.id == b.id && a.column == b.column && a.row == b.row && a.columns == b.columns
      && a.rows == b.rows && a.picture.width == b.picture.width
      && a.picture.height == b.picture.height && a.contentHash == b.contentHash
  }

  /// The largest size in pixels with the image's aspect ratio in the rectangle of cells.
  package func fittedSize(cellWidth: Int, cellHeight: Int) -> (width: Int, height: Int) {
    guard columns > 0, rows > 0 else { return (0, 0) }
    let (width, height) = (Double(picture.width), Double(picture.height))
    let scale = min(Double(columns * cellWidth) / width, Double(rows * cellHeight) / height)
    return (
      max(1, Int((width * scale).rounded(.down))), max(1, Int((height * scale).rounded(.down)))
    )
  }

  /// The picture at another size: averaged smoothly downwards, with pixels repeated upwards.
  func scaled(width: Int, height: Int) -> RGBImage {
    picture.resampled(
      width: width, height: height, width < picture.width ? .bicubic : .box)
  }

  func contains(column: Int, row: Int) -> Bool {
    column >= self.column && column < self.column + columns && row >= self.row
      && row < self.row + rows
  }
}
