import Text

/// One cell as it goes to curses.
package struct ScreenCell: Equatable, Sendable {
  /// The character, as in `Cell`.
  package var character: Character = " "
  /// How it is drawn.
  package var style = Style()
  /// Not 0: the cell belongs to an image, is a space, and has the reserved look of that number.
  package var reserved = 0

  /// Makes a cell; without arguments a blank one.
  package init(character: Character = " ", style: Style = Style(), reserved: Int = 0) {
    self.character = character
    self.style = style
    self.reserved = reserved
  }
}

/// Which images are on the screen, and what has to be sent to make it so.
///
/// Pixels cover cells that are spaces for curses. Three rules keep both consistent: the cells under
/// an image have a reserved look (colours and attributes that do not show on a space), so that no
/// erase-to-end-of-line beside the image can cross it; changing the look makes curses rewrite the cells, which
/// erases the pixels; and an image never reaches the last row, where it would scroll the screen.
package struct ImageLayer {
  /// An image to draw after curses has written its cells.
  package struct Emission: Equatable, Sendable {
    /// The image and its cells.
    package var image: ImagePlacement
    /// Pixels across, as drawn.
    package var width: Int
    /// Pixels down, as drawn.
    package var height: Int

    /// Makes an emission.
    package init(image: ImagePlacement, width: Int, height: Int) {
      self.image = image
      self.width = width
      self.height = height
    }
  }

  /// Reserved looks go round, so that an image which has to be erased gets another than it had.
  package static let reservedLooks = 16

  private struct Shown {
    var image: ImagePlacement
    var width: Int
    var height: Int
    var look: Int
    var isDirty: Bool
  }

  private var shown: [String: Shown] = [:]
  private var lastLook = 0

  /// Makes a layer without images.
  package init() {}

  /// Forgets what was drawn: every image is to be drawn again.
  package mutating func invalidate() { shown = [:] }

  /// Whether no image is on the screen as pixels.
  var isEmpty: Bool { shown.isEmpty }

  /// The images that are on the screen but not drawn yet.
  package var pending: Bool { shown.values.contains { $0.isDirty } }

  /// Turns a frame into the screen's cells.
  ///
  /// - Parameters:
  ///   - frame: The frame.
  ///   - size: The screen; the frame is cut or padded to it.
  ///   - capabilities: How images are drawn.
  /// - Returns: `size.columns * size.rows` cells, row by row.
  package mutating func compose(_ frame: Frame, size: Size, capabilities: TerminalCapabilities)
    -> [ScreenCell]
  {
    var cells = [ScreenCell](repeating: ScreenCell(), count: size.columns * size.rows)
    var hasWide = false
    for row in 0..<min(frame.rows, size.rows) {
      for column in 0..<min(frame.columns, size.columns) {
        let cell = frame.cells[row * frame.columns + column]
        cells[row * size.columns + column] = ScreenCell(
          character: cell.character, style: cell.style)
        hasWide = hasWide || cell.character == Cell.continuation
      }
    }
    hasWide = hasWide || frame.columns > size.columns
    placeImages(of: frame, size: size, capabilities: capabilities, cells: &cells)
    if hasWide { Self.repairWideCharacters(&cells, columns: size.columns) }
    return cells
  }

  private mutating func placeImages(
    of frame: Frame, size: Size, capabilities: TerminalCapabilities, cells: inout [ScreenCell]
  ) {
    let before = shown
    shown = [:]
    guard capabilities.graphics != .none else { return }
    let cell = capabilities.cell(size)
    for (index, image) in frame.images.enumerated() {
      if capabilities.graphics == .sixel, !isCovered(index, frame),
        place(image, before: before, size: size, capabilities: capabilities, cells: &cells)
      {
        continue
      }
      let parts = BlockImage.parts(
        of: image, cellWidth: cell.width, cellHeight: cell.height,
        colors: Palette(colors: capabilities.colors).hasImageColors)
      for part in parts
      where part.column >= 0 && part.column < min(size.columns, frame.columns) && part.row >= 0
        && part.row < min(size.rows, frame.rows)
        && !frame.covering.contains(part.row * frame.columns + part.column)
      {
        cells[part.row * size.columns + part.column] = ScreenCell(
          character: part.cell.character, style: part.cell.style)
      }
    }
  }

  /// The images to draw now, each then taken for drawn; at most `limit` of them.
  package mutating func takeEmissions(limit: Int) -> [Emission] {
    let due = shown.values.filter(\.isDirty)
      .sorted { ($0.image.row, $0.image.column) < ($1.image.row, $1.image.column) }
      .prefix(limit)
    for one in due { shown[one.image.id]?.isDirty = false }
    return due.map { Emission(image: $0.image, width: $0.width, height: $0.height) }
  }

  /// The bytes that draw an image: cursor saved, moved to the cell, sixels, cursor put back.
  package static func bytes(of emission: Emission, sixels: [UInt8]) -> [UInt8] {
    let move = "\u{1b}7\u{1b}[\(emission.image.row + 1);\(emission.image.column + 1)H"
    return Array(move.utf8) + sixels + Array("\u{1b}8".utf8)
  }

  /// Whether other cells or a later image cover the image.
  private func isCovered(_ index: Int, _ frame: Frame) -> Bool {
    let image = frame.images[index]
    if frame.covering.contains(where: {
      image.contains(column: $0 % frame.columns, row: $0 / frame.columns)
    }) {
      return true
    }
    return frame.images[(index + 1)...].contains { other in
      other.column < image.column + image.columns && image.column < other.column + other.columns
        && other.row < image.row + image.rows && image.row < other.row + other.rows
    }
  }

  /// Reserves the image's cells; false if its rectangle does not fit above the last row.
  private mutating func place(
    _ image: ImagePlacement, before: [String: Shown], size: Size,
    capabilities: TerminalCapabilities, cells: inout [ScreenCell]
  ) -> Bool {
    guard shown[image.id] == nil, image.columns > 0, image.rows > 0, image.column >= 0,
      image.row >= 0, image.column + image.columns <= size.columns,
      image.row + image.rows < size.rows
    else { return false }
    let cell = capabilities.cell(size)
    var pixels = image.fittedSize(cellWidth: cell.width, cellHeight: cell.height)
    let limit = capabilities.largestImage ?? PixelSize(1000, 1000)
    let excess = max(
      1, Double(pixels.width) / Double(limit.width), Double(pixels.height) / Double(limit.height))
    pixels.width = Int(Double(pixels.width) / excess)
    // Sixels are drawn in bands of six pixels; a last, partly empty band could reach below the rectangle.
    pixels.height = Int(Double(pixels.height) / excess) / 6 * 6
    guard pixels.width > 0, pixels.height > 0 else { return false }

    let old = before[image.id]
    let samePlace = old.map {
      $0.image.column == image.column && $0.image.row == image.row
        && $0.image.columns == image.columns && $0.image.rows == image.rows
        && $0.width == pixels.width && $0.height == pixels.height
    }
    let look: Int
    if let old, samePlace == true {
      // Opaque pixels of the same size: nothing of the old ones stays, no erasing needed.
      look = old.look
    } else if let free = freeLook(before: before) {
      look = free
      lastLook = free
    } else {
      return false
    }
    let isDrawn =
      samePlace == true && old?.isDirty == false && old?.image.contentHash == image.contentHash
      && old?.image.picture.width == image.picture.width
      && old?.image.picture.height == image.picture.height
    shown[image.id] = Shown(
      image: image, width: pixels.width, height: pixels.height, look: look, isDirty: !isDrawn)
    for row in image.row..<(image.row + image.rows) {
      for column in image.column..<(image.column + image.columns) {
        cells[row * size.columns + column] = ScreenCell(reserved: look)
      }
    }
    return true
  }

  /// Blanks halves of wide characters that an image or the screen's edge has cut.
  private static func repairWideCharacters(_ cells: inout [ScreenCell], columns: Int) {
    for index in cells.indices {
      if cells[index].character == Cell.continuation {
        let left = index % columns == 0 ? " " : cells[index - 1].character
        if TextWidth.columns(of: String(left)) != 2 { cells[index].character = " " }
      } else if TextWidth.columns(of: String(cells[index].character)) == 2 {
        let fits = (index + 1) % columns != 0 && cells[index + 1].character == Cell.continuation
        if !fits { cells[index].character = " " }
      }
    }
  }

  private func freeLook(before: [String: Shown]) -> Int? {
    let used = Set(before.values.map(\.look)).union(shown.values.map(\.look))
    return (1...Self.reservedLooks).lazy
      .map { (lastLook + $0 - 1) % Self.reservedLooks + 1 }
      .first { !used.contains($0) }
  }
}
