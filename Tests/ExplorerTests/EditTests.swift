import Plans
import TerminalUI
import TestSupport
import Testing

import Explorer

@Suite struct EditTests {
  @Test func pickerListsWhatFitsAndNothingElse() {
    for slot in Slot.allCases {
      var state = Samples.state()
      state.cursor = SlotID(block: 4, slot: slot)
      press(&state, .enter)
      guard case .picker(let picker) = state.overlay else {
        Issue.record("no picker for \(slot)")
        return
      }
      let expected =
        [Picker.Entry.original]
        + OperatorCatalog.fitting(slot).map { .replacement($0.defaultSpec) }
      #expect(picker.entries == expected)
      #expect(picker.targets == [state.cursor])
    }
  }

  @Test func pickingGoesThroughTheForm() {
    var state = Samples.state()
    pick("hyena_x", in: &state)
    guard case .form(let form) = state.overlay else {
      Issue.record("no form")
      return
    }
    #expect(form.fields.map(\.key) == ["short_filter_order"])
    type(&state, "7")
    press(&state, .enter)
    #expect(state.overlays.isEmpty)
    #expect(
      state.plan.edits == [Samples.attention(0): OperatorSpec("hyena_x", ["short_filter_order": 7])]
    )
    #expect(state.notice == .note("hyena-x k7 in 0.attention"))
  }

  @Test func operatorWithoutSettingsIsPutInAtOnce() {
    var state = Samples.state()
    pick("linear", in: &state)
    #expect(state.overlays.isEmpty)
    #expect(state.plan.edits[Samples.attention(0)]?.name == "linear")
  }

  @Test func selectionOfBothKindsLeavesTheOtherKindAlone() {
    var state = Samples.state()
    type(&state, "v2jl")
    press(&state, .enter)
    guard case .picker(let picker) = state.overlay else {
      Issue.record("no picker")
      return
    }
    #expect(picker.slot == .mlp)
    #expect(picker.targets == (0...2).map(Samples.mlp))
    #expect(picker.skipped == 3)
  }

  @Test(arguments: ["0", "65", "4.5", "x", "1e99", "", "-1"])
  func impossibleNumbersAreRefusedWithTheirRange(text: String) {
    var state = Samples.state()
    pick("hyena_x", in: &state)
    press(&state, .control("u"))
    type(&state, text)
    if text.isEmpty { press(&state, .backspace) }
    press(&state, .enter)
    guard case .form(let form) = state.overlay else {
      // "x" is no part of a number, so that the default is left.
      #expect(text == "x")
      return
    }
    #expect(form.problem?.contains("1 to 64") == true)
    #expect(state.plan.edits.isEmpty)
    press(&state, .escape, .escape)
    #expect(state.overlays.isEmpty)
  }

  @Test func configurationEditsWhatIsThere() {
    var state = Samples.busy(Samples.small)
    press(&state, "e")
    type(&state, "9")
    press(&state, .enter)
    #expect(state.plan.edits[Samples.attention(7)]?.config == ["short_filter_order": 9])
    #expect(state.status(of: Samples.attention(7)).phase == .stale)
  }

  /// Settings that are choices are words in the form, in the list of operators and in differences.
  @Test func choicesOfAnOperatorAreWords() throws {
    var state = Samples.state()
    press(&state, ":")
    type(&state, "pick linear_attention feature_map=relu")
    press(&state, .enter, "e")
    guard case .form(let form) = state.overlay else {
      Issue.record("no form")
      return
    }
    let place = try #require(form.fields.firstIndex { $0.key == "feature_map" })
    #expect(form.fields[place].text.text == "relu")
    for _ in 0..<place { press(&state, .down) }
    press(&state, .right, .enter)
    #expect(state.plan.edits[Samples.attention(0)]?.config["feature_map"] == 2)
    let before = Samples.state().plan
    let difference = try #require(state.plan.differences(from: before).first?.after)
    #expect(difference.contains("feature_map=exp"))
    press(&state, .enter, "g", "g")
    let row = try #require(
      shownEntries(state).firstIndex { $0?.name == "linear_attention" })
    for _ in 0..<row { press(&state, "j") }
    let text = ExplorerView.frame(state).text()
    #expect(["elu1", "exp"].contains { text.contains("feature map \($0)") })
  }

  private func shownEntries(_ state: AppState) -> [OperatorSpec?] {
    guard case .picker(let picker) = state.overlay else { return [] }
    return picker.entries.map { if case .replacement(let spec) = $0 { spec } else { nil } }
  }

  @Test func patternAppliesTheSlotsOperator() {
    var state = Samples.state()
    type(&state, "j")
    pick("hyena_x", in: &state)
    press(&state, .enter, "a")
    type(&state, "odd")
    press(&state, .enter)
    #expect(state.plan.edits == Samples.oddPlan().edits)
    // From a pristine slot the pattern restores.
    type(&state, "ka")
    type(&state, "last 14")
    press(&state, .enter)
    #expect(state.plan.edits.keys.map(\.block).sorted() == [1, 3, 5, 7, 9, 11, 13])
  }

  @Test func lastOperatorIsRepeated() {
    var state = Samples.state()
    pick("hyena_x", in: &state)
    press(&state, .enter)
    type(&state, "4jv2j.")
    #expect(state.plan.edits.keys.map(\.block).sorted() == [0, 4, 5, 6])
    #expect(state.anchor == nil)
  }

  @Test func clearingRestoresBothKinds() {
    var state = Samples.busy(Samples.small)
    state.cursor = Samples.attention(3)
    type(&state, "vlx")
    #expect(state.plan.edits[Samples.attention(3)] == nil)
    #expect(state.plan.edits[Samples.mlp(3)] == nil)
    #expect(state.plan.edits.count == 13)
  }

  @Test func commandLineSetsOperators() {
    var state = Samples.state()
    press(&state, ":")
    type(&state, "pick swa window_left=2 window_right=0")
    press(&state, .enter)
    #expect(
      state.plan.edits[Samples.attention(0)]
        == OperatorSpec("swa", ["window_left": 2, "window_right": 0, "num_heads": 0]))
    for wrong in [
      "pick swa num_heads=5", "pick swa window_left=-1", "pick swa window=2", "pick nothing",
      "pick mlp", "pick swa 3",
    ] {
      let before = state.plan
      _ = update(&state, .commanded(.pick, argument: String(wrong.dropFirst(5)), count: nil))
      guard case .warning = state.notice?.kind else {
        Issue.record("no warning for \(wrong)")
        continue
      }
      #expect(state.plan == before)
    }
  }

  // MARK: - History

  @Test func undoTakesBackAndRedoRepeats() {
    var state = Samples.state()
    var plans = [state.plan]
    for block in [3, 9, 4, 27] {
      type(&state, "\(block)G")
      pick("hyena_x", in: &state)
      press(&state, .enter)
      plans.append(state.plan)
    }
    for expected in plans.dropLast().reversed() {
      type(&state, "u")
      #expect(state.plan == expected)
    }
    type(&state, "u")
    #expect(state.notice == .warning("nothing to undo"))
    for expected in plans.dropFirst() {
      press(&state, .control("r"))
      #expect(state.plan == expected)
    }
    type(&state, "3u")
    #expect(state.plan == plans[1])
    type(&state, "x")
    #expect(
      state.document.undone
        == plans.indices.dropFirst(2).reversed().map { index in
          PlanDocument.Change(
            title: "hyena-x in \([3, 9, 4, 27][index - 1]).attention", before: plans[index - 1],
            after: plans[index])
        })
  }

  @Test func anEditForgetsWhatWasTakenBack() {
    var state = Samples.busy(Samples.small)
    type(&state, "u")
    #expect(state.document.undone.count == 1)
    type(&state, "x")
    #expect(state.document.undone.isEmpty)
    press(&state, .control("r"))
    #expect(state.notice == .warning("nothing to redo"))
  }

  /// Random edits, undos and redos against a plain list of plans.
  @Test(arguments: 1...20)
  func historyIsALineOfPlans(seed: Int) {
    var random = RandomSequence(seed: UInt64(seed))
    var document = PlanDocument(plan: GraftPlan(named: "p", model: Samples.model))
    var plans = [document.plan]
    var place = 0
    for _ in 0..<200 {
      switch random.integer(below: 3) {
      case 0:
        let slot = SlotID(
          block: random.integer(below: 28), slot: Slot.allCases[random.integer(below: 2)])
        let spec = random.integer(below: 3) == 0 ? nil : OperatorSpec("mha")
        let changed = document.edit("edit") { $0.edits[slot] = spec }
        if changed {
          plans = Array(plans.prefix(place + 1)) + [document.plan]
          place += 1
        }
      case 1:
        let change = document.undo()
        #expect((change == nil) == (place == 0))
        place = max(0, place - 1)
      default:
        let change = document.redo()
        #expect((change == nil) == (place == plans.count - 1))
        place = min(plans.count - 1, place + 1)
      }
      #expect(document.plan == plans[place])
      #expect(document.done.count == place)
      #expect(document.isModified == (document.plan != plans[0]))
    }
  }

  private func pick(_ name: String, in state: inout AppState) {
    press(&state, .enter)
    for _ in 0..<20 {
      if case .picker(let picker) = state.overlay, case .replacement(let spec) = picker.entry,
        spec.name == name
      {
        break
      }
      press(&state, .down)
    }
    press(&state, .enter)
  }
}
