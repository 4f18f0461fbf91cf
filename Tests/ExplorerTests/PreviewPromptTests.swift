import Explorer
import Plans
import TerminalUI
import Testing

/// Prompts of a text-conditional model's previews.
@Suite("Prompts of previews")
struct PreviewPromptTests {
  private func state(_ lines: [String] = []) -> AppState {
    var shape = ModelShape(
      family: .pixart, depth: 4, hiddenSize: 72, numHeads: 1, patchSize: 2, inputSize: 16,
      numClasses: 0)
    shape.captionChannels = 32
    let model = ModelReference(path: "pixart", shape: shape, contentHash: "0")
    var state = AppState(
      model: model, classNames: [],
      document: PlanDocument(plan: GraftPlan(named: "text", model: model)), size: Samples.large,
      now: Samples.now)
    state.prompts = CommandHistory(lines: lines, path: "/kept/prompts")
    return state
  }

  private func form(_ state: AppState) throws -> Form {
    let form: Form? = if case .form(let form) = state.overlay { form } else { nil }
    return try #require(form)
  }

  /// Steps and guidance are those of the family's sampler, and the grid shows the attention to the caption, which is
  /// no slot.
  @Test func theFamilyDecidesWhatIsShown() {
    let state = state()
    #expect(state.preview.settings.steps == 20 && state.preview.settings.guidance == 4.5)
    let lines = ExplorerView.frame(state).text().split(separator: "\n")
    #expect(lines.contains { $0.contains(/#  attention.* cross +mlp/) })
    #expect(lines.contains { $0.contains(#/00  mha .* mha +r4/#) })
    #expect(!ExplorerView.frame(Samples.state(Samples.large)).text().contains("cross"))
  }

  @Test func typedPromptsAreDrawnBelowEachOther() throws {
    var state = state()
    press(&state, "S")
    #expect(
      try form(state).fields.map(\.key).prefix(4) == ["prompt 1", "prompt 2", "prompt 3", "class"])
    type(&state, "a quick jk fox ")
    press(&state, .down, .down)
    type(&state, "two dogs")
    let effects = press(&state, .enter)
    #expect(state.preview.settings.prompts == ["a quick jk fox", "two dogs"])
    #expect(state.preview.settings.rows == 2)
    #expect(state.conditionText(state.preview.settings) == "a quick jk fox | two dogs")
    #expect(
      effects == [
        .keepCommand("a quick jk fox", path: "/kept/prompts"),
        .keepCommand("two dogs", path: "/kept/prompts"),
      ])
    #expect(state.prompts.lines == ["a quick jk fox", "two dogs"])
    // They are there when the form is opened again; turning goes back to the examples.
    press(&state, "S")
    #expect(try form(state).fields[1].text.text == "two dogs")
    press(&state, .escape, ">")
    #expect(state.preview.settings.prompts.isEmpty && state.preview.settings.classLabel == 1)
  }

  @Test func earlierPromptsAreCalledBack() throws {
    var state = state(["a cat", "a dog", "the sea"])
    press(&state, "S")
    func text() throws -> String { try form(state).fields[0].text.text }
    press(&state, .control("p"))
    #expect(try text() == "the sea")
    press(&state, .control("p"), .control("p"), .control("p"))
    #expect(try text() == "a cat")
    press(&state, .control("n"))
    #expect(try text() == "a dog")
    press(&state, .control("n"), .control("n"))
    #expect(try text().isEmpty)
    // Only those that begin as what was typed.
    type(&state, "a ")
    press(&state, .control("p"))
    #expect(try text() == "a dog")
    press(&state, .control("p"), .enter)
    #expect(state.preview.settings.prompts == ["a cat"] && state.prompts.lines.last == "a cat")
  }

  @Test func theSamplerIsChosen() throws {
    var state = state()
    press(&state, "S")
    let place = try #require(try form(state).fields.firstIndex { $0.key == "sampler" })
    #expect(try form(state).fields[place].text.text == "dpmpp")
    for _ in 0..<place { press(&state, .down) }
    press(&state, .right, .enter)
    #expect(state.preview.settings.sampler == "ddim")
    press(&state, "S")
    #expect(try form(state).fields[place].text.text == "ddim")
    for _ in 0..<place { press(&state, .down) }
    press(&state, .left, .enter)
    #expect(state.preview.settings.sampler == nil)
  }

  /// A class-conditional model has no prompts, and says where they come from.
  @Test func aClassConditionalModelSaysWherePromptsComeFrom() throws {
    var state = Samples.state()
    press(&state, "S")
    let form = try form(state)
    #expect(form.fields[0].key == "class" && form.fields[0].summary.contains("PixArt"))
    #expect(!form.fields.contains { $0.key.hasPrefix("prompt") })
  }
}
