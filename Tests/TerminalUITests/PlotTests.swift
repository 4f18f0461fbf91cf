import Testing

import TerminalUI

@Suite struct PlotTests {
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
