/// A size in pixels.
package struct PixelSize: Equatable, Sendable {
  /// Pixels across.
  package let width: Int
  /// Pixels down.
  package let height: Int

  /// Makes a size.
  package init(_ width: Int, _ height: Int) { (self.width, self.height) = (width, height) }

  /// Whether one cell can have this size; terminals may state anything.
  var isCell: Bool { (1...256).contains(width) && (1...256).contains(height) }
}

/// The size of the terminal in cells and, where the terminal states it, of one cell in pixels.
package struct Size: Equatable, Sendable {
  /// Cells in a row.
  package var columns: Int
  /// Rows.
  package var rows: Int
  /// One cell in pixels; nil when unknown.
  package var cell: PixelSize?

  /// Makes a size.
  package init(columns: Int, rows: Int, cell: PixelSize? = nil) {
    self.columns = columns
    self.rows = rows
    self.cell = cell
  }

  /// Makes the size that a terminal states, cut to 1000 x 500 cells.
  ///
  /// - Parameters:
  ///   - columns: Cells in a row, at least 1.
  ///   - rows: Rows, at least 1.
  ///   - window: Pixels of the window, 0 when unknown; they may include a border.
  package init(columns: Int, rows: Int, window: PixelSize) {
    // Rounding down leaves a border out.
    let cell = PixelSize(window.width / columns, window.height / rows)
    self.init(
      columns: min(columns, 1000), rows: min(rows, 500), cell: cell.isCell ? cell : nil)
  }
}
