import Plans

/// The plan being edited, with its place on disk and an unlimited history.
package struct PlanDocument: Equatable, Sendable {
  /// One step of the history: what it was called and the plan on either side of it.
  package struct Change: Equatable, Sendable {
    /// What the step did, in words for the screen ("hyena_x in 14 attention slots").
    package let title: String
    /// The plan before the step.
    package let before: GraftPlan
    /// The plan after the step.
    package let after: GraftPlan

    /// Names a step.
    package init(title: String, before: GraftPlan, after: GraftPlan) {
      self.title = title
      self.before = before
      self.after = after
    }
  }

  /// The plan as it is now.
  package private(set) var plan: GraftPlan
  /// The plan as it was last saved or loaded; a new plan counts as saved while it is empty.
  package private(set) var savedPlan: GraftPlan
  /// Where the plan lives on disk, or nil when it has never been saved.
  package private(set) var path: String?
  /// Identifier of the run whose plan it was; nil for a plan that was made here or read from a file.
  package private(set) var run: String?
  /// Steps that can be undone, oldest first.
  package private(set) var done: [Change] = []
  /// Steps that can be redone, the next one last.
  package private(set) var undone: [Change] = []

  /// Starts a document from a plan that is considered saved.
  package init(plan: GraftPlan, path: String? = nil, run: String? = nil) {
    self.plan = plan
    self.savedPlan = plan
    self.path = path
    self.run = run
  }

  /// Starts a document with unsaved edits that were kept.
  package init(_ unsaved: UnsavedPlan) {
    self.init(plan: unsaved.saved, path: unsaved.opening.plan, run: unsaved.opening.run)
    edit(unsaved.steps.joined(separator: "; ")) { $0 = unsaved.plan }
  }

  /// Whether the plan differs from the saved one.
  package var isModified: Bool { plan != savedPlan }

  /// Applies one edit as one undoable step; an edit that changes nothing adds no step.
  ///
  /// - Returns: Whether the plan changed.
  @discardableResult
  package mutating func edit(_ title: String, _ body: (inout GraftPlan) -> Void) -> Bool {
    var next = plan
    body(&next)
    guard next != plan else { return false }
    done.append(Change(title: title, before: plan, after: next))
    undone.removeAll()
    plan = next
    return true
  }

  /// Takes back the last step and returns it, or nil when there is none.
  package mutating func undo() -> Change? {
    guard let change = done.popLast() else { return nil }
    undone.append(change)
    plan = named(change.before)
    return change
  }

  /// Repeats the step that was last taken back and returns it, or nil when there is none.
  package mutating func redo() -> Change? {
    guard let change = undone.popLast() else { return nil }
    done.append(change)
    plan = named(change.after)
    return change
  }

  /// Whether the plan was once like another one, whatever either is called; of a plan that has been closed it was not.
  package func hasBeen(_ other: GraftPlan) -> Bool {
    ([plan, savedPlan] + done.map(\.before) + undone.map(\.after)).contains { candidate in
      var candidate = candidate
      candidate.name = other.name
      return candidate == other
    }
  }

  /// Records that `saved` was written to `path`; its name is the plan's, edits made since then still count as
  /// unsaved.
  package mutating func markSaved(_ saved: GraftPlan, at path: String) {
    savedPlan = saved
    plan.name = saved.name
    self.path = path
    run = nil
  }

  /// Takes over the plan that the file holds now, as a step that can be undone.
  package mutating func reload(_ present: GraftPlan, from path: String) {
    edit("read \(path) again") { $0 = present }
    markSaved(present, at: path)
  }

  /// Takes back the last step as if it had never been made.
  package mutating func revoke() {
    guard undo() != nil else { return }
    undone.removeLast()
  }

  /// The file's name, or that of a plan without a file; both where they differ.
  package var title: String {
    guard let path else { return plan.name }
    let file = path.split(separator: "/").last.map(String.init) ?? path
    return file == plan.name + ".json" || file == plan.name ? file : "\(file) (\(plan.name))"
  }

  private func named(_ other: GraftPlan) -> GraftPlan {
    var result = other
    result.name = plan.name
    return result
  }
}
