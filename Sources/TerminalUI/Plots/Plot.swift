import Foundation

/// Plots made of characters: braille curves with axes, sparklines and bars.
///
/// Pure functions from numbers to cells. Values that are not finite are gaps and never touch an axis.
package enum Plot {
  /// A curve: points in the order in which they are joined.
  package struct Series: Equatable, Sendable {
    /// Horizontal positions; as many as `y`.
    package var x: [Double]
    /// Values; not finite ones are gaps.
    package var y: [Double]
    /// The curve's style.
    package var style: Style

    /// Makes a curve of points.
    package init(x: [Double], y: [Double], style: Style = Style()) {
      precondition(x.count == y.count, "a series needs as many x as y")
      self.x = x
      self.y = y
      self.style = style
    }

    /// Makes a curve of values at 0, 1, 2, ...
    package init(values: [Double], style: Style = Style()) {
      self.init(x: values.indices.map(Double.init), y: values, style: style)
    }
  }

  /// Draws curves in braille dots (2 x 4 a cell) with the axes' ends labelled.
  ///
  /// Where curves share a cell the later one is seen. Of many points in one column of dots the smallest and the
  /// largest stay visible. Without room for axes (fewer than 14 columns or 3 rows) only the curves are drawn.
  ///
  /// - Parameters:
  ///   - series: The curves.
  ///   - columns: Cells across, labels included.
  ///   - rows: Rows, the x axis' labels included.
  ///   - yLog: Whether y is logarithmic; points with y <= 0 are then gaps.
  ///   - xRange: The ends of the x axis; nil for those of the points.
  /// - Returns: A frame of exactly `columns` x `rows`.
  package static func line(
    series: [Series], columns: Int, rows: Int, yLog: Bool = false,
    xRange: ClosedRange<Double>? = nil
  ) -> Frame {
    let axisStyle = Style(foreground: .gray)
    var frame = Frame(columns: columns, rows: rows)
    guard columns > 0, rows > 0 else { return frame }
    let points = series.map { one in
      zip(one.x, one.y).map { x, y in
        PlotPoint(x: x, y: PlotAxis.position(y, log: yLog))
      }
    }
    let seen = points.joined().filter(\.isFinite)
    guard
      let xAxis = PlotAxis(seen.lazy.map(\.x), range: xRange, log: false),
      let yAxis = PlotAxis(seen.lazy.map(\.y), range: nil, log: yLog)
    else {
      let text = "no data"
      frame.put(
        text, column: max(0, (columns - text.count) / 2), row: rows / 2, style: axisStyle)
      return frame
    }

    var area = (column: 0, columns: columns, rows: rows)
    if columns >= 14 && rows >= 3 {
      let labels = yAxis.labels(rows - 1 >= 6 ? 3 : 2)
      let gutter = labels.map(\.count).max() ?? 0
      area = (column: gutter + 1, columns: columns - gutter - 1, rows: rows - 1)
      drawAxes(&frame, area: area, xAxis: xAxis, yLabels: labels, style: axisStyle)
    }
    for (one, points) in zip(series, points) {
      var dots = BrailleGrid(columns: area.columns, rows: area.rows)
      dots.drawCurve(points, xAxis: xAxis, yAxis: yAxis)
      for row in 0..<area.rows {
        for column in 0..<area.columns {
          guard let character = dots.character(column, row) else { continue }
          frame[area.column + column, row] = Cell(character: character, style: one.style)
        }
      }
    }
    return frame
  }

  /// A line of eighth blocks, one for each value, or for the mean of several if there are more values than columns.
  ///
  /// A value that is not finite is a space; equal values are drawn half high.
  package static func sparkline(
    _ values: [Double], columns: Int, range: ClosedRange<Double>? = nil
  ) -> String {
    guard columns > 0, !values.isEmpty else { return "" }
    let count = min(values.count, columns)
    let means = (0..<count).map { index -> Double in
      let bucket = values[(index * values.count / count)..<((index + 1) * values.count / count)]
        .filter(\.isFinite)
      return bucket.isEmpty ? .nan : bucket.reduce(0) { $0 + $1 / Double(bucket.count) }
    }
    let finite = means.filter(\.isFinite)
    guard let low = range?.lowerBound ?? finite.min(), let high = range?.upperBound ?? finite.max()
    else { return String(repeating: " ", count: count) }
    let blocks = Array("▁▂▃▄▅▆▇█")
    return String(
      means.map { mean in
        guard mean.isFinite else { return " " }
        guard high > low else { return blocks[3] }
        let fraction = PlotAxis.fraction(mean, low, high)
        return blocks[min(7, max(0, Int((fraction * 7).rounded())))]
      })
  }

  /// A horizontal bar with eighths of a cell; the rest is shaded, and all of it if the fraction is not a number.
  package static func bar(_ fraction: Double, columns: Int) -> String {
    guard columns > 0 else { return "" }
    let share = fraction.isNaN ? 0 : min(1, max(0, fraction))
    let eighths = Int((share * Double(columns) * 8).rounded())
    var result = String(repeating: "█", count: eighths / 8)
    if eighths % 8 > 0 { result.append(Array("▏▎▍▌▋▊▉")[eighths % 8 - 1]) }
    return result + String(repeating: "░", count: columns - result.count)
  }

  /// A number in few characters: at least three significant digits, small and large ones as `1.2e-5`.
  package static func label(_ value: Double, digits: Int = 3) -> String {
    guard value.isFinite else { return value.isNaN ? "nan" : (value > 0 ? "inf" : "-inf") }
    let text = String(format: "%.\(digits)g", value)
    guard let exponentStart = text.firstIndex(of: "e") else { return text }
    let exponent = Int(text[text.index(after: exponentStart)...]) ?? 0
    return "\(text[..<exponentStart])e\(exponent)"
  }

  private static func drawAxes(
    _ frame: inout Frame, area: (column: Int, columns: Int, rows: Int), xAxis: PlotAxis,
    yLabels: [String], style: Style
  ) {
    frame.vline(column: area.column - 1, row: 0, rows: area.rows, style: style)
    for (index, label) in yLabels.enumerated() {
      let row = (area.rows - 1) * index / (yLabels.count - 1)
      frame.put(label, column: area.column - 1 - label.count, row: row, style: style)
      frame.put("┤", column: area.column - 1, row: row, style: style)
    }
    let labels = xAxis.labels(area.columns >= 30 ? 3 : 2)
    for (index, label) in labels.reversed().enumerated() {
      let room = area.columns - label.count
      guard room >= 0 else { continue }
      let column = area.column + room * index / (labels.count - 1)
      frame.put(label, column: column, row: area.rows, style: style)
    }
  }
}

/// A point in the axes' own coordinates (logarithms already taken).
struct PlotPoint {
  var x: Double
  var y: Double
  var isFinite: Bool { x.isFinite && y.isFinite }
}

/// One axis: the relative positions of values between its ends, and the labels.
struct PlotAxis {
  var low: Double
  var high: Double
  var log: Bool

  /// The coordinate of a value, not a number if a logarithmic axis does not have it.
  static func position(_ value: Double, log: Bool) -> Double {
    guard log else { return value }
    return value > 0 ? log10(value) : .nan
  }

  /// (value - low) / (high - low), without overflow.
  static func fraction(_ value: Double, _ low: Double, _ high: Double) -> Double {
    (value / 2 - low / 2) / (high / 2 - low / 2)
  }

  /// Makes an axis over the positions or over `range`.
  ///
  /// Nil without either. Equal ends are moved apart.
  init?(_ positions: some Sequence<Double>, range: ClosedRange<Double>?, log: Bool) {
    self.log = log
    low = .infinity
    high = -.infinity
    for position in positions {
      low = min(low, position)
      high = max(high, position)
    }
    guard low <= high else { return nil }
    if let range {
      let ends = (
        Self.position(range.lowerBound, log: log), Self.position(range.upperBound, log: log)
      )
      if ends.0.isFinite { low = ends.0 }
      if ends.1.isFinite { high = ends.1 }
    }
    if !(high > low) || fraction(high) != 1 {
      let margin = log ? 0.3 : max(abs(low) * 0.05, low == 0 ? 1 : .leastNormalMagnitude)
      high = min(low + margin, .greatestFiniteMagnitude)
      low = max(low - margin, -.greatestFiniteMagnitude)
    }
  }

  func fraction(_ position: Double) -> Double { Self.fraction(position, low, high) }

  /// Labels from the high end to the low end, with as many digits as it takes to tell them apart.
  func labels(_ count: Int) -> [String] {
    let positions = (0..<count).map { index -> Double in
      let share = Double(index) / Double(count - 1)
      return high * (1 - share) + low * share
    }
    var labels: [String] = []
    for digits in 3...9 {
      labels = positions.map { Plot.label(log ? pow(10, $0) : $0, digits: digits) }
      if Set(labels).count == count { break }
    }
    return labels
  }
}

/// A grid of braille dots, 2 across and 4 down in each cell.
struct BrailleGrid {
  let columns: Int
  let rows: Int
  private var masks: [UInt8]

  init(columns: Int, rows: Int) {
    self.columns = max(0, columns)
    self.rows = max(0, rows)
    masks = Array(repeating: 0, count: self.columns * self.rows)
  }

  /// The cell's character, nil without dots.
  func character(_ column: Int, _ row: Int) -> Character? {
    let mask = masks[row * columns + column]
    guard mask != 0, let scalar = Unicode.Scalar(0x2800 + UInt32(mask)) else { return nil }
    return Character(scalar)
  }

  /// Sets the dot `x` from the left and `y` from the top.
  mutating func set(x: Int, y: Int) {
    guard x >= 0, x < columns * 2, y >= 0, y < rows * 4 else { return }
    let bits: [[UInt8]] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]]
    masks[(y / 4) * columns + x / 2] |= bits[x % 2][y % 4]
  }

  /// Joins the points; of those in one column of dots the lowest and the highest are kept.
  mutating func drawCurve(_ points: [PlotPoint], xAxis: PlotAxis, yAxis: PlotAxis) {
    guard columns > 0, rows > 0 else { return }
    let width = columns * 2
    let height = rows * 4
    var last: (x: Int, y: Int)?
    for point in points {
      guard point.isFinite else {
        last = nil
        continue
      }
      let fraction = xAxis.fraction(point.x)
      guard fraction >= 0 && fraction <= 1 else {
        last = nil
        continue
      }
      let x = Int((fraction * Double(width - 1)).rounded())
      let level = min(1, max(0, yAxis.fraction(point.y)))
      let y = height - 1 - Int((level * Double(height - 1)).rounded())
      if let last, last != (x, y) {
        drawLine(from: last, to: (x, y))
      } else if last == nil {
        set(x: x, y: y)
      }
      last = (x, y)
    }
  }

  /// A straight line by Bresenham's method.
  private mutating func drawLine(from start: (x: Int, y: Int), to end: (x: Int, y: Int)) {
    var (x, y) = start
    let dx = abs(end.x - x)
    let dy = -abs(end.y - y)
    let stepX = x < end.x ? 1 : -1
    let stepY = y < end.y ? 1 : -1
    var error = dx + dy
    while true {
      set(x: x, y: y)
      if (x, y) == end { return }
      let doubled = 2 * error
      if doubled >= dy {
        error += dy
        x += stepX
      }
      if doubled <= dx {
        error += dx
        y += stepY
      }
    }
  }
}
