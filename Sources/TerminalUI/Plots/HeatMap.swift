import Foundation

/// A table of values as coloured cells; a table row has up to three rows of cells, or half of one.
package struct HeatMap: Equatable, Sendable {
  /// Values by row and column; rows of one length, NaN for none.
  package var values: [[Double]]
  /// Whether colours follow the logarithm; values <= 0 then have none.
  package var isLogarithmic = false
  /// The characters: with `.ascii` values are characters from light to dark, else background colours.
  package var symbols = PlotSymbols.braille

  private static let shades = Array(".:-=+*#%@")
  /// Viridis at even distances (Smith and van der Walt, matplotlib), readable with every colour blindness.
  private static let anchors: [(Double, Double, Double)] = [
    (68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37),
  ]

  /// Makes a map of rows.
  package init(_ values: [[Double]]) { self.values = values }

  /// The range of colours; nil without a value.
  package var range: ClosedRange<Double>? {
    let known = values.joined().filter { $0.isFinite && (!isLogarithmic || $0 > 0) }
    guard let low = known.min(), let high = known.max() else { return nil }
    return low...high
  }

  /// The colour at a place from 0 to 1.
  package static func color(_ place: Double) -> Color {
    let (red, green, blue) = components(place)
    return .rgb(red, green, blue)
  }

  /// Red, green and blue at a place from 0 to 1.
  package static func components(_ place: Double) -> (UInt8, UInt8, UInt8) {
    let scaled = (place.isFinite ? min(1, max(0, place)) : 0) * Double(anchors.count - 1)
    let index = min(anchors.count - 2, Int(scaled))
    let share = scaled - Double(index)
    func mix(_ from: Double, _ to: Double) -> UInt8 {
      UInt8((from + (to - from) * share).rounded())
    }
    let (a, b) = (anchors[index], anchors[index + 1])
    return (mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
  }

  /// How many table rows share a row of cells in a height.
  package func rowsInCell(height: Int) -> Int {
    symbols == .ascii || values.count <= height ? 1 : 2
  }

  /// How many rows of cells a table row has in a height.
  package func cellsInRow(height: Int) -> Int {
    values.isEmpty ? 1 : min(3, max(1, height / values.count))
  }

  /// Draws the rows from `first` on in a frame of exactly `columns` x `rows`; columns beyond the table stay blank.
  package func frame(columns: Int, rows: Int, first: Int = 0) -> Frame {
    var frame = Frame(columns: columns, rows: rows)
    let (fold, span) = (rowsInCell(height: rows), cellsInRow(height: rows))
    guard let axis = range.flatMap({ PlotAxis(range: $0, isLogarithmic: isLogarithmic) }) else {
      return frame
    }
    func place(_ row: Int, _ column: Int) -> Double? {
      guard values.indices.contains(row), values[row].indices.contains(column) else { return nil }
      let place = axis.fraction(of: values[row][column])
      return place.isFinite ? place : nil
    }
    for row in 0..<frame.rows {
      for column in 0..<frame.columns {
        let upper = place(first + row / span * fold, column)
        let lower = fold == 2 ? place(first + row / span * fold + 1, column) : nil
        if let cell = cell(upper, lower, fold) { frame[column, row] = cell }
      }
    }
    return frame
  }

  private func cell(_ upper: Double?, _ lower: Double?, _ fold: Int) -> Cell? {
    if symbols == .ascii {
      return upper.map { place in
        let level = min(Self.shades.count - 1, Int(place * Double(Self.shades.count)))
        return Cell(character: Self.shades[max(0, level)])
      }
    }
    if fold == 1 { return upper.map { Cell(style: Style(background: Self.color($0))) } }
    switch (upper, lower) {
    case (nil, nil): return nil
    case (let upper?, nil):
      return Cell(character: "▀", style: Style(foreground: Self.color(upper)))
    case (nil, let lower?):
      return Cell(character: "▄", style: Style(foreground: Self.color(lower)))
    case (let upper?, let lower?):
      return Cell(
        character: "▀",
        style: Style(foreground: Self.color(upper), background: Self.color(lower)))
    }
  }
}
