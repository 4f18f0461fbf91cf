import Plans
import TerminalUI
import Testing

import Explorer

@Suite struct PreviewTests {
  @Test func previewUsesTheNewestCheckpointThatFits() {
    var state = Samples.busy(Samples.small)
    // Two slots are fresh, which is asked about once.
    #expect(press(&state, "s").isEmpty)
    #expect(state.overlay == .confirm(.mixture(state.weights)))
    let effects = press(&state, "y")
    #expect(
      effects == [
        .startPreview(
          generation: 1, plan: state.plan, weights: state.weights, settings: state.preview.settings)
      ])
    #expect(state.weights.runs == ["r3"])
    #expect(state.preview.pending?.weightStep == 400 && state.preview.pending?.freshCount == 2)
    #expect(press(&state, "s").count == 1)
    state.document.edit("more") { $0.edits[Samples.mlp(9)] = Samples.narrow }
    #expect(press(&state, "s", "n").isEmpty && state.overlays.isEmpty)
  }

  @Test func untrainedGraftsAndTeachersAloneNeedNoWeights() {
    var state = Samples.state()
    #expect(
      press(&state, "s") == [
        .startPreview(
          generation: 1, plan: nil, weights: state.weights, settings: PreviewSettings())
      ])
    state.document.edit("edit") { $0.edits[Samples.mlp(0)] = Samples.narrow }
    #expect(
      press(&state, "s") == [
        .startPreview(
          generation: 2, plan: state.plan, weights: state.weights, settings: PreviewSettings())
      ])
  }

  /// With F an edit is sampled at once, its output layer fitted; its cell then has a mark of its own, which is not
  /// that of a training.
  @Test func editsAreFittedAndSampledWithF() throws {
    var state = Samples.state()
    func cell(_ block: Int) throws -> Character {
      let frame = ExplorerView.frame(state)
      let place = try #require(frame.targets.first { $0.meaning == .place(block, 0) })
      return frame[place.column + 9, place.row].character
    }
    #expect(press(&state, "F").isEmpty)
    state.cursor = Samples.attention(5)
    type(&state, ":pick hyena_x")
    let effects = press(&state, .enter)
    #expect(
      effects.last
        == .startPreview(
          generation: 1, plan: state.plan, weights: state.weights, settings: PreviewSettings()))
    #expect(state.weights.count == 0 && state.preview.pending?.freshCount == 1)
    #expect(try cell(5) == "*")
    // It is asked for once; the clock does not repeat it.
    #expect(update(&state, .ticked(Samples.now + 1)).isEmpty)
    _ = update(&state, .previewStarted(generation: 1, runID: "p1"))
    _ = update(&state, .previewSampled(generation: 1, .graft, Samples.picture(1)))
    #expect(try cell(5) == "*")
    _ = update(&state, .previewEnded(generation: 1, problem: nil))
    #expect(try cell(5) == "≈" && state.status(of: Samples.attention(5)).phase == .fitted)
    #expect(SlotPhase.fitted.meaning.contains("not trained"))
    #expect(ExplorerView.frame(state).text().contains("fitted"))
    // The next edit is sampled too; until then only the first one is fitted.
    press(&state, "j")
    type(&state, ":pick skip")
    #expect(press(&state, .enter).count == 1)
    #expect(try cell(5) == "≈" && cell(6) == "*")
    _ = update(&state, .previewSampled(generation: 2, .graft, Samples.picture(2)))
    _ = update(&state, .previewEnded(generation: 2, problem: nil))
    // Leaving the operator out has no layer that could be fitted.
    #expect(try cell(5) == "≈" && cell(6) == "*")
    // Another operator is not the one that was fitted; undoing asks for the picture again.
    press(&state, "k")
    type(&state, ":pick swa")
    press(&state, .enter)
    #expect(try cell(5) == "*")
    #expect(press(&state, "u").count == 1)
    #expect(try cell(5) == "≈")
    // While a training goes on, and without F, nothing is started.
    state.runs.records = [Samples.record("r1", "other", .running)]
    #expect(press(&state, "x").isEmpty)
    #expect(try cell(5) == "·")
    state.runs.records = []
    #expect(press(&state, "F", "u").isEmpty)
  }

  @Test func lastPreviewStaysUntilTheNextIsThere() {
    var state = Samples.withPreview(Samples.busy(Samples.small))
    let old = state.preview.shown
    press(&state, ">", "s", "y")
    #expect(state.preview.shown == old)
    _ = update(&state, .previewStarted(generation: 2, runID: "p2"))
    _ = update(&state, .previewProgressed(generation: 2, done: 3, total: 50))
    _ = update(&state, .previewSampled(generation: 2, .teacher, Samples.picture(9)))
    #expect(state.preview.shown == old)
    _ = update(&state, .previewSampled(generation: 2, .graft, Samples.picture(8)))
    _ = update(&state, .previewEnded(generation: 2, problem: nil))
    #expect(state.preview.shown?.generation == 2)
    #expect(state.preview.shown?.images[.teacher]?.image == Samples.picture(9))
    #expect(state.preview.shown?.settings.classLabel == 2)
    #expect(state.preview.pending == nil)
  }

  @Test func olderPreviewsNeverOverwriteNewerOnes() {
    var state = Samples.state()
    press(&state, "s")
    _ = update(&state, .previewStarted(generation: 1, runID: "p1"))
    #expect(press(&state, "s").first == .control(id: "p1", .cancel))
    _ = update(&state, .previewStarted(generation: 2, runID: "p2"))
    _ = update(&state, .previewSampled(generation: 2, .teacher, Samples.picture(2)))
    _ = update(&state, .previewEnded(generation: 2, problem: nil))
    let shown = state.preview
    _ = update(&state, .previewSampled(generation: 1, .teacher, Samples.picture(1)))
    _ = update(&state, .previewEnded(generation: 1, problem: nil))
    #expect(state.preview == shown)
  }

  @Test func previewsStartedTooLateAreCancelled() {
    var state = Samples.state()
    press(&state, "s", "s")
    #expect(
      update(&state, .previewStarted(generation: 1, runID: "p1"))
        == [.control(id: "p1", .cancel)])
  }

  @Test func failedPreviewsKeepTheLastOne() {
    var state = Samples.withPreview(Samples.busy(Samples.small))
    let old = state.preview.shown
    press(&state, "s", "y")
    _ = update(&state, .previewEnded(generation: 2, problem: "no space"))
    #expect(state.preview.shown == old && state.preview.pending == nil)
    #expect(state.notice == .failure("the preview failed: no space"))
  }

  /// Keys and what they do to class, seed, steps and guidance.
  static let keys: [(String, PreviewSettings)] = [
    (">", settings(label: 1)), ("<", settings(label: 9)), ("13>", settings(label: 3)),
    ("]", settings(seed: 1)), ("7][", settings(seed: 6)), ("[", settings()),
    (")", settings(steps: 30)), ("2(", settings(steps: 15)), ("9(", settings(steps: 1)),
    ("9()", settings(steps: 5)), ("+", settings(guidance: 2.5)), ("9-", settings(guidance: 0)),
  ]

  static func settings(
    label: Int = 0, seed: UInt64 = 0, steps: Int = 25, guidance: Double = 2
  ) -> PreviewSettings {
    var settings = PreviewSettings()
    settings.classLabel = label
    settings.seed = seed
    settings.steps = steps
    settings.guidance = guidance
    return settings
  }

  @Test(arguments: keys.indices)
  func keysChangeTheSettings(index: Int) {
    var state = Samples.state()
    let effects = type(&state, Self.keys[index].0)
    #expect(state.preview.settings == Self.keys[index].1)
    #expect(effects.isEmpty)
  }

  @Test func formChangesTheSettings() {
    var state = Samples.state()
    press(&state, "S")
    for text in ["4", "17", "50", "1.5"] {
      type(&state, text)
      press(&state, .tab)
    }
    press(&state, .enter)
    #expect(
      state.preview.settings == Self.settings(label: 4, seed: 17, steps: 50, guidance: 1.5))
    press(&state, "S")
    type(&state, "10")
    press(&state, .enter)
    guard case .form(let form) = state.overlay else {
      Issue.record("class 10 of 10 was accepted")
      return
    }
    #expect(form.problem?.contains("0 to 9") == true)
  }

  @Test func imagesNeverTouchTheBottomRow() {
    for size in Samples.sizes {
      var state = Samples.withPreview(Samples.busy(size))
      for key in ["", "i"] {
        type(&state, key)
        let frame = ExplorerView.frame(state)
        #expect(frame.images.count == 3)
        for image in frame.images {
          #expect(image.row + image.rows <= size.rows - 1)
          #expect(image.column >= 0 && image.column + image.columns <= size.columns)
        }
      }
    }
  }

  // MARK: - Statistics of the teacher

  @Test func statisticsAreComputedOnFirstUse() {
    var state = Samples.state()
    #expect(state.firstEffects() == [.findAnalysis(again: false), .readLibrary])
    _ = update(&state, .analysisStarted(runID: "a1"))
    #expect(ExplorerView.frame(state).text().contains("computing…"))
    _ = update(&state, .analysisProgressed(done: 2, total: 8))
    #expect(ExplorerView.frame(state).text().contains("computing… 2/8"))
    #expect(state.reasonAgainst(.analyze) != nil)
    _ = update(&state, .analysisRead(Samples.analysis()))
    #expect(ExplorerView.frame(state).text().contains("L32 .87"))
    #expect(press(&state, "A") == [.findAnalysis(again: true)])
    _ = update(&state, .analysisFailed("no space"))
    #expect(state.notice == .failure("no new statistics: no space"))
    #expect(ExplorerView.frame(state).text().contains("L32 .87"))
    state.analysis = .computing(runID: nil, done: 0, total: 0)
    state.notice = nil
    _ = update(&state, .analysisFailed("no space"))
    #expect(state.notice == nil)
    #expect(ExplorerView.frame(state).text().contains("no statistics"))
  }

  @Test func statisticsOfAnotherDepthDoNotCrash() {
    var state = Samples.state(Samples.large)
    state.analysis = .ready(Samples.analysis(depth: 2))
    type(&state, "G")
    #expect(ExplorerView.frame(state).text().contains("another depth"))
  }
}
