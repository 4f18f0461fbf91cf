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
/// erases the pixels; and an image never reaches the last row, where it would scroll the screen. Images of the kitty
/// protocol do not go with their cells: they are taken away by `takeRemovals`. As placeholders they are characters
/// like any others, which text may cover in part.
package struct ImageLayer {
  /// An image to draw after curses has written its cells.
  package struct Emission: Equatable, Sendable {
    /// The image and its cells.
    package var image: ImagePlacement
    /// Pixels across, as drawn.
    package var width: Int
    /// Pixels down, as drawn.
    package var height: Int
    /// Cells across that the pixels cover at least in part.
    package var columns: Int
    /// Cells down that the pixels cover at least in part.
    package var rows: Int

    /// Makes an emission; without a number of cells it covers those of the placement.
    package init(
      image: ImagePlacement, width: Int, height: Int, columns: Int? = nil, rows: Int? = nil
    ) {
      self.image = image
      self.width = width
      self.height = height
      self.columns = columns ?? image.columns
      self.rows = rows ?? image.rows
    }
  }

  /// Reserved looks go round, so that an image which has to be erased gets another than it had.
  package static let reservedLooks = 16

  private struct Shown {
    var emission: Emission
    var look: Int
    var isDirty: Bool

    var image: ImagePlacement { emission.image }
  }

  private var shown: [String: Shown] = [:]
  private var lastLook = 0
  private var removed: [String] = []
  /// The images that the terminal holds by the kitty protocol.
  package var kitty = KittyGraphics()

  /// Makes a layer without images.
  package init() {}

  /// Forgets what was drawn: every image is to be drawn again.
  ///
  /// - Returns: The bytes that free what the terminal holds.
  @discardableResult
  package mutating func invalidate() -> [UInt8] {
    (shown, removed) = ([:], [])
    return kitty.removeAll()
  }

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
          character: capabilities.symbols.symbol(for: cell.character), style: cell.style)
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
    defer {
      removed += before.values.filter { !$0.isDirty && shown[$0.image.id]?.look != $0.look }
        .map(\.image.id).sorted()
    }
    guard capabilities.graphics != .none else { return }
    let cell = capabilities.cell(size)
    kitty.isMultiplexed = capabilities.usesPlaceholders
    for (index, image) in frame.images.enumerated() {
      let isPlaced =
        capabilities.hasPixels
        ? !isCovered(index, frame)
          && place(image, before: before, size: size, capabilities: capabilities, cells: &cells)
        : capabilities.usesPlaceholders
          && placeMarks(
            image, before: before, size: size, capabilities: capabilities, frame: frame,
            cells: &cells)
      if isPlaced { continue }
      let hasColors = Palette(colors: capabilities.colors).hasImageColors
      let parts = BlockImage.parts(
        of: image, cellWidth: cell.width, cellHeight: cell.height,
        colors: hasColors && capabilities.graphics != .ascii && capabilities.symbols != .ascii)
      for part in parts where isFree(part.column, part.row, frame, size) {
        let place = part.row * size.columns + part.column
        // What the image does not colour has the colours of the page, which may not be the terminal's.
        var style = part.cell.style
        let page = cells[place].style
        if style.foreground == .default { style.foreground = page.foreground }
        if style.background == .default { style.background = page.background }
        cells[place] = ScreenCell(character: part.cell.character, style: style)
      }
    }
  }

  /// Whether a cell is on the screen and no text lies over the images there.
  private func isFree(_ column: Int, _ row: Int, _ frame: Frame, _ size: Size) -> Bool {
    column >= 0 && column < min(size.columns, frame.columns) && row >= 0
      && row < min(size.rows, frame.rows) && !frame.covering.contains(row * frame.columns + column)
  }

  /// Writes the placeholders of an image; false if there are not enough marks for its size.
  private mutating func placeMarks(
    _ image: ImagePlacement, before: [String: Shown], size: Size,
    capabilities: TerminalCapabilities, frame: Frame, cells: inout [ScreenCell]
  ) -> Bool {
    guard shown[image.id] == nil,
      let emission = Self.emission(of: image, size: size, capabilities: capabilities),
      max(emission.columns, emission.rows) <= KittyGraphics.marks.count
    else { return false }
    let number = kitty.number(of: image, width: emission.width, height: emission.height)
    let old = before[image.id]
    shown[image.id] = Shown(
      emission: emission, look: 0, isDirty: old?.isDirty != false || old?.emission != emission)
    for row in 0..<emission.rows {
      for column in 0..<emission.columns
      where isFree(image.column + column, image.row + row, frame, size) {
        let place = (image.row + row) * size.columns + image.column + column
        cells[place] = KittyGraphics.placeholder(number, row: row, column: column) ?? cells[place]
      }
    }
    return true
  }

  /// The images to draw now, each then taken for drawn; at most `limit` of them.
  package mutating func takeEmissions(limit: Int) -> [Emission] {
    let due = shown.values.filter(\.isDirty)
      .sorted { ($0.image.row, $0.image.column) < ($1.image.row, $1.image.column) }
      .prefix(limit)
    for one in due { shown[one.image.id]?.isDirty = false }
    return due.map(\.emission)
  }

  /// The bytes that take images away which are no longer shown where they were; only kitty's need any.
  package mutating func takeRemovals() -> [UInt8] {
    defer { removed = [] }
    return kitty.remove(removed)
  }

  /// The bytes that draw an image: cursor saved, moved to the cell, sixels, cursor put back; `column` and `row` are
  /// those of the screen's first cell.
  package static func bytes(
    of emission: Emission, sixels: [UInt8], column: Int = 0, row: Int = 0
  ) -> [UInt8] {
    let (left, top) = (column + emission.image.column + 1, row + emission.image.row + 1)
    let move = "\u{1b}7\u{1b}[\(top);\(left)H"
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
    guard let emission = Self.emission(of: image, size: size, capabilities: capabilities) else {
      return false
    }
    let old = before[image.id]
    var moved = old?.emission
    moved?.image = image
    let samePlace =
      moved == emission && old?.image.column == image.column && old?.image.row == image.row
      && old?.image.columns == image.columns && old?.image.rows == image.rows
    let look: Int
    if let old, samePlace {
      // Opaque pixels of the same size: nothing of the old ones stays, no erasing needed.
      look = old.look
    } else if let free = freeLook(before: before) {
      look = free
      lastLook = free
    } else {
      return false
    }
    let isDrawn = samePlace && old?.isDirty == false && old?.emission == emission
    shown[image.id] = Shown(emission: emission, look: look, isDirty: !isDrawn)
    for row in image.row..<(image.row + image.rows) {
      for column in image.column..<(image.column + image.columns) {
        cells[row * size.columns + column] = ScreenCell(reserved: look)
      }
    }
    return true
  }

  /// What to draw of an image: as many pixels as fit into its rectangle; nil for none.
  private static func emission(
    of image: ImagePlacement, size: Size, capabilities: TerminalCapabilities
  ) -> Emission? {
    let cell = capabilities.cell(size)
    var pixels = image.fittedSize(cellWidth: cell.width, cellHeight: cell.height)
    let limit = capabilities.pixelLimit
    let excess = max(
      1, Double(pixels.width) / Double(limit.width), Double(pixels.height) / Double(limit.height))
    pixels.width = Int(Double(pixels.width) / excess)
    pixels.height = Int(Double(pixels.height) / excess)
    // Sixels are drawn in bands of six pixels; a last, partly empty band could reach below the rectangle.
    if capabilities.graphics == .sixel { pixels.height = pixels.height / 6 * 6 }
    guard pixels.width > 0, pixels.height > 0 else { return nil }
    return Emission(
      image: image, width: pixels.width, height: pixels.height,
      columns: (pixels.width + cell.width - 1) / cell.width,
      rows: (pixels.height + cell.height - 1) / cell.height)
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
