import Foundation

/// Curves with axes: a pure function from numbers to cells.
///
/// Values that are not finite are gaps, marked at the foot, and never touch an axis. Curves are clipped to the x axis,
/// and the y axis fits what is then visible.
package struct Chart: Equatable, Sendable {
  /// The curves; where two share a cell the later one is seen.
  package var series: [Plot.Series]
  /// Whether x is logarithmic; points with x <= 0 are then gaps.
  package var isLogX = false
  /// Whether y is logarithmic; points with y <= 0 are then gaps.
  package var isLogY = false
  /// The ends of the x axis; nil for those of the points.
  package var range: ClosedRange<Double>?
  /// The characters of the curves.
  package var symbols = PlotSymbols.braille
  /// Where a vertical line is drawn; nil for none.
  package var crosshair: Double?
  /// Places on the x axis that are marked.
  package var ticks: [Double] = []
  /// Style of those marks.
  package var tickStyle = Style(foreground: .yellow)
  /// Style of the marks of values that are not finite; nil for none.
  package var gapStyle: Style? = Style(foreground: .red)
  /// Styles of axes and labels.
  package var axisStyle = Style(foreground: .gray)

  /// Makes a chart of curves.
  package init(_ series: [Plot.Series]) { self.series = series }

  /// Where a chart's parts are: columns and rows of the plotting area, and its axes.
  package struct Layout: Equatable, Sendable {
    /// The leftmost column of the area.
    package let column: Int
    /// The area's columns.
    package let columns: Int
    /// The area's rows, from row 0 on.
    package let rows: Int
    /// The horizontal axis.
    package let x: PlotAxis
    /// The vertical axis.
    package let y: PlotAxis
    fileprivate let yTicks: [(row: Int, label: String)]

    /// The column of an x; nil outside the area.
    package func column(of value: Double) -> Int? {
      let fraction = x.fraction(of: value)
      guard fraction >= 0, fraction <= 1 else { return nil }
      return column + min(columns - 1, Int(fraction * Double(columns)))
    }

    /// The column of an x; of one outside the area the nearest.
    package func column(nearest value: Double) -> Int {
      let fraction = x.fraction(of: value)
      guard fraction > 0 else { return column }
      return column + Int(min(fraction * Double(columns), Double(columns - 1)))
    }

    /// The x in the middle of a column, which may lie outside the area.
    package func value(at column: Int) -> Double {
      x.value(at: (Double(column - self.column) + 0.5) / Double(max(1, columns)))
    }

    package static func == (a: Layout, b: Layout) -> Bool {
      a.column == b.column && a.columns == b.columns && a.rows == b.rows && a.x == b.x && a.y == b.y
    }
  }

  /// The parts of the chart in a rectangle; nil when there is nothing to draw.
  ///
  /// Without room for axes (fewer than 14 columns or 3 rows) only the curves are drawn.
  package func layout(columns: Int, rows: Int) -> Layout? {
    guard columns > 0, rows > 0 else { return nil }
    let points = series.map(coordinates)
    let all = points.joined().filter(\.isFinite)
    guard
      let x = range.flatMap({ PlotAxis(range: $0, isLogarithmic: isLogX) })
        ?? PlotAxis(fitting: all.lazy.map(\.x), isLogarithmic: isLogX),
      let y = PlotAxis(
        fitting: points.joined { Self.visible($0, in: x).joined() }.lazy.map(\.y),
        isLogarithmic: isLogY)
    else { return nil }
    guard columns >= 14, rows >= 3 else {
      return Layout(column: 0, columns: columns, rows: rows, x: x, y: y, yTicks: [])
    }
    let height = rows - 1
    let ticks = Self.rows(of: y, height)
    let gutter = ticks.map(\.label.utf8.count).max() ?? 0
    return Layout(
      column: gutter + 1, columns: max(1, columns - gutter - 1), rows: height, x: x, y: y,
      yTicks: ticks)
  }

  /// Draws the chart in a frame of exactly `columns` x `rows`.
  package func frame(columns: Int, rows: Int) -> Frame {
    var frame = Frame(columns: columns, rows: rows)
    guard columns > 0, rows > 0 else { return frame }
    guard let layout = layout(columns: columns, rows: rows) else {
      let text = "no data"
      frame.put(
        text, column: max(0, (columns - text.count) / 2), row: rows / 2, style: axisStyle)
      return frame
    }
    if layout.rows < rows { drawAxes(layout, on: &frame) }
    if let crosshair, let column = layout.column(of: crosshair) {
      frame.vline(
        column: column, row: 0, rows: layout.rows, style: axisStyle,
        character: symbols.lines.cross)
    }
    if let gapStyle, layout.rows < rows {
      for one in series {
        for (x, y) in zip(one.x, one.y) where !y.isFinite {
          guard let column = layout.column(of: x) else { continue }
          frame.put("x", column: column, row: layout.rows - 1, style: gapStyle)
        }
      }
    }
    for (index, one) in series.enumerated() { draw(one, index, layout, on: &frame) }
    for tick in ticks {
      guard let column = layout.column(of: tick) else { continue }
      frame.put("^", column: column, row: layout.rows - 1, style: tickStyle)
    }
    return frame
  }

  // MARK: - Curves

  private func coordinates(_ one: Plot.Series) -> [PlotPoint] {
    zip(one.x, one.y).map { x, y in
      PlotPoint(
        x: PlotAxis.coordinate(x, isLogarithmic: isLogX),
        y: PlotAxis.coordinate(y, isLogarithmic: isLogY))
    }
  }

  /// The pieces of a curve between its gaps, clipped to the axis.
  private static func visible(_ points: [PlotPoint], in axis: PlotAxis) -> [[PlotPoint]] {
    var pieces: [[PlotPoint]] = []
    var piece: [PlotPoint] = []
    var before: PlotPoint?
    func crossing(_ a: PlotPoint, _ b: PlotPoint, _ x: Double) -> PlotPoint {
      let share = (x - a.x) / (b.x - a.x)
      return PlotPoint(x: x, y: a.y * (1 - share) + b.y * share)
    }
    func close() {
      if !piece.isEmpty { pieces.append(piece) }
      piece = []
    }
    for point in points {
      guard point.isFinite else {
        close()
        before = nil
        continue
      }
      if let before, before.x != point.x {
        for edge in before.x < point.x ? [axis.low, axis.high] : [axis.high, axis.low]
        where (before.x < edge) != (point.x < edge) && before.x != edge && point.x != edge {
          piece.append(crossing(before, point, edge))
        }
      }
      if point.x >= axis.low, point.x <= axis.high {
        piece.append(point)
      } else {
        close()
      }
      before = point
    }
    close()
    return pieces
  }

  private func draw(_ one: Plot.Series, _ index: Int, _ layout: Layout, on frame: inout Frame) {
    var dots = DotGrid(columns: layout.columns, rows: layout.rows, symbols: symbols)
    var marks: [(column: Int, row: Int)] = []
    for piece in Self.visible(coordinates(one), in: layout.x) {
      let places = piece.map { point -> (x: Int, y: Int) in
        let across = layout.x.fraction(ofCoordinate: point.x)
        let up = min(1, max(0, layout.y.fraction(ofCoordinate: point.y)))
        return (
          Int((min(1, max(0, across)) * Double(dots.width - 1)).rounded()),
          dots.height - 1 - Int((up * Double(dots.height - 1)).rounded())
        )
      }
      guard let first = places.first else { continue }
      dots.set(x: first.x, y: first.y)
      for (start, end) in zip(places, places.dropFirst()) { dots.drawLine(from: start, to: end) }
      if one.mark != nil {
        marks += places.map { ($0.x / symbols.across, $0.y / symbols.down) }
      }
    }
    for row in 0..<layout.rows {
      for column in 0..<layout.columns {
        guard let character = dots.character(column, row) else { continue }
        frame[layout.column + column, row] = Cell(character: character, style: one.style)
      }
    }
    drawMarks(one, index, marks, layout, on: &frame)
  }

  /// Marks a curve at its last point and about every 16 columns, curves one after the other.
  private func drawMarks(
    _ one: Plot.Series, _ index: Int, _ places: [(column: Int, row: Int)], _ layout: Layout,
    on frame: inout Frame
  ) {
    guard let mark = one.mark, let last = places.last else { return }
    var next = index % max(1, series.count) * 16 / max(1, series.count)
    for place in places where place.column >= next {
      frame[layout.column + place.column, place.row] = Cell(character: mark, style: one.style)
      next = place.column + 16
    }
    frame[layout.column + last.column, last.row] = Cell(character: mark, style: one.style)
  }

  // MARK: - Axes

  /// The labels of the vertical axis and their rows: those at round values, and both ends where there are none.
  private static func rows(of axis: PlotAxis, _ height: Int) -> [(row: Int, label: String)] {
    let limit = max(2, (height + 1) / 3)
    var ticks = axis.ticks(limit: limit)
    if ticks.count < 2 {
      ticks = [0.0, 1].map { place in
        let value = axis.value(at: place)
        return PlotAxis.Tick(value: value, label: PlotNumber.text(value, digits: 3))
      }
      if ticks[0].label == ticks[1].label {
        ticks = ticks.map { .init(value: $0.value, label: PlotNumber.text($0.value, digits: 9)) }
      }
    }
    return ticks.map { tick in
      let up = min(1, max(0, axis.fraction(of: tick.value)))
      return (height - 1 - Int((up * Double(height - 1)).rounded()), tick.label)
    }
  }

  private func drawAxes(_ layout: Layout, on frame: inout Frame) {
    let left = layout.column - 1
    frame.vline(
      column: left, row: 0, rows: layout.rows, style: axisStyle, character: symbols.lines.axis)
    for (row, label) in layout.yTicks {
      frame.put(label, column: left - label.count, row: row, style: axisStyle)
      frame.put(String(symbols.lines.tick), column: left, row: row, style: axisStyle)
    }
    var ticks = layout.x.ticks(limit: max(2, layout.columns / 12), isWhole: true)
    if ticks.count < 2 {
      ticks = [0, 1].map { place in
        let value = layout.x.value(at: place)
        return PlotAxis.Tick(value: value, label: PlotNumber.text(value, digits: 9))
      }
    }
    var free = layout.column
    for tick in ticks {
      let place = min(1, max(0, layout.x.fraction(of: tick.value)))
      let middle = layout.column + Int((place * Double(layout.columns - 1)).rounded())
      let width = tick.label.utf8.count
      let start = min(
        max(middle - width / 2, layout.column), layout.column + layout.columns - width)
      guard start >= free else { continue }
      frame.put(tick.label, column: start, row: layout.rows, style: axisStyle)
      free = start + width + 1
    }
  }
}

extension Sequence where Element == [PlotPoint] {
  /// The points of all curves after a change of each curve.
  fileprivate func joined<S: Sequence<PlotPoint>>(_ change: (Element) -> S) -> [PlotPoint] {
    flatMap { Array(change($0)) }
  }
}

/// A point in the axes' coordinates.
struct PlotPoint: Equatable {
  var x: Double
  var y: Double
  var isFinite: Bool { x.isFinite && y.isFinite }
}
