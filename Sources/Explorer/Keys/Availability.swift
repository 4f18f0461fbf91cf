import Plans
import Runs

extension AppState {
  /// Why a command cannot be done now, in one sentence, or nil when it can.
  package func reasonAgainst(_ command: Command) -> String? {
    switch keyContext {
    case .grid, .images: reasonOnGrid(command)
    case .runs: reasonInRuns(command)
    case .search: reasonInSearch(command)
    case .question: reasonInQuestion(command)
    default: nil
    }
  }

  private func reasonOnGrid(_ command: Command) -> String? {
    if let missingTeacher, Self.needsTeacher.contains(command) {
      return
        "the teacher of this graft, \(missingTeacher), is not there, so it can only be looked at;"
        + " name the teacher with 'espalier explore --teacher'"
    }
    switch command {
    case .pick, .configure, .distil, .finetune, .chain, .report, .previewSettings, .settings,
      .terminal, .bestPlans, .buildLibrary:
      if Layout.isCompact(size), keyContext == .grid {
        return
          "\(command.rawValue) needs a screen of \(Layout.minimum.columns)x\(Layout.minimum.rows);"
          + " this one has \(size.columns)x\(size.rows)"
      }
    default: break
    }
    return reasonOnLargeGrid(command)
  }

  private func reasonOnLargeGrid(_ command: Command) -> String? {
    switch command {
    case .nextPane:
      Layout.isCompact(size) ? nil : "every pane is on the screen already"
    case .resetPanes:
      panes == PaneSizes()
        ? layout.isWide
          ? "the panes have their usual sizes; the mouse drags their borders"
          : "the panes of a screen below 120x40 have one size" : nil
    case .nextEdited, .previousEdited:
      plan.isEmpty ? "no slot is edited yet: ⏎ chooses an operator" : nil
    case .configure:
      plan.edits[cursor] == nil
        ? "\(cursor) has the teacher's own operator; ⏎ chooses one to configure" : nil
    case .clear:
      targets.allSatisfy { plan.edits[$0] == nil }
        ? "nothing to restore: \(targets.count == 1 ? "\(cursor)" : "the slots") already "
          + "\(targets.count == 1 ? "has" : "have") the teacher's own operator" : nil
    case .join:
      if case .failure(let error) = joining(nil) { "\(error)" } else { nil }
    case .again:
      lastOperators[cursor.slot] == nil
        ? "no \(cursor.slot.title) operator was chosen yet: ⏎ chooses one" : nil
    case .undo: document.done.isEmpty ? "nothing to undo" : nil
    case .redo: document.undone.isEmpty ? "nothing to redo" : nil
    case .distil:
      plan.isEmpty
        ? "nothing to distil: ⏎ puts another operator in a slot first" : reasonAgainstTraining
    case .chain:
      plan.isEmpty
        ? "nothing to distil: ⏎ puts another operator in a slot first" : reasonAgainstTraining
    case .report:
      weights.runSources.isEmpty
        ? "no run holds weights of the plan: d distils it, r lists the runs" : nil
    case .finetune: reasonAgainstTraining
    case .pause: reasonAgainstPause(runs.focusRecord, followed: true)
    case .cancel: reasonAgainstControl(runs.focusRecord, followed: true)
    case .series, .scale, .plot:
      runs.focus == nil ? "no losses yet: d distils the plan, r opens an older run" : nil
    case .save:
      document.path != nil && !document.isModified && changedOnDisk != document.path
        ? "nothing to save: the file is up to date" : nil
    case .new:
      plan.isEmpty && !document.isModified && document.path == nil
        ? "the plan is empty already" : nil
    case .images:
      preview.shown == nil && preview.pending == nil
        ? "no images yet: s samples teacher and graft" : nil
    case .savePicture, .flip, .arrangement:
      preview.shown == nil ? "no images yet: s samples teacher and graft" : nil
    case .laterFrame, .earlierFrame:
      shownFrames.isEmpty ? "no predictions are kept: m keeps them, s samples" : nil
    case .laterCheckpoint, .earlierCheckpoint:
      checkpointSteps.count < 2
        ? runs.focusRecord?.reasonAgainstUsingFiles
          ?? "\(runs.focusRecord.map { runs.title(of: $0.id) } ?? "the run") keeps one checkpoint only:"
          + " stage1.keep_last and stage2.keep_last keep more"
        : nil
    case .secondRun:
      overlayRuns.isEmpty && preview.second == nil ? "there are no other trainings" : nil
    case .evidence:
      teacher == nil ? "the teacher's statistics are not known yet: A computes them" : nil
    case .bestPlans, .costMap: reasonAgainstCosts
    case .nextOperator, .previousOperator:
      costMap == nil ? "the grid shows no costs: H shows them" : reasonAgainstCosts
    case .buildLibrary: reasonAgainstTraining
    case .analyze:
      if case .computing = analysis { "the teacher's statistics are being computed" } else { nil }
    case .previousSeed: preview.settings.seed == 0 ? "the seed is 0 already" : nil
    case .nextSeed:
      preview.settings.seed == PreviewSettings.largestSeed ? "this is the largest seed" : nil
    case .fewerSteps: preview.settings.steps == 1 ? "one step is the fewest" : nil
    case .moreSteps:
      preview.settings.steps >= Int(PreviewSettings.stepRange.upperBound)
        ? "\(preview.settings.steps) steps are the most" : nil
    case .lessGuidance:
      preview.settings.guidance <= PreviewSettings.guidanceRange.lowerBound
        ? "guidance 0 is the least" : nil
    case .moreGuidance:
      preview.settings.guidance >= PreviewSettings.guidanceRange.upperBound
        ? "guidance \(Format.plain(preview.settings.guidance)) is the most" : nil
    case .nextClass, .previousClass:
      model.shape.conditionCount < 2 ? "the model has one class only" : nil
    case .escape:
      anchor == nil && marks.isEmpty && keyContext == .grid
        ? "nothing to step out of; q leaves" : nil
    default: nil
    }
  }

  /// Commands that change, keep or train a plan, which is made for a pretrained model.
  private static let needsTeacher: Set<Command> = [
    .pick, .configure, .apply, .again, .clear, .join, .set, .save, .saveAs, .new, .distil,
    .finetune, .chain, .report, .bestPlans, .buildLibrary,
  ]

  private var reasonAgainstTraining: String? {
    runs.isLaunching ? "the worker is being started" : nil
  }

  private func reasonAgainstControl(_ record: RunSummary?, followed: Bool) -> String? {
    guard let record else {
      return followed
        ? "no training is followed: d starts one, r lists them" : "there is no run here"
    }
    if record.state == .detached {
      return
        "\(record.name) is detached, so nothing reaches \(record.link?.host ?? "its host"):"
        + " R in the list of runs follows it again"
    }
    return record.isAlive ? nil : "\(record.name) is \(record.state.name) already"
  }

  private func reasonAgainstPause(_ record: RunSummary?, followed: Bool) -> String? {
    if let record, record.turn != nil {
      return "\(record.name) waits in the queue: r lists the runs, where - lets it wait longer"
    }
    if let reason = record?.pauseReason { return "it waits already: \(reason)" }
    return reasonAgainstControl(record, followed: followed)
  }

  private func reasonInRuns(_ command: Command) -> String? {
    guard case .runs(let pane) = overlay else { return nil }
    let selected = pane.selection.flatMap { runs.record($0) }
    switch command {
    case .next, .previous, .markAll:
      guard runs.records.isEmpty else { return nil }
      return runs.isScanned
        ? "there are no runs yet: d in the grid starts one" : "the run directory is being read"
    case .accept:
      guard let selected else { return "there is no run to open" }
      if selected.kind?.isMeasuring == true {
        return selected.state == .done ? nil : "\(selected.name) has measured nothing yet"
      }
      if selected.kind == .sample { return nil }
      if selected.kind == .search || selected.kind == .library {
        return selected.state == .done
          ? reasonAgainstCosts : "\(selected.name) has found nothing yet"
      }
      return selected.isTraining
        ? nil : "only trainings, sets, searches and measurements can be opened"
    case .retry:
      let targets = targets(in: pane)
      guard let first = targets.first else { return "there is no run here" }
      if targets.contains(where: \.isRetryable) { return nil }
      return first.isAlive
        ? "\(first.name) is \(first.state.name): C cancels it first"
        : "\(first.name) is done already"
    case .note, .tag: return targets(in: pane).isEmpty ? "there is no run here" : nil
    case .remove:
      let affected = affected(by: .remove, in: pane)
      return affected.runs.isEmpty ? affected.reason : nil
    case .report:
      guard let selected, selected.isTraining else { return "only trainings can be measured" }
      return selected.checkpoint == nil
        ? "\(selected.name) has no checkpoint yet" : selected.reasonAgainstUsingFiles
    case .ranks:
      guard let selected else { return "there is no run here" }
      return selected.engine == nil
        ? "\(selected.name) is done by one process of the native engine" : nil
    case .log:
      return selected == nil ? "there is no run here" : nil
    case .raise, .lower:
      return selected?.turn == nil ? "only runs in the queue have a priority" : nil
    case .pause:
      if let selected, !selected.isQueueable { return "previews and analyses do not pause" }
      return reasonAgainstPause(selected, followed: false)
    case .cancel:
      let affected = affected(by: .cancel, in: pane)
      return affected.runs.isEmpty ? affected.reason : nil
    case .mark: return selected == nil ? "there is no run to mark" : nil
    case .compare:
      return reasonAgainstComparing(in: pane)
    default:
      return nil
    }
  }

  private func reasonInSearch(_ command: Command) -> String? {
    guard case .search(let pane) = overlay else { return nil }
    switch command {
    case .left, .right, .panLeft, .panRight, .first, .last:
      return pane.front == nil ? "the best plans are being found" : nil
    case .accept where pane.isSolving && pane.point == nil:
      return "the best plans are being found"
    case .accept, .preview:
      return proposal(of: pane) == nil ? "no plan is found for this budget" : nil
    case .nextPoint, .previousPoint:
      return points(of: pane).contains { $0.changes != nil }
        ? nil : "there is no plan beside the front"
    case .lockPlan:
      return plan.edits.isEmpty ? "the plan changes nothing yet" : nil
    case .unlock:
      return pane.constraints.kept.isEmpty && pane.constraints.required.isEmpty
        ? "no slot is locked" : nil
    case .fewerOperators:
      return pane.constraints.mostOperators == 1 ? "one operator is the fewest" : nil
    case .moreOperators:
      return pane.constraints.mostOperators == nil ? "any number is allowed already" : nil
    case .startSearch: return reasonAgainstTraining
    default: return nil
    }
  }

  private func reasonInQuestion(_ command: Command) -> String? {
    guard case .confirm(let question) = overlay else { return nil }
    let isOffered =
      switch (command, question) {
      case (.saveFirst, .unsaved), (.elsewhere, .overwrite), (.discard, .recover): true
      case (.reload, .overwrite(_, let present)): present != nil
      case (.difference, _): differences(in: question) != nil
      case (.saveFirst, _), (.elsewhere, _), (.discard, _), (.reload, _): false
      default: true
      }
    return isOffered ? nil : "this is no answer here: press one of the keys in brackets"
  }
}
