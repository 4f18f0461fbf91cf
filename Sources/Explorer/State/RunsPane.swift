import Runs

/// The list of runs.
package struct RunsPane: Equatable, Sendable {
  /// The highlighted run, or nil when there is none.
  package var selection: String?
  /// Runs marked for a comparison or for what is done to several at once, in the order of marking.
  package var marked: [String] = []
  /// What the listed runs match.
  package var filter = RunFilter.all
  /// The order of the list.
  package var order = RunOrder.newest

  /// Makes a list of all runs, newest first.
  package init(selection: String? = nil, marked: [String] = []) {
    (self.selection, self.marked) = (selection, marked)
  }
}

/// What can be done to several runs after one question.
package enum RunBulk: Equatable, Sendable {
  /// Stop them.
  case cancel
  /// Remove them with their checkpoints.
  case remove

  /// The verb of a question.
  var verb: String { self == .cancel ? "Cancel" : "Remove" }
}

/// Change of the notes of runs.
package enum RunAnnotationChange: Equatable, Sendable {
  /// Replaces the note.
  case note(String)
  /// Adds and removes tags.
  case tags(adding: [String], removing: [String])
}

extension AppState {
  /// The runs of a list that match its filter, in its order.
  package func listed(in pane: RunsPane) -> [RunSummary] {
    let all = pane.filter.isEmpty ? runs.listed : runs.records
    return pane.order.sorted(all.filter { pane.filter.matches($0, now: now) }, now: now)
  }

  /// The runs that a command acts on: the marked ones that are listed, otherwise the highlighted one.
  package func targets(in pane: RunsPane) -> [RunSummary] {
    let listed = listed(in: pane)
    let marked = Set(pane.marked)
    let chosen = listed.filter { marked.contains($0.id) }
    return chosen.isEmpty ? listed.filter { $0.id == pane.selection } : chosen
  }

  /// Those of the targets that a question of several runs would be about; nil with why there is none.
  func affected(by bulk: RunBulk, in pane: RunsPane) -> (runs: [RunSummary], reason: String?) {
    let targets = targets(in: pane)
    var reason: String?
    let affected = targets.filter { run in
      let against =
        switch bulk {
        case .cancel: run.isAlive ? nil : "\(run.name) is \(run.state.name) already"
        case .remove: runs.records.reasonAgainstRemoving(run)
        }
      reason = reason ?? against
      return against == nil
    }
    return (affected, targets.isEmpty ? "there is no run here" : reason)
  }
}
