import Plans

extension AppState {
  /// Saves, opens or empties the plan.
  mutating func keepPlan(_ command: Command, argument: String?) -> [Effect] {
    switch command {
    case .save:
      if let argument { return save(to: Self.planPath(argument)) }
      guard let path = document.path else { return askWhereToSave() }
      return save(to: path)
    case .saveAs:
      if let argument { return save(to: Self.planPath(argument)) }
      return askWhereToSave()
    case .open:
      if let argument { return goTo(.load(path: Self.planPath(argument))) }
      overlays.append(.prompt(Prompt(purpose: .open)))
      return []
    case .openModel:
      if let argument { return goTo(.show(Opening(model: argument))) }
      overlays.append(
        .prompt(Prompt(purpose: .command, field: TextField("\(Command.openModel.rawValue) "))))
      return []
    case .new:
      return goTo(.new)
    case .budget:
      guard let argument else {
        overlays.append(
          .prompt(Prompt(purpose: .budget, field: TextField(budget?.text ?? ""))))
        return []
      }
      if let problem = setBudget(argument) { notice = .warning(problem) }
      return [.readLibrary]
    case .set:
      guard let argument else {
        overlays.append(.prompt(Prompt(purpose: .set)))
        return []
      }
      if let problem = setSettings(argument) { notice = .warning(problem) }
      return []
    default:
      return []
    }
  }

  /// Sets settings of the plan, `KEY=VALUE` separated by spaces, as one step; says what is wrong.
  mutating func setSettings(_ text: String) -> String? {
    let before = plan
    var next = before
    do throws(PlanError) {
      try next.set(assignments: text)
      try next.validate()
    } catch {
      return "\(error)"
    }
    let isChanged = document.edit("set \(text)") { $0 = next }
    let known = Set(before.notes)
    let idle = next.notes.first { !known.contains($0) }
    notice =
      isChanged
      ? idle.map { .warning("set \(text); \($0)") } ?? .note("set \(text)")
      : .note("nothing changed: the plan says that already")
    return nil
  }

  mutating func askWhereToSave() -> [Effect] {
    let suggestion = document.path ?? "\(plan.name).json"
    overlays.append(.prompt(Prompt(purpose: .saveAs, field: TextField(suggestion))))
    return []
  }

  /// Writes the plan to a path; another path than its own gives the plan its name.
  ///
  /// Its own file is written over without a question as long as nobody else has changed it.
  func save(to path: String) -> [Effect] {
    let known = path == document.path ? document.savedPlan : nil
    return [.savePlan(named(after: path), path: path, overwrite: false, known: known)]
  }

  func named(after path: String) -> GraftPlan {
    var named = plan
    if document.path != path || plan.name == Self.untitled { named.name = Self.stem(path) }
    return named
  }

  /// The name of a plan that has not been saved.
  package static let untitled = "untitled"

  private static func stem(_ path: String) -> String {
    let name = path.split(separator: "/").last.map(String.init) ?? path
    return name.hasSuffix(".json") ? String(name.dropLast(5)) : name
  }

  /// Takes a step that replaces the plan or leaves, asking first when changes would be lost.
  mutating func goTo(_ step: PlanStep) -> [Effect] {
    if document.isModified {
      overlays.append(.confirm(.unsaved(step)))
      return []
    }
    return take(step)
  }

  /// Takes the step without asking.
  package mutating func take(_ step: PlanStep) -> [Effect] {
    switch step {
    case .quit:
      isFinished = true
      return []
    case .new:
      document = PlanDocument(plan: GraftPlan(named: Self.untitled, model: model))
      dropSelection()
      runs.focus = nil
      notice = .note("an empty plan: every slot is the teacher's own")
      return [.followRun(id: nil)]
    case .load(let path):
      awaited = AwaitedPlan(step: step, document: document)
      return [.loadPlan(path: path)]
    case .openRun(let id):
      awaited = AwaitedPlan(step: step, document: document)
      return [.openRun(id: id, adopt: true)]
    case .show(let opening):
      awaited = AwaitedPlan(step: step, document: document)
      notice = .note("opening \(opening.model) …")
      return [.openModel(opening)]
    }
  }

  /// Puts a plan that was read in the place of the present one, unless it is no longer wanted or the
  /// present one was edited meanwhile; says whether it did.
  mutating func replace(after step: PlanStep, with next: PlanDocument) -> Bool {
    guard isAwaited(step, title: next.title) else { return false }
    document = next
    dropSelection()
    return true
  }

  /// Whether an answer to a step is still wanted; says so if edits made meanwhile stand against it.
  private mutating func isAwaited(_ step: PlanStep, title: String) -> Bool {
    guard let awaited, awaited.step == step else { return false }
    self.awaited = nil
    guard document == awaited.document else {
      notice = .warning(
        "\(title) was read, but \(document.title) was edited meanwhile and stays; open it again")
      return false
    }
    return true
  }

  /// Takes in what became of saving and loading.
  mutating func receivePlanFact(_ action: Action) -> [Effect] {
    switch action {
    case .planSaved(let saved, let path):
      // Another plan may have been opened while a slow disk was writing.
      if document.hasBeen(saved) { document.markSaved(saved, at: path) }
      changedOnDisk = nil
      notice = .note("saved \(path)")
      guard let step = afterSave else { return [] }
      afterSave = nil
      // Edits made while it was saved are asked about.
      return goTo(step)
    case .planExists(let path, let present):
      overlays.append(.confirm(.overwrite(path: path, present: present)))
    case .planChangedOnDisk(let path):
      if path == document.path {
        changedOnDisk = path
        notice = .warning(
          "\(path) was changed or removed by another program; w asks before it overwrites")
      }
    case .planSaveFailed(let reason):
      afterSave = nil
      notice = .failure(reason)
    case .planLoaded(let plan, let path):
      guard replace(after: .load(path: path), with: PlanDocument(plan: plan, path: path)) else {
        return []
      }
      changedOnDisk = nil
      notice = .note("opened \(path): \(plan.extent) changed")
      return followMatchingRun()
    case .planLoadFailed(let reason):
      awaited = nil
      notice = .failure(reason)
    case .planOfOtherModel(let step, let opening):
      // Whether edits may be lost was asked before the plan was read.
      guard isAwaited(step, title: opening.plan ?? opening.model) else { return [] }
      return take(.show(opening))
    case .modelOpened(let asked, let opening):
      guard isAwaited(.show(asked), title: opening.model) else { return [] }
      forgetsUnsaved = true
      return leave(for: opening)
    default:
      break
    }
    return []
  }
}
