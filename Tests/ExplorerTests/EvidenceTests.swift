import Foundation
import Plans
import Runs
import TerminalUI
import Testing

import Explorer

@Suite struct EvidenceTests {
  @Test func mapsAreReadForTheBlockShown() {
    var state = Samples.busy(Samples.large)
    #expect(press(&state, "V") == [.readAttentionMaps(block: 7)])
    #expect(press(&state, "j") == [.readAttentionMaps(block: 8)])
    // Maps that come late are those of another block.
    _ = update(&state, .attentionMapsRead(block: 7, [Samples.picture(0)]))
    #expect(ExplorerView.frame(state).images.isEmpty)
    _ = update(&state, .attentionMapsRead(block: 8, (0..<4).map { Samples.picture($0) }))
    #expect(ExplorerView.frame(state).images.map(\.picture) == [Samples.picture(0)])
    press(&state, "]", "]", "]")
    #expect(ExplorerView.frame(state).images.map(\.picture) == [Samples.picture(3)])
    #expect(press(&state, "G").count == 1 && state.cursor.block == 27)
    #expect(press(&state, "j").isEmpty)
    press(&state, .escape)
    #expect(state.overlays.isEmpty)
  }

  @Test func headsTurnAround() {
    var state = Samples.busy(Samples.large)
    press(&state, "V", "[")
    #expect(ExplorerView.frame(state).text().contains("── head 3"))
    press(&state, "]")
    #expect(ExplorerView.frame(state).text().contains("heads' mean"))
  }

  /// All bins that there can be, of both signs, in fewer columns than bins and in more.
  @Test(arguments: [80, 120, 300]) func histogramsOfAnyWidth(columns: Int) throws {
    var state = Samples.busy(Size(columns: columns, rows: 40))
    let edges = (-32...32).map { pow(2, Double($0) / 2) }
    let positive = zip(edges, edges.dropFirst()).map {
      HistogramBin(low: $0, high: $1, share: 1e-3)
    }
    let negative = positive.reversed().map {
      HistogramBin(low: -$0.high, high: -$0.low, share: 1e-9)
    }
    var analysis = Samples.analysis()
    analysis.blocks[7].attention.histogram =
      negative + [HistogramBin(low: 0, high: 0, share: 0.9)] + positive
    state.analysis = .ready(analysis)
    press(&state, "V", .tab)
    let text = ExplorerView.frame(state).text()
    #expect(text.contains("1 outlier channel") && text.contains("█"))
    #expect(text.contains(" 0 ") && text.contains("highest 0.9"))
  }

  @Test func withoutStatisticsThereIsNoEvidence() {
    var state = Samples.state()
    press(&state, "V")
    #expect(state.overlays.isEmpty && state.notice?.kind == .warning)
  }

  @Test func theWindowHoldsItsShare() throws {
    let analysis = Samples.analysis()
    for share in [0.5, 0.9, 0.99] {
      let block = analysis.blocks[10]
      let window = try #require(block.window(holding: share))
      #expect(block.within[window] >= share && (window == 0 || block.within[window - 1] < share))
    }
    var state = Samples.busy(Samples.large)
    state.cursor = Samples.attention(10)
    let window = try #require(analysis.blocks[10].window(holding: 0.9))
    #expect(ExplorerView.frame(state).text().contains("w90 \(window)"))
    press(&state, "V", "w", "q")
    let wider = try #require(analysis.blocks[10].window(holding: 0.95))
    #expect(ExplorerView.frame(state).text().contains("w95 \(wider)"))
  }

  /// The form begins with the widest window of the slots; the command line keeps the paper's.
  @Test func theFormOffersTheWindow() throws {
    var state = Samples.busy(Samples.large)
    state.marks = [Samples.attention(10), Samples.attention(12)]
    press(&state, .enter)
    guard case .picker(let picker) = state.overlay else { throw Missing() }
    let offered = picker.entries.compactMap { entry -> OperatorSpec? in
      if case .replacement(let spec) = entry, spec.name == "swa" { spec } else { nil }
    }
    let windows = [10, 12].compactMap { Samples.analysis().blocks[$0].window(holding: 0.9) }
    let widest = try #require(windows.max())
    #expect(offered.map { $0.config["window_left"] } == [Double(widest)])
    #expect(offered.map { $0.config["window_right"] } == [Double(widest)])
    var plain = Samples.state()
    press(&plain, .enter)
    guard case .picker(let unknown) = plain.overlay else { throw Missing() }
    #expect(
      unknown.entries.contains(
        .replacement(
          OperatorSpec("swa", offered[0].config.mapValues { $0 == Double(widest) ? 4 : $0 }))))
  }

  private struct Missing: Error {}

  /// The first map is the heads' mean, weight by weight, and is shown until a head is chosen.
  @Test func theMeanOfTheHeadsComesFirst() {
    // Weights .8 and .2 of one head, .5 and .5 of the other.
    let mean = FileWork.meanMap([[1, 0.5], [1, 1]])
    #expect(mean[0] == 1 && abs(mean[1] - (0.7 / 1.3).squareRoot()) < 1e-12)
    #expect(FileWork.meanMap([[0, 0], [0.5, 0]]) == [1, 0] && FileWork.meanMap([]).isEmpty)
    var state = Samples.busy(Samples.small)
    press(&state, "V")
    let maps = (0..<5).map { Samples.picture($0) }
    _ = update(&state, .attentionMapsRead(block: 7, maps))
    func shown() -> Int? { ExplorerView.frame(state).images.first?.contentHash }
    #expect(shown() == Picture(maps[0]).contentHash)
    #expect(ExplorerView.frame(state).text().contains("of the heads' mean"))
    press(&state, "]")
    #expect(shown() == Picture(maps[1]).contentHash)
    press(&state, "[", "[")
    #expect(shown() == Picture(maps[4]).contentHash)
  }

  @Test func slotsAreMarkedByScore() throws {
    var state = Samples.busy(Samples.small)
    press(&state, "m")
    type(&state, "top 3 by L32")
    #expect(state.promptedSlots.count == 3)
    press(&state, .enter)
    let bands = Samples.analysis()
    let best = (0..<28).sorted {
      (bands.blocks[$0].locality[5], $1) > (bands.blocks[$1].locality[5], $0)
    }.prefix(3)
    #expect(state.marks == Set(best.map { Samples.attention($0) }))
    press(&state, .escape, "m")
    type(&state, "above 14 and mlp")
    press(&state, .enter)
    #expect(state.marks == Set((15...27).map { Samples.mlp($0) }))
    // An operator goes to slots of its own kind.
    press(&state, .escape, "a")
    type(&state, "mlp and odd")
    press(&state, .enter)
    guard case .prompt(let prompt) = state.overlay else { throw Missing() }
    #expect(prompt.problem?.contains("attention slots") == true)
    var fresh = Samples.state()
    press(&fresh, "m")
    type(&fresh, "L32 > .5")
    press(&fresh, .enter)
    guard case .prompt(let refused) = fresh.overlay else { throw Missing() }
    #expect(refused.problem?.contains("A computes") == true)
  }
}
