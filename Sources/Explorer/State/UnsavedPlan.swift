import Plans

/// Model and plan to show, as the command line names them.
package struct Opening: Codable, Equatable, Sendable {
  /// The model: `demo`, a path, or another name that commands accept.
  package var model: String
  /// The pretrained model of a graft, where it was named.
  package var teacher: String?
  /// Absolute path of the plan file; nil for a plan without a file.
  package var plan: String?
  /// Identifier of the run whose plan is shown; nil where the plan has a file.
  package var run: String?

  /// Names a model.
  package init(model: String, teacher: String? = nil, plan: String? = nil, run: String? = nil) {
    (self.model, self.teacher, self.plan, self.run) = (model, teacher, plan, run)
  }
}

/// Unsaved edits of a plan, which outlive an explorer that is killed.
package struct UnsavedPlan: Equatable, Sendable {
  /// What was shown.
  package let opening: Opening
  /// The plan as edited.
  package let plan: GraftPlan
  /// The plan as it was last saved or read.
  package let saved: GraftPlan
  /// Titles of the edits, oldest first.
  package let steps: [String]

  /// Makes a record.
  package init(opening: Opening, plan: GraftPlan, saved: GraftPlan, steps: [String]) {
    (self.opening, self.plan, self.saved, self.steps) = (opening, plan, saved, steps)
  }
}

extension AppState {
  /// The unsaved edits; nil if there are none.
  package var unsaved: UnsavedPlan? {
    guard document.isModified else { return nil }
    return UnsavedPlan(
      opening: showing, plan: plan, saved: document.savedPlan, steps: document.done.map(\.title))
  }

  /// What is shown now.
  package var showing: Opening {
    var showing = subject
    showing.plan = document.path
    showing.run = document.path == nil ? document.run : nil
    return showing
  }
}
