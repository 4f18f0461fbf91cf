import Text

/// A picture of the whole screen: a grid of styled cells and the images on it.
///
/// A value: views draw into one, tests compare its `text()`, the terminal shows it. Everything outside the grid is
/// clipped. Painter's order: what is drawn later covers what was there, images included.
package struct Frame: Equatable, Sendable {
  /// The place of a cell.
  package struct Position: Equatable, Sendable {
    /// Its column, from 0 on.
    package let column: Int
    /// Its row, from 0 on.
    package let row: Int

    /// Makes a position.
    package init(column: Int, row: Int) { (self.column, self.row) = (column, row) }
  }

  /// Cells in a row.
  package let columns: Int
  /// Rows.
  package let rows: Int
  /// The images, in painting order.
  package var images: [ImagePlacement] = []
  /// Where the text cursor is shown; nil hides it.
  package var cursor: Position?

  /// The colour behind images that do not fill their cells.
  package var page = Color.default
  /// What a click does, in painting order; the last one at a cell counts.
  package var targets: [MouseTarget] = []

  package private(set) var cells: [Cell]
  /// Cells that were written after an image was placed under them.
  package private(set) var covering: Set<Int> = []

  /// Makes a blank frame.
  package init(columns: Int, rows: Int) {
    self.columns = max(0, columns)
    self.rows = max(0, rows)
    cells = Array(repeating: Cell(), count: self.columns * self.rows)
  }

  /// The cell at a position; a blank one outside the grid, where writing does nothing.
  ///
  /// Writing a wide character takes the next cell too.
  package subscript(column: Int, row: Int) -> Cell {
    get { contains(column, row) ? cells[row * columns + column] : Cell() }
    set {
      guard let piece = TextWidth.pieces(of: String(newValue.character)).first else { return }
      write(piece, column: column, row: row, style: newValue.style, limit: columns)
    }
  }

  /// Writes text from a position to the right, clipped to the grid and to `maxColumns` columns.
  ///
  /// - Parameters:
  ///   - text: The text; what could control the terminal is drawn as an escape, see `String.printable`.
  ///   - column: The column of the first character; may be negative.
  ///   - row: The row.
  ///   - style: How it is drawn.
  ///   - maxColumns: The most columns to use; nil for as many as there are.
  /// - Returns: The columns that the text took, clipped ones left of the grid included.
  @discardableResult
  package mutating func put(
    _ text: String, column: Int, row: Int, style: Style = Style(), maxColumns: Int? = nil
  ) -> Int {
    let limit = maxColumns.map { min(columns, column + max(0, $0)) } ?? columns
    var position = column
    for piece in TextWidth.pieces(of: text) {
      guard position + piece.columns <= limit else { break }
      write(piece, column: position, row: row, style: style, limit: limit)
      position += piece.columns
    }
    return position - column
  }

  /// Fills a rectangle with one narrow character.
  package mutating func fill(
    column: Int, row: Int, columns: Int, rows: Int, character: Character = " ",
    style: Style = Style()
  ) {
    // A wide character becomes a space.
    let pieces = TextWidth.pieces(of: "\(character) ")
    guard let narrow = pieces.first(where: { $0.columns == 1 }) else { return }
    for y in max(0, row)..<max(max(0, row), min(self.rows, row + rows)) {
      for x in max(0, column)..<max(max(0, column), min(self.columns, column + columns)) {
        write(narrow, column: x, row: y, style: style)
      }
    }
  }

  /// Changes the style of a rectangle and leaves its characters.
  package mutating func restyle(
    column: Int, row: Int, columns: Int, rows: Int = 1, _ change: (inout Style) -> Void
  ) {
    for y in max(0, row)..<max(max(0, row), min(self.rows, row + rows)) {
      for x in max(0, column)..<max(max(0, column), min(self.columns, column + columns)) {
        change(&cells[y * self.columns + x].style)
      }
    }
  }

  /// Changes the style of every cell.
  package mutating func restyle(_ change: (Style) -> Style) {
    // Neighbours mostly have the same style.
    var last = (from: Style(), to: change(Style()))
    for index in cells.indices {
      if cells[index].style != last.from {
        last = (cells[index].style, change(cells[index].style))
      }
      cells[index].style = last.to
    }
  }

  /// What a click at a cell does; nil for nothing.
  package func target(column: Int, row: Int) -> MouseTarget.Meaning? {
    targets.last { $0.contains(column: column, row: row) }?.meaning
  }

  /// Draws a horizontal line.
  package mutating func hline(
    column: Int, row: Int, columns: Int, style: Style = Style(), character: Character = "─"
  ) {
    fill(column: column, row: row, columns: columns, rows: 1, character: character, style: style)
  }

  /// Draws a vertical line.
  package mutating func vline(
    column: Int, row: Int, rows: Int, style: Style = Style(), character: Character = "│"
  ) {
    fill(column: column, row: row, columns: 1, rows: rows, character: character, style: style)
  }

  /// Draws a border with square corners, its inside blank, its title in the upper edge.
  package mutating func box(
    column: Int, row: Int, columns: Int, rows: Int, style: Style = Style(), title: String = "",
    titleStyle: Style? = nil
  ) {
    guard columns >= 2, rows >= 2 else { return }
    let right = column + columns - 1
    let bottom = row + rows - 1
    fill(column: column + 1, row: row + 1, columns: columns - 2, rows: rows - 2, style: style)
    hline(column: column + 1, row: row, columns: columns - 2, style: style)
    hline(column: column + 1, row: bottom, columns: columns - 2, style: style)
    vline(column: column, row: row + 1, rows: rows - 2, style: style)
    vline(column: right, row: row + 1, rows: rows - 2, style: style)
    for (x, y, corner) in [
      (column, row, "┌"), (right, row, "┐"), (column, bottom, "└"), (right, bottom, "┘"),
    ] {
      put(corner, column: x, row: y, style: style)
    }
    if !title.isEmpty && columns > 6 {
      put(
        " \(title) ", column: column + 2, row: row, style: titleStyle ?? style,
        maxColumns: columns - 4)
    }
  }

  /// Copies another frame's cells and images onto this one.
  package mutating func draw(_ other: Frame, column: Int, row: Int) {
    for y in 0..<other.rows {
      for x in 0..<other.columns {
        let cell = other.cells[y * other.columns + x]
        guard cell.character != Cell.continuation else { continue }
        self[column + x, row + y] = cell
      }
    }
    for image in other.images {
      var moved = image
      moved.column += column
      moved.row += row
      place(moved)
    }
  }

  /// Puts an image on the frame as far as it fits above the last row, where sixel output would
  /// scroll the terminal.
  package mutating func place(_ image: ImagePlacement) {
    var clipped = image
    clipped.rows = min(image.rows, rows - 1 - image.row)
    clipped.columns = min(image.columns, columns - image.column)
    if clipped.rows > 0, clipped.columns > 0 { images.append(clipped) }
  }

  /// The characters alone: rows joined by newlines, spaces at their ends removed.
  package func text() -> String {
    (0..<rows).map { row in
      var line = ""
      for cell in cells[(row * columns)..<((row + 1) * columns)]
      where cell.character != Cell.continuation {
        line.append(cell.character)
      }
      while line.last == " " { line.removeLast() }
      return line
    }.joined(separator: "\n")
  }

  // MARK: - Cells

  private func contains(_ column: Int, _ row: Int) -> Bool {
    column >= 0 && column < columns && row >= 0 && row < rows
  }

  /// Writes one piece; half of a wide character that would hang over an edge becomes a space.
  private mutating func write(
    _ piece: TextWidth.Piece, column: Int, row: Int, style: Style, limit: Int? = nil
  ) {
    let limit = min(limit ?? columns, columns)
    let whole = column >= 0 && column + piece.columns <= limit
    for (offset, position) in (column..<(column + piece.columns)).enumerated()
    where position >= 0 && position < limit && row >= 0 && row < rows {
      let character: Character =
        whole ? (offset == 0 ? piece.character : Cell.continuation) : " "
      set(Cell(character: character, style: style), position, row)
    }
  }

  /// Stores a cell and blanks the other half of a wide character that it cuts.
  private mutating func set(_ cell: Cell, _ column: Int, _ row: Int) {
    let index = row * columns + column
    if cell.character != Cell.continuation && cells[index].character == Cell.continuation
      && column > 0
    {
      cells[index - 1].character = " "
    }
    if column + 1 < columns && cells[index].character != Cell.continuation
      && cells[index + 1].character == Cell.continuation
    {
      cells[index + 1].character = " "
    }
    cells[index] = cell
    cover(column, row)
  }

  private mutating func cover(_ column: Int, _ row: Int) {
    guard !images.isEmpty else { return }
    if images.contains(where: { $0.contains(column: column, row: row) }) {
      covering.insert(row * columns + column)
    }
  }
}
