import Plans
import Search

extension AppState {
  /// Completes the word before the cursor of a line, at once or when the names of files have been read.
  mutating func complete(_ prompt: inout Prompt) -> [Effect] {
    let text = prompt.field.text
    switch prompt.purpose {
    case .open, .saveAs: return [.listFiles(text)]
    case .command: break
    case .budget:
      completeMeasure(text, &prompt)
      return []
    case .set:
      completeSetting(text, &prompt)
      return []
    default:
      prompt.problem = "Tab completes names of commands, files, models, runs, classes and settings"
      return []
    }
    guard let space = text.firstIndex(of: " ") else {
      prompt.complete(text, from: Command.names, after: " ", what: "command")
      return []
    }
    let argument = String(text[text.index(after: space)...])
    guard let command = Command(rawValue: String(text[..<space])) else {
      prompt.problem = "there is no command “\(text[..<space])”"
      return []
    }
    switch command {
    case .open, .save, .saveAs: return [.listFiles(argument)]
    case .openModel, .inspect: return [.listFiles(argument, .model)]
    case .imageClass: prompt.complete(argument, from: classNames, what: "class")
    case .runs: prompt.complete(argument, from: runs.listed.map { runs.title($0) }, what: "run")
    case .series:
      prompt.complete(argument, from: ChartSettings.Series.allCases.map(\.rawValue), what: "choice")
    case .join:
      prompt.complete(argument, from: ParallelMerge.allCases.map(\.rawValue), what: "merge")
    case .pick: completeOperator(argument, &prompt)
    case .set: completeSetting(argument, &prompt)
    case .budget: completeMeasure(argument, &prompt)
    default:
      prompt.problem =
        command.argument.map { "\(command.rawValue) takes \($0)" }
        ?? "\(command.rawValue) takes no argument"
    }
    return []
  }

  private func completeMeasure(_ text: String, _ prompt: inout Prompt) {
    prompt.complete(
      text, from: Measure.allCases.map(\.rawValue) + ["none"], after: " ", what: "measure")
  }

  /// Completes the key of the last setting in a line.
  private func completeSetting(_ text: String, _ prompt: inout Prompt) {
    let word = text.split(separator: " ", omittingEmptySubsequences: false).last ?? ""
    let sections: [(String, [any SettingRow])] = [
      ("", PlanSchema.table.rows), ("stage1.", Stage1Schema.table.rows),
      ("stage2.", Stage2Schema.table.rows), ("data.", DataSchema.table.rows),
    ]
    let keys = sections.flatMap { section, rows in rows.map { "\(section)\($0.key)=" } }
    prompt.complete(String(word), from: keys, what: "setting")
  }

  private func completeOperator(_ argument: String, _ prompt: inout Prompt) {
    let words = argument.split(separator: " ", omittingEmptySubsequences: false).map(String.init)
    if words.count < 2 {
      let names = OperatorCatalog.fitting(cursor.slot).map(\.name)
      return prompt.complete(argument, from: names, after: " ", what: "operator")
    }
    let keys = OperatorCatalog.descriptor(named: words[0])?.openFields.map { "\($0.key)=" } ?? []
    prompt.complete(words[words.count - 1], from: keys, what: "setting")
  }

  /// Completes a path with the names of files that were read for it.
  mutating func receiveFiles(_ paths: [String], for text: String) {
    guard case .prompt(var prompt) = overlay, prompt.field.text.hasSuffix(text) else { return }
    prompt.complete(text, from: paths, what: "file")
    replaceTop(.prompt(prompt))
  }

  /// Goes back or forth in the commands that were typed, among those that begin as what is typed now.
  mutating func recall(_ prompt: inout Prompt, by step: Int) {
    guard prompt.purpose == .command else {
      prompt.problem = "only commands are kept"
      return
    }
    let place = prompt.recalled?.place ?? history.lines.count
    let typed = prompt.recalled?.typed ?? prompt.field.text
    guard let found = history.line(from: place, by: step, beginning: typed) else {
      prompt.problem = "no \(step < 0 ? "earlier" : "later") command begins with “\(typed)”"
      return
    }
    prompt.problem = nil
    prompt.recalled = (found.line == nil ? nil : .init(place: found.place, typed: typed))
    prompt.field.replace(found.line ?? typed)
  }

  /// Chooses the class of previews by its name or number.
  mutating func chooseClass(_ argument: String?) {
    guard let argument else {
      overlays.append(
        .prompt(Prompt(purpose: .command, field: TextField("\(Command.imageClass.rawValue) "))))
      return
    }
    let label = classNames.firstIndex(of: argument) ?? Int(argument) ?? -1
    guard (0..<max(1, model.shape.numClasses)).contains(label) else {
      notice = .warning(
        "there is no class \(argument); Tab lists them, or type a number below"
          + " \(max(1, model.shape.numClasses))")
      return
    }
    preview.settings.classLabel = label
    notice = .note("class \(className(label)); s samples")
  }

  /// The list of runs, with one highlighted that is named.
  mutating func openRuns(_ argument: String?) {
    var pane = RunsPane(selection: runs.focus?.id)
    (pane.filter, pane.order) = (kept.filter, kept.order)
    if let argument {
      pane.filter = .all
      let named = runs.listed.first {
        $0.id == argument || runs.title($0) == argument || $0.name == argument
      }
      guard let named else {
        notice = .warning("there is no run \(argument); Tab completes their names")
        return
      }
      pane.selection = named.id
    }
    keepSelection(&pane)
    overlays.append(.runs(pane))
  }
}

extension Prompt {
  /// Most candidates that are listed.
  private static let mostCandidates = 30

  /// Completes the end of the text as far as the candidates agree, and lists them if there are several.
  mutating func complete(
    _ typed: String, from candidates: [String], after: String = "", what: String
  ) {
    let fitting = candidates.filter { $0.hasPrefix(typed) }
    guard var common = fitting.first else {
      problem = "no \(what) starts with “\(typed)”"
      return
    }
    for name in fitting {
      while !name.hasPrefix(common) { common.removeLast() }
    }
    let isWhole = fitting.count == 1
    field.replace(String(field.text.dropLast(typed.count)) + common + (isWhole ? after : ""))
    let more = fitting.count - Self.mostCandidates
    problem =
      isWhole
      ? nil
      : fitting.prefix(Self.mostCandidates).joined(separator: "  ")
        + (more > 0 ? "  and \(more) more" : "")
  }
}
