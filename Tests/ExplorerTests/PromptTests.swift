import TerminalUI
import Testing

import Explorer

@Suite struct PromptTests {
  /// Where there is no sign for the key Enter its name is shown.
  @Test func enterHasAName() {
    var state = Samples.state()
    #expect(ExplorerView.frame(state).text().contains("⏎ operator"))
    state.terminal.choose(.auto, symbols: .ascii)
    #expect(ExplorerView.frame(state).text().contains("Enter operator"))
  }

  /// Pasted text that nothing takes is left out and said so; a line takes it.
  @Test func aPasteIsAnsweredEverywhere() {
    var state = Samples.state()
    let before = state.plan
    _ = update(&state, .textPasted("dq"))
    #expect(state.notice?.kind == .warning && state.notice?.text.contains("Ctrl-C") == true)
    #expect(state.plan == before && state.overlays.isEmpty)
    press(&state, ":")
    _ = update(&state, .textPasted("set seed=3"))
    guard case .prompt(let prompt) = state.overlay else {
      Issue.record("no prompt")
      return
    }
    #expect(prompt.field.text == "set seed=3" && state.notice == nil)
  }

  @Test func commandLineKnowsEveryName() {
    for name in Command.names {
      guard case .success(let parsed) = AppState.parseCommand(name) else {
        Issue.record("\(name) is not understood")
        continue
      }
      #expect(parsed.command.rawValue == name && parsed.argument == nil)
    }
    #expect(parse("12")?.command == .first)
    #expect(parse("12")?.argument == "12")
    #expect(parse("apply  last 7 ")?.argument == "last 7")
    #expect(parse("accept") == nil)
    #expect(parse("undo 3") == nil)
    #expect(parse("next-seed 9999")?.argument == "9999" && parse("last 3")?.argument == "3")
    for wrong in [
      "next-seed 9223372036854775807", "previous-seed -9223372036854775808", "next-class x",
      "next-class 0", "last -1", "first abc", "-5",
    ] {
      #expect(parse(wrong) == nil, "\(wrong)")
    }
    #expect(Int(parse("99999999999999999999999")?.argument ?? "") == Int.max)
    #expect(parse("nonsense") == nil)
  }

  private func parse(_ text: String) -> (command: Command, argument: String?)? {
    try? AppState.parseCommand(text).get()
  }

  @Test func tabCompletes() {
    var state = Samples.state()
    press(&state, ":")
    type(&state, "dis")
    press(&state, .tab)
    #expect(promptText(state) == "distil ")
    press(&state, .control("u"))
    type(&state, "next-")
    press(&state, .tab)
    guard case .prompt(let prompt) = state.overlay else { return }
    #expect(prompt.problem == "next-class  next-edited  next-operator  next-pane  next-seed")
  }

  @Test func tabCompletesArguments() {
    func completed(_ line: String) -> (text: String?, problem: String?) {
      var state = Samples.busy(Samples.small)
      press(&state, ":")
      type(&state, line)
      press(&state, .tab)
      guard case .prompt(let prompt) = state.overlay else { return (nil, nil) }
      return (prompt.field.text, prompt.problem)
    }
    #expect(completed("class cre") == ("class crescent", nil))
    #expect(completed("class s") == ("class s", "square  star  stripes"))
    #expect(completed("class x") == ("class x", "no class starts with “x”"))
    #expect(completed("runs mlp") == ("runs mlp-selfgraft", nil))
    #expect(completed("pick hyena_x") == ("pick hyena_x ", nil))
    #expect(completed("pick hyena_x sh") == ("pick hyena_x short_filter_order=", nil))
    #expect(completed("series m") == ("series mean", nil))
    #expect(completed("set stage1.learning_r") == ("set stage1.learning_rate=", nil))
    #expect(completed("set seed=1 stage2.lora_r").text == "set seed=1 stage2.lora_rank=")
    #expect(completed("set fly").problem == "no setting starts with “fly”")
    #expect(completed("undo x").problem == "undo takes no argument")
    #expect(completed("fly x").problem == "there is no command “fly”")
  }

  @Test func pathsAreCompletedFromTheDisk() throws {
    var state = Samples.state()
    press(&state, "o")
    type(&state, "plans/a")
    #expect(press(&state, .tab) == [.listFiles("plans/a")])
    _ = update(&state, .filesListed(text: "plans/a", ["plans/ab.json", "plans/abc/"]))
    #expect(promptText(state) == "plans/ab")
    // An answer to what is no longer typed changes nothing.
    type(&state, "x")
    _ = update(&state, .filesListed(text: "plans/a", ["plans/ab.json"]))
    #expect(promptText(state) == "plans/abx")
    press(&state, .escape, ":")
    type(&state, "open pl")
    #expect(press(&state, .tab) == [.listFiles("pl")])
    _ = update(&state, .filesListed(text: "pl", ["plans/"]))
    #expect(promptText(state) == "open plans/")
  }

  @Test func commandsAreKept() throws {
    var state = Samples.busy(Samples.small)
    state.history = CommandHistory(
      lines: ["series all", "undo", "series slot"], path: "/s/commands")
    press(&state, ":", .up)
    #expect(promptText(state) == "series slot")
    press(&state, .up, .up)
    #expect(promptText(state) == "series all")
    press(&state, .up)
    #expect(promptText(state) == "series all", "there is none before")
    press(&state, .down, .down, .down)
    #expect(promptText(state) == "")
    type(&state, "se")
    press(&state, .up, .up)
    #expect(promptText(state) == "series all", "among those that begin so")
    press(&state, .down)
    #expect(promptText(state) == "series slot")
    press(&state, .down)
    #expect(promptText(state) == "se")
    press(&state, .control("u"))
    type(&state, "undo")
    let effects = press(&state, .enter)
    #expect(effects.contains(.keepCommand("undo", path: "/s/commands")))
    #expect(state.history.lines == ["series all", "series slot", "undo"])
  }

  @Test func theClassAndARunAreChosenByName() {
    var state = Samples.busy(Samples.small)
    press(&state, "c")
    #expect(promptText(state) == "class ")
    type(&state, "star")
    press(&state, .enter)
    #expect(state.preview.settings.classLabel == 6)
    _ = update(&state, .commanded(.imageClass, argument: "9", count: nil))
    #expect(state.preview.settings.classLabel == 9)
    _ = update(&state, .commanded(.imageClass, argument: "whale", count: nil))
    #expect(state.preview.settings.classLabel == 9 && state.notice?.kind == .warning)
    _ = update(&state, .commanded(.runs, argument: "mlp-selfgraft", count: nil))
    guard case .runs(let pane) = state.overlay else {
      Issue.record("no list")
      return
    }
    #expect(pane.selection == "r2")
  }

  private func promptText(_ state: AppState) -> String? {
    if case .prompt(let prompt) = state.overlay { prompt.field.text } else { nil }
  }

  @Test func namesDoWhatKeysDo() {
    for (line, keys) in [("down", "j"), ("scale", "L"), ("undo", "u"), ("next-class", ">")] {
      var typed = Samples.busy(Samples.small)
      var pressed = typed
      press(&typed, ":")
      type(&typed, line)
      press(&typed, .enter)
      type(&pressed, keys)
      #expect(typed.history.lines == [line])
      typed.history = CommandHistory()
      #expect(typed == pressed)
    }
  }

  @Test func unknownNamesStayInTheLine() {
    var state = Samples.state()
    press(&state, ":")
    type(&state, "distill")
    press(&state, .enter)
    #expect(promptText(state) == "distill")
    press(&state, .backspace, .enter)
    #expect(state.notice?.kind == .warning)
    #expect(state.overlays.isEmpty)
  }

  @Test func textIsEditedAtTheCursor() {
    var field = TextField("abc")
    field.move(by: -1)
    field.insert("X")
    #expect(field.text == "abXc" && field.cursor == 3)
    field.backspace()
    field.moveToStart()
    field.delete()
    #expect(field.text == "bc" && field.cursor == 0)
    field.backspace()
    field.moveToEnd()
    field.delete()
    field.eraseToStart()
    #expect(field.text.isEmpty && field.cursor == 0)
  }

  /// Long names and echoes leave the answers, the borders and the hints in sight.
  @Test(arguments: Samples.sizes)
  func longTextsStayInTheirPlaces(size: Size) {
    let long = String(repeating: "日本 long/", count: 500)
    var state = Samples.busy(size)
    state.overlays = [.confirm(.overwrite(path: long))]
    let question = ExplorerView.frame(state).text()
    #expect(question.contains("[y] write over it") && question.contains("no"))
    #expect(question.contains("└") && question.contains("…"))
    state.overlays = []
    press(&state, "f")
    type(&state, String(repeating: "9", count: 5000))
    press(&state, .enter)
    let form = ExplorerView.frame(state).text()
    #expect(form.contains("! ") && form.contains("accept"))
    state.overlays = []
    press(&state, ":")
    type(&state, String(repeating: "x", count: 3000))
    press(&state, .enter)
    let rows = ExplorerView.frame(state).text().split(
      separator: "\n", omittingEmptySubsequences: false)
    #expect(rows.last?.hasPrefix(" :xxx") == true && rows.first?.contains("espalier") == true)
  }

  @Test func everyPromptCanBeLeft() {
    for keys in ["a", "m", "o", "W", ":", "d", "S", "r", "?", "q", "C", "e"] {
      var state = Samples.busy(Samples.small, step: 800, state: keys == "d" ? .done : .running)
      let plan = state.plan
      type(&state, keys)
      #expect(state.overlays.count == 1, "\(keys)")
      let effects = press(&state, .escape)
      #expect(state.overlays.isEmpty, "\(keys)")
      #expect(effects.isEmpty && state.plan == plan && !state.isFinished)
    }
  }
}
