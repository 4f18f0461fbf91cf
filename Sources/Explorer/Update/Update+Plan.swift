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
    case .new:
      return goTo(.new)
    default:
      return []
    }
  }

  private mutating func askWhereToSave() -> [Effect] {
    let suggestion = document.path ?? "\(plan.name).json"
    overlays.append(.prompt(Prompt(purpose: .saveAs, field: TextField(suggestion))))
    return []
  }

  /// Writes the plan to a path; a plan that has never had a name takes the file's.
  ///
  /// Its own file is written over without a question as long as nobody else has changed it.
  func save(to path: String) -> [Effect] {
    let known = path == document.path ? document.savedPlan : nil
    return [.savePlan(named(after: path), path: path, overwrite: false, known: known)]
  }

  private func named(after path: String) -> GraftPlan {
    var named = plan
    if document.path == nil || plan.name == Self.untitled { named.name = Self.stem(path) }
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
  mutating func take(_ step: PlanStep) -> [Effect] {
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
      return [.loadPlan(path: path)]
    case .openRun(let id):
      return [.openRun(id: id, adopt: true)]
    }
  }

  /// Answers a question.
  mutating func performInQuestion(_ command: Command) -> [Effect] {
    guard case .confirm(let question) = overlay else { return [] }
    switch command {
    case .no:
      overlays.removeLast()
      afterSave = nil
      return []
    case .saveFirst:
      guard case .unsaved(let step) = question else { return [] }
      overlays.removeLast()
      afterSave = step
      guard let path = document.path else {
        return Layout.missingSize(size) == nil ? askWhereToSave() : save(to: "\(plan.name).json")
      }
      return save(to: path)
    case .yes:
      overlays.removeLast()
      switch question {
      case .unsaved(let step):
        return take(step)
      case .leaveRunning:
        isFinished = true
        return []
      case .cancelRun(let id):
        let name = runs.record(id)?.name ?? id
        guard runs.stopping.insert(id).inserted else {
          notice = .note("killed \(name)")
          return [.killRun(id: id)]
        }
        notice = .note("asked \(name) to stop")
        return [.control(id: id, .cancel)]
      case .overwrite(let path):
        return [.savePlan(named(after: path), path: path, overwrite: true)]
      }
    default:
      return []
    }
  }

  /// Takes in what became of saving and loading.
  mutating func receivePlanFact(_ action: Action) -> [Effect] {
    switch action {
    case .planSaved(let saved, let path):
      // Another plan may have been opened while a slow disk was writing.
      if document.hasBeen(saved) { document.markSaved(saved, at: path) }
      notice = .note("saved \(path)")
      guard let step = afterSave else { return [] }
      afterSave = nil
      return take(step)
    case .planExists(let path):
      overlays.append(.confirm(.overwrite(path: path)))
    case .planSaveFailed(let reason):
      afterSave = nil
      notice = .failure(reason)
    case .planLoaded(let plan, let path):
      document = PlanDocument(plan: plan, path: path)
      dropSelection()
      notice = .note("opened \(path): \(plan.extent) changed")
      return followMatchingRun()
    case .planLoadFailed(let reason):
      notice = .failure(reason)
    default:
      break
    }
    return []
  }
}
