import Plans

extension AppState {
  /// Answers a question.
  mutating func performInQuestion(_ command: Command) -> [Effect] {
    guard case .confirm(let question) = overlay else { return [] }
    switch command {
    case .no:
      overlays.removeLast()
      afterSave = nil
      switch question {
      case .lastSession, .recover: return effectsOfStart()
      default: return []
      }
    case .saveFirst:
      guard case .unsaved(let step) = question else { return [] }
      overlays.removeLast()
      afterSave = step
      guard let path = document.path else {
        return Layout.missingSize(size) == nil ? askWhereToSave() : save(to: "\(plan.name).json")
      }
      return save(to: path)
    case .difference:
      if let page = differences(in: question) { overlays.append(.text(page)) }
      return []
    case .reload:
      guard case .overwrite(let path, let present?) = question else { return [] }
      overlays.removeLast()
      afterSave = nil
      document.reload(present, from: path)
      changedOnDisk = nil
      notice = .note("read \(path) again; u takes back to your edits")
      return []
    case .elsewhere:
      guard case .overwrite = question else { return [] }
      overlays.removeLast()
      return askWhereToSave()
    case .discard:
      guard case .recover(let unsaved, let file) = question else { return [] }
      overlays.append(.confirm(.forget(unsaved, file: file)))
      return []
    case .yes:
      overlays.removeLast()
      return agree(to: question)
    default:
      return []
    }
  }

  private mutating func agree(to question: Question) -> [Effect] {
    switch question {
    case .unsaved(let step):
      if step == .quit { forgetsUnsaved = true }
      return take(step)
    case .cancelRun(let id):
      let name = runs.record(id)?.name ?? id
      guard runs.stopping.insert(id).inserted else {
        notice = .note("killed \(name)")
        return [.killRun(id: id)]
      }
      notice = .note("asked \(name) to stop")
      return [.control(id: id, .cancel)]
    case .many(let bulk, let ids): return perform(bulk, on: ids)
    case .overwrite(let path, _):
      return [.savePlan(named(after: path), path: path, overwrite: true)]
    case .mixture(let weights):
      return accept(weights)
    case .lastSession(let opening):
      guard opening.model == subject.model, opening.teacher == subject.teacher else {
        return leave(for: opening)
      }
      let step = opening.plan.map(PlanStep.load(path:)) ?? opening.run.map(PlanStep.openRun(id:))
      return effectsOfStart() + (step.map { take($0) } ?? [])
    case .recover(let unsaved, let file):
      guard unsaved.plan.model.contentHash == model.contentHash else {
        return leave(for: unsaved.opening)
      }
      document = PlanDocument(unsaved)
      notice = .note("the unsaved edits of \(document.title) are back; u takes them back, w saves")
      return effectsOfStart() + [.removeUnsaved(file: file)] + followMatchingRun()
    case .forget(_, let file):
      overlays.removeLast()
      notice = .note("the unsaved edits are deleted")
      return [.removeUnsaved(file: file)] + effectsOfStart()
    }
  }

  /// The effects with which an explorer starts, where a question came before them.
  private func effectsOfStart() -> [Effect] { analysis == .unknown ? firstEffects() : [] }

  /// Leaves in order to show another model.
  mutating func leave(for opening: Opening) -> [Effect] {
    next = opening
    isFinished = true
    return []
  }

  /// What differs between the two plans that a question is about.
  func differences(in question: Question) -> TextPage? {
    switch question {
    case .unsaved:
      Self.differences(from: document.savedPlan, "saved", to: plan, "now")
    case .overwrite(let path, let present?):
      Self.differences(from: present, "in \(path)", to: named(after: path), "here")
    case .recover(let unsaved, _), .forget(let unsaved, _):
      Self.differences(from: unsaved.saved, "saved", to: unsaved.plan, "unsaved")
    default: nil
    }
  }

  private static func differences(
    from before: GraftPlan, _ old: String, to after: GraftPlan, _ new: String
  ) -> TextPage {
    let lines = after.differences(from: before).flatMap { difference in
      [
        difference.key, "· \(old): \(difference.before ?? "nothing")",
        "· \(new): \(difference.after ?? "nothing")",
      ]
    }
    return TextPage(title: "differences", lines: lines.isEmpty ? ["none"] : lines)
  }
}
