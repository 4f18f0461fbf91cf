import Files
import Plans
import Runs

extension AppState {
  /// Edits the line of text, or accepts it.
  mutating func performInPrompt(_ command: Command) -> [Effect] {
    guard case .prompt(var prompt) = overlay else { return [] }
    switch command {
    case .accept:
      return accept(prompt)
    case .escape: return leave(prompt)
    case .erase where prompt.field.text.isEmpty: return leave(prompt)
    case .complete:
      let effects = complete(&prompt)
      replaceTop(.prompt(prompt))
      return effects
    case .previous, .next: recall(&prompt, by: command == .next ? 1 : -1)
    default:
      (prompt.problem, prompt.recalled) = (nil, nil)
      prompt.field.apply(command)
    }
    replaceTop(.prompt(prompt))
    refreshFilter()
    return []
  }

  /// Gives up a line of text.
  mutating func leave(_ prompt: Prompt) -> [Effect] {
    overlays.removeLast()
    afterSave = nil
    if case .filter(let before) = prompt.purpose { restoreFilter(before) }
    return []
  }

  private mutating func accept(_ prompt: Prompt) -> [Effect] {
    let text = prompt.field.text.trimmingSpaces
    func refuse(_ problem: String) -> [Effect] {
      var refused = prompt
      refused.problem = problem
      replaceTop(.prompt(refused))
      return []
    }
    switch prompt.purpose {
    case .apply, .mark:
      // A wrong pattern stays in the line, so that it can be corrected.
      do {
        _ = try slots(selectedBy: text, in: prompt.purpose)
      } catch {
        return refuse("\(error)")
      }
      overlays.removeLast()
      if case .apply(let source) = prompt.purpose {
        applyPattern(text, source: source)
      } else {
        markBlocks(text)
      }
      return []
    case .note(let ids):
      var annotation = RunAnnotation()
      do throws(FileError) { try annotation.setNote(text) } catch { return refuse(error.message) }
      overlays.removeLast()
      return [.annotateRuns(ids: ids, .note(text))]
    case .tag(let ids):
      let change = Self.tagChange(text)
      var annotation = RunAnnotation()
      if case .tags(let added, _) = change {
        do throws(FileError) {
          try annotation.setTags(adding: added)
        } catch {
          return refuse(error.message)
        }
      }
      overlays.removeLast()
      return [.annotateRuns(ids: ids, change)]
    case .filter:
      // It is in use as it was typed.
      guard prompt.problem == nil else { return [] }
      overlays.removeLast()
      return []
    case .search:
      overlays.removeLast()
      look(for: text)
      return []
    case .saveAs:
      guard !text.isEmpty else { return refuse("type a file name, or Esc to go back") }
      overlays.removeLast()
      return save(to: Self.planPath(text))
    case .savePicture:
      guard !text.isEmpty else { return refuse("type a file name, or Esc to go back") }
      overlays.removeLast()
      let path = text.hasSuffix(".png") ? text : text + ".png"
      return [.savePictures(shownPictures.map(\.picture.image), path: path)]
    case .open:
      guard !text.isEmpty else { return refuse("type a file name, or Esc to go back") }
      overlays.removeLast()
      return goTo(.load(path: Self.planPath(text)))
    case .budget:
      overlays.removeLast()
      if let problem = setBudget(text) {
        overlays.append(.prompt(prompt))
        return refuse(problem)
      }
      return [.readLibrary]
    case .set:
      overlays.removeLast()
      guard !text.isEmpty else { return [] }
      if let problem = setSettings(text) {
        overlays.append(.prompt(prompt))
        return refuse(problem)
      }
      return []
    case .command:
      guard !text.isEmpty else {
        overlays.removeLast()
        return []
      }
      switch Self.parseCommand(text) {
      case .success(let parsed):
        overlays.removeLast()
        history.add(text)
        let kept = history.path.map { [Effect.keepCommand(text, path: $0)] } ?? []
        return kept + perform(parsed.command, argument: parsed.argument, count: nil)
      case .failure(let problem):
        return refuse(problem.text)
      }
    }
  }

  /// Why a command line cannot be parsed.
  package struct CommandProblem: Error, Equatable {
    /// One sentence.
    package let text: String
  }

  /// Parses a command line: a name and an optional argument.
  ///
  /// A number alone goes to that block.
  package static func parseCommand(
    _ text: String
  ) -> Result<(command: Command, argument: String?), CommandProblem> {
    let parts = text.split(separator: " ", maxSplits: 1).map(String.init)
    guard let name = parts.first else {
      return .failure(CommandProblem(text: "type the name of a command"))
    }
    if name.allSatisfy({ $0.isASCII && $0.isWholeNumber }) {
      return .success((.first, String(Int(name) ?? Int.max)))
    }
    guard let command = Command(rawValue: name), command.hasName else {
      let near = Command.names.filter { $0.hasPrefix(name.prefix(1)) }.joined(separator: ", ")
      return .failure(
        CommandProblem(
          text: "there is no command “\(name)”"
            + (near.isEmpty ? "; Tab lists them" : "; there are \(near)")))
    }
    let argument = parts.count > 1 ? parts[1].trimmingSpaces : ""
    if !argument.isEmpty, let problem = command.problem(with: argument) {
      return .failure(CommandProblem(text: problem))
    }
    return .success((command, argument.isEmpty ? nil : argument))
  }

  /// A typed path, with `.json` added when it has no extension.
  static func planPath(_ text: String) -> String {
    let name = text.split(separator: "/").last ?? ""
    return name.contains(".") || text.hasSuffix("/") ? text : text + ".json"
  }

  /// The blocks that an unfinished pattern names, to be lit up while it is typed.
  package var promptedSlots: Set<SlotID> {
    guard case .prompt(let prompt) = overlay else { return [] }
    return Set((try? slots(selectedBy: prompt.field.text, in: prompt.purpose)) ?? [])
  }

  /// The slots that the text of a prompt selects; an operator goes to slots of its own kind alone.
  private func slots(
    selectedBy text: String, in purpose: Prompt.Purpose
  ) throws(PlanError) -> [SlotID] {
    switch purpose {
    case .apply(let source): try slots(selectedBy: text, for: source.slot)
    case .mark(let slot):
      try SlotSelection.parse(text, depth: depth, slot: slot, scores: slotScores)
    default: []
    }
  }

  /// The slots of one kind that a text selects.
  func slots(selectedBy text: String, for slot: Slot) throws(PlanError) -> [SlotID] {
    try SlotSelection.blocks(text, depth: depth, slot: slot, scores: slotScores)
      .map { SlotID(block: $0, slot: slot) }
  }

  /// The scores by which slots can be selected: statistics of the teacher and losses of the followed run.
  var slotScores: SlotScores {
    var known: ModelAnalysis?
    if case .ready(let analysis) = analysis { known = analysis }
    return SlotScores(
      analysis: known ?? knownAnalysis, history: runs.focus?.history,
      remedy: "A computes the teacher's statistics")
  }
}

extension Command {
  /// The names that the command line accepts, in alphabetical order.
  package static let names = allCases.filter(\.hasName).map(\.rawValue).sorted()
}

extension String {
  /// The text without spaces at either end.
  var trimmingSpaces: String { String(trimmingTrailingSpaces.drop { $0 == " " }) }

  /// The text without spaces at its end.
  var trimmingTrailingSpaces: String {
    var text = Substring(self)
    while text.last == " " { text.removeLast() }
    return String(text)
  }
}
