import TerminalUI

/// A rectangle of cells.
package struct Rect: Equatable, Sendable {
  /// The leftmost column.
  package var column: Int
  /// The topmost row.
  package var row: Int
  /// Width in cells.
  package var columns: Int
  /// Height in cells.
  package var rows: Int

  /// The column just right of it.
  package var right: Int { column + columns }
  /// The row just below it.
  package var bottom: Int { row + rows }

  /// The rectangle without some rows at its top.
  package func dropping(top count: Int) -> Rect {
    Rect(column: column, row: row + count, columns: columns, rows: max(0, rows - count))
  }
}

/// Sizes of panes that were chosen with the mouse on a screen with a place for every pane.
package struct PaneSizes: Codable, Equatable, Sendable {
  /// Columns left of the separator.
  package var left: Int?
  /// Rows of the images.
  package var images: Int?

  /// The usual sizes.
  package init() {}
}

/// The rectangles of all panes on a screen; a pure function of its size, of the model's depth and of chosen sizes.
///
/// Small screens fold the blocks into two columns, with the slot's panel at the side and images and losses in a strip
/// below. From 120x40 on each block has a row with more columns, and every pane has a place of its own.
package struct Layout: Equatable, Sendable {
  /// The smallest screen on which everything fits.
  package static let minimum = Size(columns: 80, rows: 24)

  /// The smallest screen on which one pane fits.
  package static let smallest = Size(columns: 30, rows: 8)

  /// The size that is needed when `size` is too small for anything, else nil.
  package static func missingSize(_ size: Size) -> Size? {
    size.columns < smallest.columns || size.rows < smallest.rows ? smallest : nil
  }

  /// Whether a screen shows one pane at a time.
  package static func isCompact(_ size: Size) -> Bool {
    size.columns < minimum.columns || size.rows < minimum.rows
  }

  /// Whether the screen has a place for every pane.
  package let isWide: Bool
  /// The grid, its header included.
  package let grid: Rect
  /// Whether the grid has its narrow columns.
  package let isNarrow: Bool
  /// Columns of blocks side by side: 1 or 2.
  package let folds: Int
  /// Blocks in one of these columns, as many as there are rows for them.
  package let blocksInFold: Int
  /// The selected slot's panel.
  package let panel: Rect
  /// The progress of the followed run: one line, or a rectangle with the list of runs.
  package let runs: Rect
  /// The images, their caption included.
  package let images: Rect
  /// The losses.
  package let losses: Rect

  /// Lays out a screen; on a compact one all panes have the same place.
  package init(size: Size, depth: Int, panes: PaneSizes = PaneSizes()) {
    if Self.isCompact(size) {
      let body = Rect(column: 0, row: 2, columns: size.columns, rows: max(1, size.rows - 3))
      (grid, panel, runs, images, losses) = (body, body, body, body, body)
      (isWide, isNarrow) = (false, true)
      folds = size.columns >= 58 ? 2 : 1
      blocksInFold = max(1, min((depth + folds - 1) / folds, body.rows - 1))
      return
    }
    let (columns, rows) = (size.columns, size.rows)
    isWide = columns >= 120 && rows >= 40
    if isWide {
      isNarrow = false
      let left = panes.left.map { $0.clamped(to: 64...(columns - 42)) } ?? min(104, columns * 5 / 8)
      let right = Rect(column: left + 1, row: 1, columns: columns - left - 1, rows: rows - 2)
      let gridRows = min(depth, rows - 11)
      folds = 1
      blocksInFold = gridRows
      grid = Rect(column: 0, row: 1, columns: left, rows: gridRows + 1)
      let below = Rect(
        column: 0, row: grid.bottom, columns: left, rows: rows - 1 - grid.bottom)
      let most = right.rows - 26
      let imageRows =
        panes.images.map { $0.clamped(to: min(6, most)...most) }
        ?? min((right.columns - 4) / 6 + 2, right.rows / 2, most)
      images = Rect(
        column: right.column, row: right.bottom - imageRows - 1, columns: right.columns,
        rows: imageRows + 1)
      if below.rows >= 20 {
        runs = Rect(column: 0, row: below.bottom - 9, columns: left, rows: 9)
        losses = Rect(column: 0, row: below.row, columns: left, rows: below.rows - 9)
        panel = Rect(
          column: right.column, row: 1, columns: right.columns, rows: images.row - 1)
      } else {
        runs = below
        let free = images.row - 1
        let lossRows = max(9, free * 2 / 5)
        panel = Rect(
          column: right.column, row: 1, columns: right.columns, rows: free - lossRows)
        losses = Rect(
          column: right.column, row: panel.bottom, columns: right.columns, rows: lossRows)
      }
    } else {
      let available = rows - 10
      folds = depth <= available ? 1 : 2
      isNarrow = folds == 2
      blocksInFold = min(folds == 1 ? depth : (depth + 1) / 2, available)
      let areaRows = max(14, blocksInFold)
      grid = Rect(column: 0, row: 1, columns: 58, rows: areaRows + 1)
      panel = Rect(column: 59, row: 1, columns: columns - 59, rows: areaRows + 1)
      runs = Rect(column: 0, row: grid.bottom, columns: columns, rows: 1)
      let strip = Rect(
        column: 0, row: runs.bottom, columns: columns, rows: rows - 1 - runs.bottom)
      let imageColumns = min(2 * (strip.rows - 1), columns / 6)
      let left = 3 * imageColumns + 2 + 12
      images = Rect(column: 0, row: strip.row, columns: left, rows: strip.rows)
      losses = Rect(
        column: left + 1, row: strip.row, columns: columns - left - 1, rows: strip.rows)
    }
  }

  /// A border between panes that can be moved.
  package enum Border: Equatable, Sendable {
    /// Between the left and the right side.
    case middle
    /// Above the images.
    case images
  }

  /// The border at a cell, if it can be moved.
  package func border(column: Int, row: Int) -> Border? {
    guard isWide, row > 0, row < images.bottom else { return nil }
    if column == panel.column - 1 { return .middle }
    return row == images.row && column >= images.column ? .images : nil
  }

  /// The first block shown, so that the selected one is among those shown.
  package func firstBlock(depth: Int, cursor: Int) -> Int {
    let visible = folds * blocksInFold
    if depth <= visible { return 0 }
    return min(max(0, cursor - visible / 2), depth - visible)
  }
}
