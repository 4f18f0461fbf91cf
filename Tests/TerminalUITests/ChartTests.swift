import Foundation
import TerminalUI
import Testing

@Suite struct ChartTests {
  /// Rows of braille dots as `.` and `#`.
  private func dots(_ frame: Frame) -> [String] {
    (0..<(frame.rows * 4)).map { y in
      String(
        (0..<(frame.columns * 2)).map { x -> Character in
          let scalar = frame[x / 2, y / 4].character.unicodeScalars.first?.value ?? 0
          guard (0x2801...0x28ff).contains(scalar) else { return "." }
          let bit = [[0, 1, 2, 6], [3, 4, 5, 7]][x % 2][y % 4]
          return (scalar - 0x2800) >> UInt32(bit) & 1 == 1 ? "#" : "."
        })
    }
  }

  private func chart(
    _ values: [Double], log: Bool = false, symbols: PlotSymbols = .braille
  ) -> Chart {
    var chart = Chart([Plot.Series(values: values)])
    (chart.isLogY, chart.symbols) = (log, symbols)
    return chart
  }

  @Test func aRisingLine() {
    let frame = chart([0, 1, 2, 3]).frame(columns: 2, rows: 1)
    #expect(dots(frame) == ["...#", "..#.", ".#..", "#..."])
    #expect(chart([0, 1, 2, 3], symbols: .blocks).frame(columns: 2, rows: 1).text() == "▄▀")
    #expect(chart([0, 1, 2, 3], symbols: .ascii).frame(columns: 4, rows: 2).text() == "  .'\n.'")
  }

  @Test func everySymbolHasItsDots() {
    let square: [Double] = [0, 3]
    for symbols in PlotSymbols.allCases {
      let text = chart(square, symbols: symbols).frame(columns: 6, rows: 3).text()
      let allowed: (Unicode.Scalar) -> Bool = { scalar in
        switch symbols {
        case .braille: (0x2800...0x28FF).contains(scalar.value)
        case .blocks: (0x2580...0x259F).contains(scalar.value)
        case .ascii: scalar.isASCII
        }
      }
      #expect(text.unicodeScalars.allSatisfy { " \n".unicodeScalars.contains($0) || allowed($0) })
      #expect(Set(symbols.marks).count == symbols.marks.count && symbols.marks.count == 8)
    }
  }

  @Test func axesHaveRoundTicks() {
    let series = Plot.Series(x: [0, 400], y: [0.25, 0.125])
    let lines = Chart([series]).frame(columns: 41, rows: 9).text().split(separator: "\n")
    #expect(
      lines.map { String($0.prefix(5)) }.dropLast() == [
        "0.25┤", "    │", "    │", "0.20┤", "    │", "    │", "0.15┤", "    │",
      ])
    #expect(lines.last == "     0                200             400")
  }

  @Test func valuesThatAreNotFiniteAreGaps() {
    let values: [Double] = [0, 0, .nan, .infinity, 0, 1]
    let rows = dots(chart(values).frame(columns: 3, rows: 1))
    #expect(rows == [".....#", ".....#", "....#.", "##..#."])
    // The axis is that of the same curve without the gap.
    let (with, without) = (chart(values), chart([0, 0, 0, 0, 0, 1]))
    #expect(with.layout(columns: 40, rows: 9)?.y == without.layout(columns: 40, rows: 9)?.y)
  }

  /// Values that are not finite are marked above their steps; a value without a logarithm is none of them.
  @Test func gapsAreMarked() {
    func marks(_ values: [Double], log: Bool = false) -> [Int] {
      let frame = chart(values, log: log).frame(columns: 44, rows: 9)
      return (0..<44).filter {
        frame[$0, 7].character == "x" && frame[$0, 7].style == Style(foreground: .red)
      }
    }
    let found = marks([3, .nan, 4, -.infinity, 5])
    #expect(found.count == 2 && found[1] - found[0] > 15)
    #expect(marks([1, 2, 3]).isEmpty && marks([1, 0, 3], log: true).isEmpty)
  }

  @Test func onePointAndConstantSeriesAreInTheMiddle() {
    let one = dots(chart([5]).frame(columns: 3, rows: 1))
    #expect(one.joined().filter { $0 == "#" }.count == 1)
    for value in [0, 5, -1e300, 1e-300, 1e308] {
      let rows = dots(chart([value, value, value]).frame(columns: 2, rows: 2))
      let marked = rows.indices.filter { rows[$0].contains("#") }
      #expect(marked.count == 1 && (3...4).contains(marked[0]), "\(value): \(rows)")
      #expect(rows[marked[0]] == "####")
    }
  }

  @Test(arguments: [[], [Double.nan], [.infinity, -.infinity]])
  func withoutDataItSaysSo(values: [Double]) {
    #expect(chart(values).frame(columns: 11, rows: 3).text() == "\n  no data\n")
  }

  @Test func logarithmsSkipWhatHasNone() {
    let frame = chart([-1, 0, 1, 10, 100, 1000], log: true).frame(columns: 3, rows: 1)
    // x begins at the first point that has a logarithm, and the curve is straight.
    #expect(dots(frame).first?.last == "#" && dots(frame).last?.first == "#")
    let powers = chart([1, 10, 100, 1000], log: true).frame(columns: 2, rows: 1)
    #expect(dots(powers) == ["...#", "..#.", ".#..", "#..."])
    var steps = Chart([Plot.Series(x: [0, 1, 10, 100, 1000], y: [9, 0, 1, 2, 3])])
    steps.isLogX = true
    #expect(dots(steps.frame(columns: 2, rows: 1)) == ["...#", "..#.", ".#..", "#..."])
  }

  @Test func hugeRangesDoNotOverflow() {
    let rows = dots(
      chart([-.greatestFiniteMagnitude, .greatestFiniteMagnitude]).frame(columns: 2, rows: 1))
    #expect(rows.first?.last == "#" && rows.last?.first == "#")
  }

  @Test func theLowestAndTheHighestOfManyPointsAreSeen() {
    var values = [Double](repeating: 0, count: 100_000)
    values[55_555] = 1
    values[55_600] = -1
    let rows = dots(chart(values).frame(columns: 10, rows: 2))
    #expect(rows.first == "...........#........" && rows.last == "...........#........")
  }

  @Test func theLaterSeriesIsSeenWhereTwoShareACell() {
    let frame = Chart([
      .init(values: [1, 1], style: Style(foreground: .red)),
      .init(values: [1, 0], style: Style(foreground: .green)),
    ]).frame(columns: 4, rows: 2)
    #expect(frame[0, 0].style.foreground == .green)
    #expect(frame[3, 0].style.foreground == .red)
  }

  /// The y axis fits what is in sight, the parts of lines that cross its edges included.
  @Test func theAxisFitsTheVisiblePart() throws {
    var chart = Chart([Plot.Series(x: [0, 10, 20, 30], y: [100, 0, 4, 0])])
    chart.range = 10...25
    let layout = try #require(chart.layout(columns: 40, rows: 10))
    #expect(layout.y.low == 0 && layout.y.high == 4)
    chart.range = 5...10
    #expect(chart.layout(columns: 40, rows: 10)?.y.high == 50)
    // A window between two points shows the line between them.
    chart.range = 12...14
    let between = try #require(chart.layout(columns: 40, rows: 10))
    #expect(abs(between.y.low - 0.8) < 1e-12 && abs(between.y.high - 1.6) < 1e-12)
    let rows = dots(chart.frame(columns: 2, rows: 1))
    #expect(rows == ["...#", "..#.", ".#..", "#..."])
  }

  @Test(arguments: [(0, 0), (1, 1), (13, 2), (14, 3), (5, 40), (200, 60)])
  func everySizeIsKept(columns: Int, rows: Int) {
    for symbols in PlotSymbols.allCases {
      var chart = chart([3.25e-9, .nan, 1e12, 4], symbols: symbols)
      chart.crosshair = 2
      let frame = chart.frame(columns: columns, rows: rows)
      #expect(frame.columns == columns && frame.rows == rows)
    }
  }

  @Test func marksTellCurvesApart() {
    let curves = ["o", "+"].enumerated().map { index, mark in
      Plot.Series(
        x: [0, 20, 40], y: [Double(index), Double(index), Double(index)], mark: Character(mark))
    }
    let text = Chart(curves).frame(columns: 60, rows: 8).text()
    #expect(text.filter { $0 == "o" }.count >= 2 && text.filter { $0 == "+" }.count >= 2)
  }

  @Test func theCrosshairStandsAtItsStep() throws {
    var chart = Chart([Plot.Series(x: [0, 100], y: [0, 1])])
    chart.crosshair = 50
    let layout = try #require(chart.layout(columns: 60, rows: 10))
    let column = try #require(layout.column(of: 50))
    let frame = chart.frame(columns: 60, rows: 10)
    #expect((0..<9).filter { frame[column, $0].character == "┊" }.count == 8)
    #expect(abs(layout.value(at: column) - 50) < 100 / Double(layout.columns))
    #expect(layout.column(of: 101) == nil && layout.column(nearest: 101) == 59)
    for column in layout.column..<(layout.column + layout.columns) {
      #expect(layout.column(of: layout.value(at: column)) == column)
    }
  }
}

@Suite struct PlotAxisTests {
  private func labels(
    _ range: ClosedRange<Double>, _ limit: Int, log: Bool = false, whole: Bool = false
  ) -> [String] {
    PlotAxis(range: range, isLogarithmic: log)?.ticks(limit: limit, isWhole: whole)
      .map(\.label) ?? []
  }

  @Test func ticksAreRoundAndHonest() {
    #expect(labels(0...1600, 5) == ["0", "500", "1000", "1500"])
    #expect(
      labels(0...1600, 9) == ["0", "200", "400", "600", "800", "1000", "1200", "1400", "1600"])
    #expect(labels(0.1173...0.2302, 4) == ["0.15", "0.20"])
    #expect(labels(0.1173...0.2302, 7) == ["0.12", "0.14", "0.16", "0.18", "0.20", "0.22"])
    #expect(labels(-3...3, 4) == ["-2", "0", "2"])
    #expect(labels(0...120_000, 4) == ["0", "50000", "100000"])
    #expect(labels(1.00001...1.00002, 3) == ["1.000010", "1.000015", "1.000020"])
    #expect(labels(0...3e-7, 4) == ["0", "1e-7", "2e-7", "3e-7"])
    #expect(labels(0...2.4, 9, whole: true) == ["0", "1", "2"])
  }

  @Test func logarithmicTicks() {
    #expect(labels(0.01...1000, 6, log: true) == ["0.01", "0.1", "1", "10", "100", "1000"])
    #expect(labels(0.1...1, 6, log: true) == ["0.1", "0.2", "0.5", "1"])
    #expect(labels(0.09...0.29, 8, log: true) == ["0.1", "0.12", "0.15", "0.2", "0.25"])
    #expect(labels(0.09...0.29, 4, log: true) == ["0.1", "0.2"])
    #expect(labels(0.2...0.23, 5, log: true) == ["0.20", "0.21", "0.22", "0.23"])
    #expect(labels(1e-8...1, 5, log: true) == ["1e-8", "1e-6", "0.0001", "0.01", "1"])
    #expect(PlotAxis(range: 0...1, isLogarithmic: true) == nil)
  }

  @Test(arguments: [0.5...700, 1e-9...1e9, 1...2])
  func valuesAndPlacesBelongTogether(range: ClosedRange<Double>) throws {
    for log in [false, true] {
      let axis = try #require(PlotAxis(range: range, isLogarithmic: log))
      for place in [0, 0.25, 0.5, 1] {
        #expect(abs(axis.fraction(of: axis.value(at: place)) - place) < 1e-6)
      }
      for limit in 1...12 {
        let ticks = axis.ticks(limit: limit)
        #expect(ticks.count <= limit && Set(ticks.map(\.label)).count == ticks.count)
        #expect(ticks.allSatisfy { (-1e-9...1 + 1e-9).contains(axis.fraction(of: $0.value)) })
      }
    }
  }

  @Test func numbersAreWrittenAsByHand() {
    let texts: [(Double, String)] = [
      (0, "0"), (1600, "1600"), (250_000, "250000"), (0.0003, "0.0003"), (-2.5, "-2.5"),
      (1.0 / 3, "0.333333"), (123_456.789, "123457"), (1.23e-5, "1.23e-5"), (2e9, "2e9"),
      (.nan, "nan"), (-.infinity, "-inf"),
    ]
    for (value, text) in texts { #expect(PlotNumber.text(value) == text) }
    #expect(PlotNumber.text(0.123456789, digits: 9) == "0.123456789")
  }
}

@Suite struct SmoothingTests {
  /// At even distances the average is m / (1 - w^n) with m = w m + (1 - w) y.
  @Test func isTheBiasCorrectedAverage() {
    let y = [3.0, 1, 4, 1, 5, 9, 2, 6]
    let x = y.indices.map { Double($0 * 10) }
    let found = Smoothing.average(x: x, y: y, weight: 0.9)
    var mean = 0.0
    for index in y.indices {
      mean = 0.9 * mean + 0.1 * y[index]
      var power = 1.0
      for _ in 0...index { power *= 0.9 }
      #expect(abs(found[index] - mean / (1 - power)) < 1e-12)
    }
    #expect(Smoothing.average(x: x, y: y, weight: 0) == y)
  }

  @Test func gapsStayAndCountNothing() {
    let x = [0.0, 1, 2, 3]
    let found = Smoothing.average(x: x, y: [1, .nan, 1, 1], weight: 0.5)
    #expect(found[0] == 1 && found[1].isNaN && found[2] == 1 && found[3] == 1)
  }

  /// A point counts less the further back it lies, however many points are between.
  @Test func distancesCount() {
    let found = Smoothing.average(x: [0, 1, 9], y: [0, 0, 1], weight: 0.5)
    // The mean distance is 4.5; the two zeros lie 8 and 9 back.
    let old = pow(0.5, 8 / 4.5) + pow(0.5, 9 / 4.5)
    #expect(abs(found[2] - 1 / (1 + old)) < 1e-12)
  }
}

@Suite struct HeatMapTests {
  @Test func colorsFollowTheValues() throws {
    var map = HeatMap([[1, 10, 100], [.nan, 1000, 0]])
    map.isLogarithmic = true
    #expect(map.range == 1...1000)
    let frame = map.frame(columns: 4, rows: 3)
    #expect(frame[0, 0].style.background == HeatMap.color(0))
    #expect(frame[1, 0].style.background == HeatMap.color(1.0 / 3))
    #expect(frame[1, 1].style.background == HeatMap.color(1))
    // No value, no logarithm, no column.
    for (column, row) in [(0, 1), (2, 1), (3, 0)] {
      #expect(frame[column, row] == Cell())
    }
    #expect(HeatMap.components(0) == (68, 1, 84) && HeatMap.components(1) == (253, 231, 37))
  }

  @Test func twoRowsShareACellWhereThereIsNoRoom() {
    let map = HeatMap([[0], [1], [0.5]])
    #expect(map.rowsInCell(height: 3) == 1 && map.rowsInCell(height: 2) == 2)
    let frame = map.frame(columns: 1, rows: 2)
    #expect(frame[0, 0].character == "▀" && frame[0, 1].character == "▀")
    #expect(frame[0, 0].style.foreground == HeatMap.color(0))
    #expect(frame[0, 0].style.background == HeatMap.color(1))
    #expect(frame[0, 1].style.foreground == HeatMap.color(0.5))
  }

  @Test func rowsGrowWithTheRoom() {
    let map = HeatMap([[0], [1]])
    #expect(map.cellsInRow(height: 3) == 1 && map.cellsInRow(height: 5) == 2)
    #expect(map.cellsInRow(height: 40) == 3)
    let frame = map.frame(columns: 1, rows: 5)
    let colors = (0..<5).map { frame[0, $0].style.background }
    #expect(
      colors == [HeatMap.color(0), HeatMap.color(0), HeatMap.color(1), HeatMap.color(1), .default])
  }

  @Test func asciiNeedsNoColour() {
    var map = HeatMap([[0, 1], [0.5, .nan]])
    map.symbols = .ascii
    #expect(map.frame(columns: 2, rows: 2).text() == ".@\n+")
    #expect(map.frame(columns: 2, rows: 1, first: 1).text() == "+")
  }
}
