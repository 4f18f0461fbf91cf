import Plans
import Runs
import TerminalUI
import TestSupport
import Testing

import Explorer

/// Random keys on screens of random sizes: nothing crashes and what must hold does hold.
@Suite struct FuzzTests {
  static let keys: [Key] =
    "hjklJgGnNvmeaxdpCtLrsSi><][)(+-uwWoE?:qysn 0123456789.,oddallRRlf=fmTPn/".map {
      .character($0)
    }
    + [
      .enter, .enter, .enter, .escape, .tab, .backTab, .backspace, .delete, .up, .down, .left,
      .right, .home, .end, .pageUp, .pageDown, .function(1), .function(5), .control("r"),
      .control("u"), .control("d"), .control("l"), .modified(.alt, "x"), .wheelDown,
      .character("é"), .character("漢"),
      .character("👩‍👩‍👧"), .character("\u{301}"),
    ]

  @Test(arguments: 1...8)
  func randomKeysAndSizes(seed: Int) {
    var random = RandomSequence(seed: UInt64(seed))
    let depth = [28, 28, 1, 2, 7, 40, 130, 28][seed - 1]
    var state = seed % 2 == 0 ? Samples.busy(Samples.small) : Samples.state(depth: depth)
    for _ in 0..<600 {
      switch random.integer(below: 40) {
      case 0:
        state.size = Size(
          columns: 1 + random.integer(below: 220), rows: 1 + random.integer(below: 70))
      case 1: state.size = Samples.sizes[random.integer(below: 3)]
      case 2: _ = update(&state, .interrupted)
      case 3: _ = update(&state, .textPasted("last 3 \u{1b}[2J odd"))
      case 4: answer(&state, &random)
      case 5, 6, 7:
        let kinds: [MouseEvent.Kind] = [
          .press(.left), .press(.left), .drag(.left), .release(.left), .wheel(.up), .wheel(.down),
          .press(.right),
        ]
        let event = MouseEvent(
          kinds[random.integer(below: kinds.count)],
          column: random.integer(below: state.size.columns + 2),
          row: random.integer(below: state.size.rows + 2))
        _ = update(&state, .pointed(event))
      case 8: state.terminal.colors = [0, 8, 256][random.integer(below: 3)]
      default: press(&state, Self.keys[random.integer(below: Self.keys.count)])
      }
      state.isFinished = false
      #expect((0..<state.depth).contains(state.cursor.block))
      #expect(state.plan.edits.keys.allSatisfy { $0.block < state.depth })
      #expect(throws: Never.self) { try state.plan.validate() }
      if random.integer(below: 6) == 0 {
        let frame = ExplorerView.frame(state)
        #expect(frame.columns == state.size.columns && frame.rows == state.size.rows)
        for image in frame.images { #expect(image.row + image.rows < frame.rows) }
      }
    }
  }

  /// A damaged cache of statistics, or a loss that went astray, is drawn somehow.
  @Test(arguments: [
    Double.nan, .infinity, -.infinity, .greatestFiniteMagnitude, -.greatestFiniteMagnitude,
    .leastNonzeroMagnitude, -.leastNonzeroMagnitude, 1e15, 1e-300, 9.96e-5, 0,
  ])
  func extremeNumbersAreDrawn(number: Double) {
    let summary = ActivationSummary(
      mean: number, variance: number, maxAbs: number, kurtosis: number)
    for size in Samples.sizes {
      var state = Samples.busy(size)
      var analysis = Samples.analysis()
      for block in analysis.blocks.indices where block % 3 > 0 {
        analysis.blocks[block] = BlockAnalysis(
          attention: summary, mlp: summary, locality: analysis.bands.map { _ in number })
      }
      analysis.bands[3] = .min
      state.analysis = .ready(analysis)
      #expect(!ExplorerView.frame(state).text().isEmpty)
    }
    let texts = [
      Format.plain(number), Format.loss(number), Format.statistic(number), Format.share(number),
      Format.clock(number), Format.age(number), Format.change(from: number, to: number),
      Format.change(from: 1, to: number), Format.metric(number), Format.fixed(number, 1),
    ]
    #expect(texts.allSatisfy { !$0.isEmpty } && Format.loss(number).count <= 5)
    _ = Format.rate(number)
  }

  /// Facts in any order, also ones that nobody asked for.
  private func answer(_ state: inout AppState, _ random: inout RandomSequence) {
    let facts: [Action] = [
      .trainingStarted(id: "r3", plan: state.plan, kind: .distill),
      .trainingStarted(id: "r3", plan: state.plan, kind: .finetune), .trainingFailed("no"),
      .runsScanned([]), .runsScanned(Samples.queued(Samples.small).runs.records),
      .trainingQueued(name: "a"), .logRead(id: "r3", lines: ["a", ""]),
      .runsScanned([Samples.record("r3", "a", .running, step: random.integer(below: 400))]),
      .runsScanned([Samples.record("r3", "a", .lost, step: 3)]),
      .historyRead(id: "r3", Samples.history(for: state.plan, steps: random.integer(below: 30))),
      .runOpened(id: "r3", plan: state.plan, adopt: random.integer(below: 2) == 0),
      .planSaved(state.plan, path: "p.json"), .planExists(path: "p.json"),
      .planExists(path: "p.json", present: GraftPlan(named: "q", model: state.model)),
      .planChangedOnDisk(path: "p.json"),
      .planSaveFailed("no"),
      .planLoaded(GraftPlan(named: "q", model: state.model), path: "q.json"),
      .analysisRead(Samples.analysis(depth: random.integer(below: 40))), .analysisFailed("no"),
      .previewStarted(generation: random.integer(below: 9), runID: "p1"),
      .previewSampled(
        generation: state.preview.generation, .teacher, Samples.picture(random.integer(below: 9))),
      .previewEnded(generation: state.preview.generation, problem: nil),
    ]
    _ = update(&state, facts[random.integer(below: facts.count)])
  }

  /// No size makes panes overlap or leave the screen.
  @Test func layoutsFitEveryScreen() {
    for columns in stride(from: 80, through: 240, by: 7) {
      for rows in stride(from: 24, through: 90, by: 3) {
        for (index, depth) in [1, 2, 12, 28, 60, 28, 28].enumerated() {
          var chosen = PaneSizes()
          if index > 4 { (chosen.left, chosen.images) = index == 5 ? (0, 0) : (999, 999) }
          let layout = Layout(
            size: Size(columns: columns, rows: rows), depth: depth, panes: chosen)
          let panes = [layout.grid, layout.panel, layout.runs, layout.images, layout.losses]
          for (index, pane) in panes.enumerated() {
            #expect(pane.column >= 0 && pane.row >= 1)
            #expect(pane.right <= columns && pane.bottom <= rows - 1)
            #expect(pane.columns > 0 && pane.rows > 0)
            for other in panes.dropFirst(index + 1) {
              let apart =
                pane.right <= other.column || other.right <= pane.column
                || pane.bottom <= other.row || other.bottom <= pane.row
              #expect(apart, "\(columns)x\(rows) depth \(depth): \(pane) meets \(other)")
            }
          }
          #expect(layout.panel.rows >= 15 && layout.losses.rows >= 6 && layout.images.rows >= 6)
        }
      }
    }
  }
}
