import Plans
import Runs

extension AppState {
  /// Takes a typed character as text of the open form or prompt, and says whether it was taken.
  mutating func typed(_ character: Character) -> Bool {
    defer { refreshFilter() }
    switch overlay {
    case .form(var form):
      if character == " ", case .choice = form.fields[form.index].content {
        form.fields[form.index].turn(by: 1)
        replaceTop(.form(form))
        return true
      }
      guard form.fields[form.index].takes(character) else { return false }
      if form.isFresh { form.fields[form.index].text.replace("") }
      form.isFresh = false
      form.fields[form.index].text.insert(character)
      (form.problem, form.fields[form.index].recalled) = (nil, nil)
      replaceTop(.form(form))
      return true
    case .prompt(var prompt):
      guard !character.isControl else { return false }
      prompt.field.insert(character)
      (prompt.problem, prompt.recalled) = (nil, nil)
      replaceTop(.prompt(prompt))
      return true
    default:
      return false
    }
  }

  /// Puts another value in place of the overlay that has the keyboard.
  mutating func replaceTop(_ overlay: Overlay) {
    overlays[overlays.count - 1] = overlay
  }

  /// Moves and edits inside a form, or accepts it.
  mutating func performInForm(_ command: Command) -> [Effect] {
    guard case .form(var form) = overlay else { return [] }
    form.problem = nil
    switch command {
    case .next, .previous:
      let count = form.fields.count
      form.index = (form.index + (command == .next ? 1 : count - 1)) % count
      form.isFresh = true
      replaceTop(.form(form))
    case .accept:
      return accept(form)
    case .more:
      guard !form.more.isEmpty else {
        return refuse(form, "all settings are shown already")
      }
      form.fields += form.more
      form.more = []
      replaceTop(.form(form))
    case .cursorLeft, .cursorRight:
      form.isFresh = false
      if case .choice = form.fields[form.index].content {
        form.fields[form.index].turn(by: command == .cursorRight ? 1 : -1)
      } else {
        form.fields[form.index].text.apply(command)
      }
      replaceTop(.form(form))
    case .escape:
      overlays.removeLast()
    case .earlierText, .laterText:
      let step = command == .laterText ? 1 : -1
      form.fields[form.index].recall(by: step, isFresh: form.isFresh)
      form.isFresh = false
      replaceTop(.form(form))
    default:
      form.isFresh = false
      form.fields[form.index].recalled = nil
      form.fields[form.index].text.apply(command)
      replaceTop(.form(form))
    }
    return []
  }

  /// Keeps the form open with the reason why it is not accepted.
  mutating func refuse(_ form: Form, _ problem: String) -> [Effect] {
    var refused = form
    refused.problem = problem
    replaceTop(.form(refused))
    return []
  }

  /// Does what the form is for, or refuses it.
  mutating func accept(_ form: Form) -> [Effect] {
    if let problem = form.fields.lazy.compactMap(\.problem).first { return refuse(form, problem) }
    let values = form.values
    switch form.purpose {
    case .configuration(_, let targets):
      var next = plan
      do throws(PlanError) {
        guard let spec = form.spec else { return [] }
        try next.take(spec, form, in: targets)
        overlays.removeLast()
        if case .picker = overlay { overlays.removeLast() }
        put(spec, in: targets, as: next)
      } catch {
        return refuse(form, "\(error)")
      }
      return []
    case .training(let kind):
      return startTraining(kind, form)
    case .chain:
      return startChain(form)
    case .library, .search:
      return startSearching(form)
    case .retry(let ids):
      overlays.removeLast()
      notice = .note("restarting \(runs.names(of: ids))")
      let engine = form.text(RunOptions.engine).flatMap { name in
        name == RunOptions.sameEngine
          ? nil : EngineChange(to: name == RunOptions.native ? nil : name)
      }
      let step = values["run.step"].flatMap { $0 > 0 ? Int($0) : nil }
      return ids.map {
        .retryRun(id: $0, rateFactor: values["run.rate_factor"] ?? 1, step: step, engine: engine)
      }
    case .report:
      overlays.removeLast()
      let request = form.reportRequest
      notice = .note("starting the worker …")
      return [
        .startReport(
          request, name: request.runs.first.map { runs.record($0)?.name ?? $0 } ?? plan.name,
          writesPage: form.text("run.page") == "true")
      ]
    case .preview:
      overlays.removeLast()
      preview.settings.classLabel = Int(values["class"] ?? 0)
      preview.settings.seed = UInt64(values["seed"] ?? 0)
      preview.settings.steps = Int(values["steps"] ?? 25)
      preview.settings.guidance = values["guidance"] ?? 1
      preview.settings.cache = values["cache"] ?? 0
      preview.settings.classes = Int(values["classes"] ?? 1)
      preview.settings.seeds = Int(values["seeds"] ?? 1)
      preview.settings.frames = Int(values["frames"] ?? 0)
      let sampler = form.text("sampler")
      preview.settings.sampler = sampler == model.shape.family.samplers[0] ? nil : sampler
      preview.settings.prompts = form.prompts
      notice = .note("s samples with these settings")
      return form.prompts.compactMap { prompt in
        prompts.add(prompt)
        return prompts.path.map { .keepCommand(prompt, path: $0) }
      }
    }
  }
}

extension Character {
  /// Whether it moves the cursor or rings the bell instead of showing something.
  var isControl: Bool { unicodeScalars.contains { $0.value < 32 || $0.value == 127 } }
}

extension TextField {
  /// Moves or erases as an editing command says.
  mutating func apply(_ command: Command) {
    switch command {
    case .cursorLeft: move(by: -1)
    case .cursorRight: move(by: 1)
    case .first: moveToStart()
    case .last: moveToEnd()
    case .erase: backspace()
    case .delete: delete()
    case .eraseLine: eraseToStart()
    default: break
    }
  }
}
