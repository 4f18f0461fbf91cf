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
  /// Pixels across, in the source.
  package var width: Int
  /// Pixels down, in the source.
  package var height: Int
  /// RGB, 8 bits each, row-major: `width * height * 3` bytes.
  package var pixels: [UInt8]
  /// A hash of the pixels; equal hashes are taken for equal images.
  package var contentHash: Int

  /// Makes a placement, hashing the pixels unless the hash is already known.
  package init(
    id: String, column: Int, row: Int, columns: Int, rows: Int, width: Int, height: Int,
    pixels: [UInt8], contentHash: Int? = nil
  ) {
    precondition(
      pixels.count == width * height * 3, "pixels must be RGB8 of \(width) x \(height)")
    self.id = id
    self.column = column
    self.row = row
    self.columns = columns
    self.rows = rows
    self.width = width
    self.height = height
    self.pixels = pixels
    self.contentHash = contentHash ?? Self.hash(of: pixels)
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
      && a.rows == b.rows && a.width == b.width && a.height == b.height
      && a.contentHash == b.contentHash
  }

  func contains(column: Int, row: Int) -> Bool {
    column >= self.column && column < self.column + columns && row >= self.row
      && row < self.row + rows
  }
}
