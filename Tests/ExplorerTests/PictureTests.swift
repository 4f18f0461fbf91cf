import Plans
import Runs
import TerminalUI
import Testing

import Explorer

/// Which pictures of a preview are seen, and when they are made anew.
@Suite struct PictureTests {
  /// A preview that was sampled with the newest checkpoint of the followed run.
  private func sampled(_ size: Size = Samples.large) -> AppState {
    var state = Samples.busy(size)
    state.document = PlanDocument(plan: Samples.oddPlan(), path: "hyena-odd.json")
    state.runs.checkpoints = [300, 350, 400]
    finish(&state, press(&state, "s"), 1)
    return state
  }

  /// Lets the job of a preview end with its pictures.
  private func finish(_ state: inout AppState, _ effects: [Effect], _ shade: Int) {
    for effect in effects {
      let generation: Int
      switch effect {
      case .startPreview(let number, _, _, _, _): generation = number
      case .startRunPreview(let number, _, _): generation = number
      default: continue
      }
      for (index, role) in PreviewRole.allCases.enumerated() {
        for step in [5, 10] {
          _ = update(
            &state,
            .previewSampled(
              generation: generation, role, Samples.picture(shade + 10 * index + step), step: step))
        }
        _ = update(
          &state,
          .previewSampled(generation: generation, role, Samples.picture(shade + 10 * index)))
      }
      _ = update(&state, .previewEnded(generation: generation, problem: nil))
    }
  }

  private func pictures(_ state: AppState) -> [RGBPicture] {
    ExplorerView.frame(state).images.map { RGBPicture(pixels: $0.picture.pixels) }
  }

  private struct RGBPicture: Equatable {
    let pixels: [UInt8]
    init(pixels: [UInt8]) { self.pixels = pixels }
    init(_ seed: Int) { pixels = Samples.picture(seed).pixels }
  }

  @Test func oneKeyFlipsTeacherAndGraft() {
    var state = sampled()
    press(&state, "i")
    #expect(pictures(state) == [RGBPicture(1), RGBPicture(11), RGBPicture(21)])
    press(&state, "f")
    #expect(pictures(state) == [RGBPicture(11)])
    let place = ExplorerView.frame(state).images[0]
    press(&state, "f")
    #expect(pictures(state) == [RGBPicture(1)])
    let other = ExplorerView.frame(state).images[0]
    #expect(place.column == other.column && place.row == other.row && place.rows == other.rows)
    press(&state, "v")
    #expect(pictures(state).count == 3)
  }

  @Test func framesGoBackAndForth() {
    var state = sampled()
    press(&state, "i", ".")
    #expect(pictures(state) == [RGBPicture(1), RGBPicture(11), RGBPicture(21)])
    press(&state, ",")
    #expect(pictures(state) == [RGBPicture(11), RGBPicture(21), RGBPicture(31)])
    #expect(ExplorerView.frame(state).text().contains("predicted after step 10"))
    press(&state, ",", ",", ",")
    #expect(pictures(state).first == RGBPicture(6))
    press(&state, ".", ".")
    #expect(pictures(state).first == RGBPicture(1))
  }

  @Test func checkpointsAreScrubbed() {
    var state = sampled()
    press(&state, "i")
    let back = press(&state, "{")
    guard case .startPreview(_, _, let weights, _, let options)? = back.first,
      weights.sources.first?.id == "r3"
    else {
      Issue.record("\(back)")
      return
    }
    #expect(options == PreviewOptions(checkpoint: 350))
    finish(&state, back, 2)
    #expect(state.preview.shown?.weightStep == 350 && state.staleness == nil)
    // The newest is there still, and so is this one.
    #expect(press(&state, "}").isEmpty)
    #expect(state.preview.shown?.weightStep == 400 && pictures(state).first == RGBPicture(1))
    #expect(press(&state, "{").isEmpty && pictures(state).first == RGBPicture(2))
    // With other settings it is not.
    press(&state, ">")
    #expect(press(&state, "}").count == 1)
    var single = Samples.withPreview(Samples.busy(Samples.large))
    press(&single, "i", "{")
    #expect(single.notice?.kind == .warning)
  }

  @Test func anotherRunStandsBeside() {
    var state = sampled()
    press(&state, "i", "r")
    let effects = press(&state, " ")
    guard case .startRunPreview(_, let id, _)? = effects.first, effects.count == 1 else {
      Issue.record("\(effects)")
      return
    }
    #expect(state.keyContext == .images && id == "r2")
    finish(&state, effects, 5)
    #expect(pictures(state).count == 4 && pictures(state).last == RGBPicture(15))
    #expect(ExplorerView.frame(state).text().contains("mlp-selfgraft"))
    #expect(press(&state, "s").count == 2, "both are sampled anew")
    press(&state, "r")
    #expect(pictures(state).count == 3)
  }

  // MARK: - Renewal

  /// The history of the followed run after one checkpoint more.
  private func checkpoint(_ state: inout AppState, _ step: Int) -> [Effect] {
    var history = state.runs.focus?.history ?? RunHistory()
    history.apply(Event(.checkpointed(step: step, path: "x"), time: Samples.now))
    var records = state.runs.records
    records[0].checkpoint = SavedCheckpoint(step: step, path: "x")
    _ = update(&state, .runsScanned(records))
    return update(&state, .historyRead(id: "r3", history))
  }

  private func starts(_ effects: [Effect]) -> [PreviewOptions] {
    effects.compactMap {
      if case .startPreview(_, _, _, _, let options) = $0 { options } else { nil }
    }
  }

  @Test func previewsAreRenewedAtEveryFourthCheckpoint() {
    var state = sampled()
    press(&state, "i", "a", "a")
    #expect(state.preview.renewal == .everyFourthCheckpoint)
    for step in [450, 500, 550] { #expect(starts(checkpoint(&state, step)).isEmpty) }
    let renewed = checkpoint(&state, 600)
    #expect(starts(renewed) == [PreviewOptions(isBackground: true)])
    // One at a time, and never in place of what was asked for.
    for step in [650, 700, 750, 780] { #expect(starts(checkpoint(&state, step)).isEmpty) }
    finish(&state, renewed, 3)
    #expect(
      state.preview.pending?.isRenewal == true, "it is renewed once more for what came meanwhile")
    let asked = press(&state, "s")
    #expect(starts(asked) == [PreviewOptions()])
    #expect(asked.first == nil || state.preview.pending?.isRenewal == false)
  }

  @Test func theEndRenewsUnlessSwitchedOff() {
    for isOff in [false, true] {
      var state = sampled()
      if isOff { press(&state, "i", "a", "a", "a") }
      #expect(state.preview.renewal == (isOff ? .never : .atEnd))
      #expect(starts(checkpoint(&state, 800)).isEmpty)
      var records = state.runs.records
      records[0].state = .done
      #expect(starts(update(&state, .runsScanned(records))).count == (isOff ? 0 : 1))
    }
    // Nobody has asked for a preview yet.
    var state = Samples.busy(Samples.small)
    var records = state.runs.records
    records[0].state = .done
    #expect(starts(update(&state, .runsScanned(records))).isEmpty)
  }

  @Test func staleImagesSayWhy() {
    var state = sampled()
    press(&state, "i")
    #expect(!ExplorerView.frame(state).text().contains("stale"))
    _ = checkpoint(&state, 500)
    #expect(ExplorerView.frame(state).text().contains("stale: of step 400, the run has 500"))
    press(&state, ">")
    #expect(ExplorerView.frame(state).text().contains("stale: other settings than now"))
    press(&state, "q")
    #expect(ExplorerView.frame(state).text().contains("stale"))
    var small = sampled(Samples.small)
    _ = checkpoint(&small, 500)
    #expect(ExplorerView.frame(small).text().contains("! stale"))
  }

  @Test func picturesAreSavedAsSeen() {
    var state = sampled()
    press(&state, "i", "f", "w")
    guard case .prompt(let prompt) = state.overlay else {
      Issue.record("no prompt")
      return
    }
    #expect(prompt.field.text == "hyena-odd-class1-seed0-step400.png")
    #expect(
      press(&state, .enter)
        == [.savePictures([Samples.picture(11)], path: "hyena-odd-class1-seed0-step400.png")])
  }
}
