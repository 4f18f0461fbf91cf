import Foundation
import Plans
import Runs
import TerminalUI
import Testing

import Explorer

@Suite struct PlotViewTests {
  private func pane(_ state: AppState) throws -> PlotPane {
    for case .plot(let pane) in state.overlays { return pane }
    throw Missing()
  }

  private struct Missing: Error {}

  @Test func opensOnWhatThePanelShows() throws {
    var state = Samples.busy(Samples.small)
    press(&state, "P")
    #expect(try pane(state).quantity == .loss && pane(state).content == .curves)
    press(&state, "q", "t", "P")
    #expect(try pane(state).content == .slots)
    press(&state, "q", "t", "P")
    #expect(try pane(state).quantity == .slot)
    press(&state, .escape)
    #expect(state.overlays.isEmpty)
    type(&state, ":plot gradient-norm")
    press(&state, .enter)
    #expect(try pane(state).quantity == .gradientNorm)
    press(&state, "q")
    type(&state, ":plot nonsense")
    press(&state, .enter)
    #expect(state.overlays.isEmpty && state.notice?.text.contains("samples") == false)
    #expect(state.notice?.text.contains("gradient-norm") == true)
    var idle = Samples.state()
    press(&idle, "P")
    #expect(idle.overlays.isEmpty && idle.notice?.kind == .warning)
  }

  @Test func quantitiesWithoutValuesAreLeftOut() throws {
    var state = Samples.busy(Samples.small)
    press(&state, "P")
    var seen: [PlotQuantity] = []
    for _ in PlotQuantity.allCases {
      seen.append(try pane(state).quantity)
      press(&state, .tab)
    }
    #expect(seen == PlotQuantity.allCases)
    state = Samples.finetuning(Samples.small)
    press(&state, "P", .tab, .tab)
    // It has neither losses of slots nor the measures that its events lack.
    #expect(try pane(state).quantity == .loss)
  }

  @Test func theCrosshairReadsExactValues() throws {
    var state = Samples.busy(Samples.small)
    press(&state, "P", .left)
    #expect(try pane(state).crosshair == 412)
    let value = Samples.value(Samples.attention(14), 412)
    #expect(
      ExplorerView.frame(state).text().contains("train     \(PlotNumber.text(value, digits: 7))"))
    press(&state, .right)
    #expect(try pane(state).crosshair == 412, "there is nothing further to the right")
    press(&state, .left)
    let before = try #require(try pane(state).crosshair)
    #expect(before < 412 && before > 400)
    press(&state, .right, .right)
    #expect(try pane(state).crosshair == 412)
    // Zoomed in, every step is reached.
    for _ in 0..<5 { press(&state, "+") }
    press(&state, .left)
    #expect(try pane(state).crosshair == 411)
    press(&state, .escape)
    #expect(try pane(state).crosshair == nil)
    press(&state, .escape)
    #expect(state.overlays.isEmpty)
  }

  @Test func theCrosshairTakesThePlotAlong() throws {
    var state = Samples.busy(Samples.small)
    press(&state, "P", .left, "+", "+", "+")
    for _ in 0..<100 { press(&state, .left) }
    let step = try #require(try pane(state).crosshair)
    let shown = try pane(state).window.visible(of: 1...412, isLogarithmic: false)
    #expect(shown.contains(step) && step < 360 && shown.upperBound < 412)
  }

  @Test func theMouseReadsZoomsAndDrags() throws {
    var state = Samples.busy(Samples.large)
    press(&state, "P")
    func point(_ kind: MouseEvent.Kind, _ column: Int, _ row: Int = 10) {
      _ = update(&state, .pointed(MouseEvent(kind, column: column, row: row)))
    }
    point(.press(.left), 60)
    point(.release(.left), 60)
    let middle = try #require(try pane(state).crosshair)
    #expect((190...230).contains(middle))
    // The step under the mouse stays there.
    for _ in 0..<5 { point(.wheel(.up), 60) }
    let zoomed = try pane(state).window.visible(of: 1...412, isLogarithmic: false)
    #expect(zoomed.contains(middle) && zoomed.upperBound - zoomed.lowerBound < 140)
    point(.press(.left), 60)
    #expect(abs(try #require(try pane(state).crosshair) - middle) <= 2)
    point(.drag(.left), 80)
    point(.release(.left), 80)
    let dragged = try pane(state).window.visible(of: 1...412, isLogarithmic: false)
    #expect(dragged.lowerBound < zoomed.lowerBound - 10)
    // Outside the plot, and without a button held, nothing moves.
    let before = state
    point(.press(.left), 1)
    point(.wheel(.up), 60, 0)
    point(.drag(.left), 70)
    #expect(state == before)
    for _ in 0..<9 { point(.wheel(.down), 60) }
    #expect(try pane(state).window == PlotWindow())
  }

  /// Hints are buttons in the plot too, a chart of a slot is chosen by a click, and the wheel zooms all of them.
  @Test func theMouseReachesHintsAndCharts() throws {
    var state = Samples.busy(Samples.large)
    func point(_ kind: MouseEvent.Kind, _ column: Int, _ row: Int) {
      _ = update(&state, .pointed(MouseEvent(kind, column: column, row: row)))
    }
    press(&state, "P")
    let hints = ExplorerView.frame(state).text().split(separator: "\n")[39]
    let view = try #require(hints.range(of: "v view"))
    point(.press(.left), hints.distance(from: hints.startIndex, to: view.lowerBound), 39)
    #expect(try pane(state).content == .slots)
    state.cursor = Samples.attention(1)
    point(.press(.left), 60, 8)
    let chosen = state.cursor
    #expect(chosen.slot == .attention && chosen.block > 1 && chosen.block % 2 == 1)
    point(.wheel(.up), 60, 8)
    #expect(try pane(state).window.visible(of: 1...412, isLogarithmic: false).lowerBound > 50)
    point(.wheel(.down), 60, 8)
    #expect(try pane(state).window == PlotWindow() && state.overlays.count == 1)
    press(&state, "v")
    point(.press(.left), 3, 2)
    #expect(try pane(state).content == .map && state.cursor == Samples.attention(1))
  }

  /// The only run of a plot is named.
  @Test func theRunIsNamed() {
    var state = Samples.busy(Samples.small)
    press(&state, "P")
    #expect(ExplorerView.frame(state).text().contains("hyena-odd  newest step 412"))
  }

  @Test func nonFiniteLossesAreGaps() {
    var state = Samples.busy(Samples.small)
    press(&state, "P")
    let before = ExplorerView.frame(state)
    let event = EventKind.step(
      step: 413, total: 800, loss: .infinity, losses: [:], rate: 1, secondsLeft: 1)
    state.runs.focus?.history.apply(Event(event, time: Samples.now))
    let after = ExplorerView.frame(state)
    func axis(_ frame: Frame) -> [String] {
      frame.text().split(separator: "\n").dropFirst(2).prefix(19).map { String($0.prefix(6)) }
    }
    #expect(axis(before) == axis(after))
    #expect(after.text().contains("step 413") && after.text().contains("inf"))
  }

  @Test func aRunKeepsItsColourAndMark() throws {
    var state = Samples.plotting(Samples.large)
    let colors = state.runColors
    #expect(Set(colors.keys) == ["r3", "r2", "r1"] && Set(colors.values).count == 3)
    // Taken away and shown again, another one gone.
    press(&state, "o", " ", .escape, "o", "j", " ", .escape, "o", " ", .escape)
    #expect(state.runColors == colors)
    #expect(try pane(state).others.map(\.id) == ["r2"])
    let text = ExplorerView.frame(state).text()
    #expect(text.contains("mlp-selfgraft") && !text.contains("swa-all"))
  }

  @Test func otherRunsAreReadAgainWhileTheyGoOn() {
    var state = Samples.plotting(Samples.small)
    var records = state.runs.records
    #expect(update(&state, .runsScanned(records)).isEmpty)
    records[1].state = .running
    #expect(update(&state, .runsScanned(records)) == [.readRuns(ids: ["r2", "r1"])])
  }

  @Test func theMapHasTheMeanOfEveryColumn() throws {
    var state = Samples.busy(Samples.small)
    press(&state, "P", "v", "v", "b", "b")
    let text = ExplorerView.frame(state).text()
    for block in stride(from: 1, to: 28, by: 2) { #expect(text.contains("\(block).attention")) }
    press(&state, "j", "j")
    #expect(
      state.cursor == Samples.attention(11)
        && ExplorerView.frame(state).text().contains("›11.attention"))
  }

  @Test func chartsOfSlotsArePaged() {
    var state = Samples.busy(Samples.small)
    press(&state, "P", "v")
    #expect(ExplorerView.frame(state).text().contains("page 1 of 4"))
    press(&state, .pageDown)
    #expect(ExplorerView.frame(state).text().contains("page 2 of 4"))
    #expect(ExplorerView.frame(state).text().contains("› 15.attention"))
  }

  @Test(arguments: [Samples.small, Samples.large, Samples.huge, Size(columns: 80, rows: 60)])
  func everyViewFitsEveryScreen(size: Size) {
    for make in [{ Samples.busy($0) }, Samples.finetuning, Samples.plotting] as [(Size) -> AppState]
    {
      var state = make(size)
      if state.overlays.isEmpty { press(&state, "P") }
      for _ in 0..<3 {
        for _ in PlotQuantity.allCases {
          press(&state, .tab)
          let frame = ExplorerView.frame(state)
          #expect(frame.columns == size.columns && frame.rows == size.rows)
        }
        press(&state, "v", "X", "b")
      }
    }
  }
}

@Suite struct PlotWindowTests {
  private let all = 0.0...1000

  @Test func zoomKeepsThePlace() {
    var window = PlotWindow()
    window.zoom(by: 0.5, around: 250, of: all, isLogarithmic: false)
    #expect(window.visible(of: all, isLogarithmic: false) == 125...625 && !window.tails)
    window.zoom(by: 2, around: 250, of: all, isLogarithmic: false)
    #expect(window == PlotWindow())
    window.zoom(by: 0.01, around: 10, of: 0...100, isLogarithmic: false)
    #expect(window == PlotWindow(), "a window has at least two steps")
  }

  @Test func theEndIsFollowedUntilOneScrollsAway() {
    var window = PlotWindow()
    window.zoom(by: 0.1, around: nil, of: all, isLogarithmic: false)
    #expect(window.tails)
    #expect(window.visible(of: 0...1500, isLogarithmic: false) == 1400...1500)
    window.pan(by: -1, of: 0...1500, isLogarithmic: false)
    #expect(!window.tails)
    #expect(window.visible(of: 0...2000, isLogarithmic: false) == 1300...1400)
    window.pan(by: 0.5, of: 0...2000, isLogarithmic: false)
    #expect(window.visible(of: 0...2000, isLogarithmic: false) == 1350...1450)
    window.move(toEnd: true, of: 0...2000, isLogarithmic: false)
    #expect(window.tails && window.visible(of: 0...3000, isLogarithmic: false) == 2900...3000)
    window.move(toEnd: false, of: 0...3000, isLogarithmic: false)
    #expect(window.visible(of: 0...3000, isLogarithmic: false) == 0...100)
  }

  @Test func logarithmicStepsZoomByFactors() {
    var window = PlotWindow()
    window.zoom(by: 0.5, around: nil, of: 1...10_000, isLogarithmic: true)
    let shown = window.visible(of: 1...10_000, isLogarithmic: true)
    #expect(abs(shown.lowerBound - 100) < 1e-6 && abs(shown.upperBound - 10_000) < 1e-6)
    let later = window.visible(of: 1...100_000, isLogarithmic: true)
    #expect(abs(later.lowerBound - 1000) < 1e-5 && abs(later.upperBound - 100_000) < 1e-5)
  }
}
