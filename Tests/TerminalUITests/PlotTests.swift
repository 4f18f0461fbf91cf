import Testing

import TerminalUI

@Suite struct PlotTests {
  /// Rows of dots as `.` and `#`.
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

  @Test func aRisingLine() {
    let frame = Plot.line(series: [.init(values: [0, 1, 2, 3])], columns: 2, rows: 1)
    #expect(dots(frame) == ["...#", "..#.", ".#..", "#..."])
  }

  @Test func axesShowTheEnds() {
    let series = Plot.Series(x: [0, 400], y: [0.25, 0.125])
    #expect(
      Plot.line(series: [series], columns: 20, rows: 4).text() == """
         0.25┤⠉⠒⠤⢄⡀
             │    ⠈⠉⠒⠤⣀⡀
        0.125┤         ⠈⠑⠒⠤⣀
              0          400
        """)
  }

  @Test func valuesThatAreNotFiniteAreGaps() {
    let values: [Double] = [0, 0, .nan, .infinity, 0, 1]
    let rows = dots(Plot.line(series: [.init(values: values)], columns: 3, rows: 1))
    #expect(rows == [".....#", ".....#", "....#.", "##..#."])
    #expect(!rows.contains { Array($0)[2] == "#" || Array($0)[3] == "#" })
  }

  @Test func onePointAndConstantSeriesAreInTheMiddle() {
    let one = dots(Plot.line(series: [.init(values: [5])], columns: 3, rows: 1))
    #expect(one.joined().filter { $0 == "#" }.count == 1)
    for value in [0, 5, -1e300, 1e-300, 1e308] {
      let rows = dots(
        Plot.line(series: [.init(values: [value, value, value])], columns: 2, rows: 2))
      let marked = rows.indices.filter { rows[$0].contains("#") }
      #expect(marked.count == 1 && (3...4).contains(marked[0]), "\(value): \(rows)")
      #expect(rows[marked[0]] == "####")
    }
  }

  @Test(arguments: [[], [Double.nan], [.infinity, -.infinity]])
  func withoutDataItSaysSo(values: [Double]) {
    let frame = Plot.line(series: [.init(values: values)], columns: 11, rows: 3)
    #expect(frame.text() == "\n  no data\n")
  }

  @Test func logarithmsSkipWhatHasNone() {
    let series = Plot.Series(values: [-1, 0, 1, 10, 100, 1000])
    let frame = Plot.line(series: [series], columns: 3, rows: 1, yLog: true)
    // x starts at the first point that has a logarithm, and the curve is straight.
    #expect(dots(frame).first?.last == "#")
    #expect(dots(frame).last?.first == "#")
    let powers = Plot.line(
      series: [.init(values: [1, 10, 100, 1000])], columns: 2, rows: 1, yLog: true)
    #expect(dots(powers) == ["...#", "..#.", ".#..", "#..."])
  }

  @Test func hugeRangesDoNotOverflow() {
    let series = Plot.Series(values: [-.greatestFiniteMagnitude, .greatestFiniteMagnitude])
    let rows = dots(Plot.line(series: [series], columns: 2, rows: 1))
    #expect(rows.first?.last == "#" && rows.last?.first == "#")
  }

  @Test func aSpikeAmongManyPointsIsSeen() {
    var values = [Double](repeating: 0, count: 100_000)
    values[55_555] = 1
    values[55_600] = -1
    let rows = dots(Plot.line(series: [.init(values: values)], columns: 10, rows: 2))
    #expect(rows.first?.contains("#") == true && rows.last?.contains("#") == true)
  }

  @Test func theLaterSeriesIsSeenWhereTwoShareACell() {
    let frame = Plot.line(
      series: [
        .init(values: [1, 1], style: Style(foreground: .red)),
        .init(values: [1, 0], style: Style(foreground: .green)),
      ], columns: 4, rows: 2)
    #expect(frame[0, 0].style.foreground == .green)
    #expect(frame[3, 0].style.foreground == .red)
  }

  @Test func pointsOutsideTheRangeAreLeftOut() {
    let series = Plot.Series(x: [0, 1, 2, 3], y: [0, 99, 0, 0])
    let rows = dots(Plot.line(series: [series], columns: 2, rows: 1, xRange: 0...1.5))
    #expect(rows[0].contains("#") && rows[3].first == "#" && rows[3].last == ".")
  }

  @Test(arguments: [(0, 0), (1, 1), (13, 2), (14, 3), (5, 40), (200, 60)])
  func everySizeIsKept(columns: Int, rows: Int) {
    let series = Plot.Series(values: [3.25e-9, .nan, 1e12, 4])
    let frame = Plot.line(series: [series], columns: columns, rows: rows)
    #expect(frame.columns == columns && frame.rows == rows)
  }

  @Test func nearbyEndsGetMoreDigits() {
    let text = Plot.line(series: [.init(values: [1.00001, 1.00002])], columns: 30, rows: 3).text()
    #expect(text.contains("1.00001") && text.contains("1.00002"))
    #expect(Plot.label(0.0000123) == "1.23e-5")
    #expect(Plot.label(-.infinity) == "-inf")
  }

  @Test func sparklines() {
    #expect(Plot.sparkline([0, 1, 2, 3, 4, 5, 6, 7], columns: 8) == "▁▂▃▄▅▆▇█")
    #expect(Plot.sparkline([0, .nan, 7], columns: 8) == "▁ █")
    #expect(Plot.sparkline([2, 2], columns: 4) == "▄▄")
    #expect(Plot.sparkline([0, 0, 1, 1], columns: 2) == "▁█")
    #expect(Plot.sparkline([0.5], columns: 2, range: 0...1) == "▅")
    #expect(Plot.sparkline([.nan, .infinity], columns: 2) == "  ")
    #expect(Plot.sparkline([], columns: 2) == "" && Plot.sparkline([1], columns: 0) == "")
  }

  @Test func bars() {
    #expect(Plot.bar(0, columns: 4) == "░░░░")
    #expect(Plot.bar(0.5, columns: 4) == "██░░")
    #expect(Plot.bar(0.53125, columns: 4) == "██▏░")
    #expect(Plot.bar(7, columns: 4) == "████")
    #expect(Plot.bar(-1, columns: 4) == "░░░░" && Plot.bar(.nan, columns: 4) == "░░░░")
    #expect(Plot.bar(0.5, columns: 0) == "")
  }
}
