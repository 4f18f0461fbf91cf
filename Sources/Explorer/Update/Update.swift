import Plans
import Runs
import TerminalUI

/// Changes the state by one action and returns the work that follows from it.
package func update(_ state: inout AppState, _ action: Action) -> [Effect] {
  switch action {
  case .keyPressed(let key):
    let title = state.noteKey()
    return title + state.press(key) + state.previewEditAtOnce()
  case .pointed(let event):
    return state.point(event) + state.previewEditAtOnce()
  case .terminalFound(let capabilities):
    state.terminal = capabilities
    return []
  case .runsUnread(let count):
    state.runs.unread = count
    return []
  case .filesListed(let text, let paths):
    state.receiveFiles(paths, for: text)
    return []
  case .settingNotSaved(let reason):
    state.notice = .failure(reason)
    return []
  case .textPasted(let text):
    if text.filter({ state.typed($0) }).isEmpty {
      state.notice = .warning(
        "nothing here takes pasted text: it is left out; Ctrl-C ends a paste that has no end")
    }
    return []
  case .resized(let size):
    state.size = size
    return []
  case .ticked(let now):
    state.now = now
    state.expireNotice()
    let effects = state.previewEdit()
    if case .log(let page) = state.overlay { return effects + [.readLog(id: page.id)] }
    if case .text(let page) = state.overlay, let id = page.run {
      return effects + [.readSet(id: id)]
    }
    return effects
  case .interrupted:
    return state.interrupt()
  case .commanded(let command, let argument, let count):
    state.notice = nil
    return state.perform(command, argument: argument, count: count)
  case .runsScanned, .runOpened, .runOpenFailed, .runsRead, .historyRead, .trainingStarted,
    .trainingFailed, .trainingQueued, .chainQueued, .reportStarted, .reportRead, .logRead, .setRead,
    .controlFailed, .runsReadOn, .runsRemoved, .checkpointsRead, .picturesSaved:
    return state.receiveRunFact(action)
  case .analysisStarted, .analysisProgressed, .analysisRead, .analysisFailed, .previewStarted,
    .previewProgressed, .previewSampled, .previewEnded:
    return state.receiveSampleFact(action)
  case .libraryRead(let costs, let searches):
    return state.receiveLibrary(costs, searches)
  case .frontSolved(let generation, let front):
    state.receiveFront(generation, front)
    return []
  case .searchingStarted(let kind, let isQueued):
    state.notice = .note(
      (kind == .library ? "building the library" : "searching")
        + (isQueued
          ? " waits in the queue: r lists the runs" : " in the background: r lists the runs"))
    return []
  case .attentionMapsRead(let block, let heads):
    state.receiveMaps(block: block, heads.map(Picture.init))
    return []
  case .planSaved, .planExists, .planSaveFailed, .planLoaded, .planLoadFailed,
    .planChangedOnDisk, .planOfOtherModel, .modelOpened:
    return state.receivePlanFact(action)
  case .inspected(let name, let lines):
    state.receiveInspection(of: name, lines)
    return []
  }
}

extension AppState {
  /// The effects with which an explorer starts.
  package func firstEffects() -> [Effect] { [.findAnalysis(again: false), .readLibrary] }

  /// Takes a note away after a while; warnings and failures wait for a key.
  mutating func expireNotice() {
    guard notice?.kind == .note else { return }
    if let expiry = noticeExpiry {
      if now >= expiry { notice = nil }
    } else {
      noticeExpiry = now + Notice.duration
    }
  }

  /// Handles one key: counts and sequences first, then the table, then text.
  mutating func press(_ key: Key) -> [Effect] {
    notice = nil
    if Layout.missingSize(size) != nil { return pressWhileTooSmall(key) }
    let context = keyContext
    if context == .grid || shownList != nil, takeCount(key) { return [] }
    if context == .prompt || context == .form, case .character(let character) = key {
      if typed(character) { return [] }
    }
    let keys = pending.keys + [key]
    switch KeyBinding.match(keys, in: context, of: configuration.keys.bindings) {
    case .prefix:
      pending.keys = keys
      return []
    case .command(let command):
      let typed = pending
      pending = PendingInput()
      // Taking back a count is all that Esc does then.
      if command == .escape && typed != pending { return [] }
      return perform(command, argument: nil, count: typed.count)
    case .none:
      let text = keys.map(\.label).joined()
      pending = PendingInput()
      answerUnknown(text)
      return []
    }
  }

  /// Says that a key has no meaning where it was pressed.
  private mutating func answerUnknown(_ text: String) {
    switch overlay {
    case .confirm: notice = .note("press one of the keys in brackets")
    case .prompt(var prompt):
      prompt.problem = "\(text) is not a key here; F1 shows the keys"
      replaceTop(.prompt(prompt))
    default: notice = .note("\(text) is not a key here; ? shows the keys")
    }
  }

  private mutating func takeCount(_ key: Key) -> Bool {
    guard pending.keys.isEmpty, case .character(let character) = key,
      let digit = character.isASCII ? character.wholeNumberValue : nil,
      digit > 0 || pending.count != nil
    else { return false }
    pending.count = min((pending.count ?? 0) * 10 + digit, 9999)
    return true
  }

  /// Nothing can be seen but the progress, so nothing acts but leaving and pausing.
  private mutating func pressWhileTooSmall(_ key: Key) -> [Effect] {
    pending = PendingInput()
    let isAsking = if case .confirm = overlay { true } else { false }
    guard
      case .command(let command) = KeyBinding.match(
        [key], in: isAsking ? .question : .grid, of: configuration.keys.bindings),
      isAsking || command == .quit || command == .pause
    else { return [] }
    return isAsking || overlay == nil
      ? perform(command, argument: nil, count: nil)
      : performOnGrid(command, argument: nil, count: nil)
  }

  /// Ctrl-C steps out of whatever is open, asks to leave, and leaves when asked twice.
  mutating func interrupt() -> [Effect] {
    notice = nil
    switch overlay {
    case .confirm(.unsaved(.quit)):
      isFinished = true
      return []
    case nil:
      return perform(.quit, argument: nil, count: nil)
    case .confirm: return performInQuestion(.no)
    case .prompt(let prompt): return leave(prompt)
    case .runs(let pane): kept = pane
    default: break
    }
    overlays.removeLast()
    return []
  }

  /// Does a command, or says why it cannot be done.
  mutating func perform(_ command: Command, argument: String?, count: Int?) -> [Effect] {
    if let reason = reasonAgainst(command) {
      notice = .warning(reason)
      return []
    }
    switch command {
    case .help where keyContext != .help:
      overlays.append(
        .help(HelpPage(at: keyContext, size: size, table: configuration.keys.bindings)))
      return []
    case .redraw: return [.redraw, .probe]
    case .suspend: return [.suspend]
    case .copy: return copyShown()
    default: break
    }
    if performInList(command, count: count) { return [] }
    switch keyContext {
    case .images where command == .escape:
      overlays.removeLast()
      return []
    case .grid, .images: return performOnGrid(command, argument: argument, count: count)
    case .picker: return performInPicker(command)
    case .form: return performInForm(command)
    case .prompt: return performInPrompt(command)
    case .question: return performInQuestion(command)
    case .runs: return performInRuns(command)
    case .compare: return performInComparison(command)
    case .log, .help, .text, .terminal:
      overlays.removeLast()
      return []
    case .plot: return performInPlot(command, count: count)
    case .overlayList: return performInOverlayList(command)
    case .evidence: return performInEvidence(command, count: count)
    case .search: return performInSearch(command)
    case .settings: return performInSettings(command)
    case .anywhere: return []
    }
  }

  private mutating func performOnGrid(
    _ command: Command, argument: String?, count: Int?
  ) -> [Effect] {
    let times = count ?? 1
    switch command {
    case .left, .right, .up, .down, .first, .last, .pageUp, .pageDown, .nextEdited,
      .previousEdited:
      move(command, argument: argument, count: count)
      return []
    case .range, .mark, .markPattern, .escape:
      return select(command, argument: argument, count: count)
    case .pick, .configure, .apply, .again, .clear, .join, .undo, .redo:
      return edit(command, argument: argument, count: count)
    case .distil, .finetune, .chain, .report, .pause, .cancel, .series, .scale, .runs,
      .plot:
      return distil(command, argument: argument)
    case .evidence: return openEvidence()
    case .bestPlans: return openSearch()
    case .buildLibrary:
      overlays.append(.form(.library(of: self)))
      return []
    case .costMap:
      toggleCostMap()
      return costMap == nil ? [] : [.readLibrary]
    case .nextOperator, .previousOperator:
      turnCostMap(by: command == .nextOperator ? times : -times)
      return []
    case .imageClass:
      chooseClass(argument)
      return []
    case .preview, .followEdits, .previewSettings, .images, .analyze, .nextClass, .previousClass,
      .nextSeed,
      .previousSeed,
      .moreSteps, .fewerSteps, .moreGuidance, .lessGuidance, .flip, .arrangement, .laterFrame,
      .earlierFrame, .laterCheckpoint, .earlierCheckpoint, .gridSize, .frames, .renewal, .secondRun,
      .savePicture:
      return sample(command, argument: argument, count: count)
    case .save, .saveAs, .open, .new, .set, .openModel, .budget:
      return keepPlan(command, argument: argument)
    case .history:
      overlays.append(.text(historyPage))
      return []
    case .costTable:
      overlays.append(.text(costTable))
      return []
    case .inspect:
      return inspect(argument ?? subject.model)
    case .command:
      overlays.append(.prompt(Prompt(purpose: .command)))
      return []
    case .settings:
      overlays.append(.settings(index: 0))
      return []
    case .terminal:
      overlays.append(.terminal(scroll: 0))
      return []
    case .nextPane:
      let index = Pane.allCases.firstIndex(of: pane) ?? 0
      pane = Pane.allCases[(index + 1) % Pane.allCases.count]
      return []
    case .resetPanes:
      panes = PaneSizes()
      return []
    case .quit: return leave()
    case .otherSlot, .nextPoint, .previousPoint, .lock, .lockPlan, .unlock, .fewerOperators,
      .moreOperators, .measure, .startSearch:
      return []
    case .accept, .yes, .no, .next, .previous, .retry, .log, .ranks, .raise, .lower, .saveFirst,
      .erase,
      .delete, .eraseLine, .cursorLeft, .cursorRight, .complete, .earlierText,
      .laterText, .compare, .more, .reload,
      .help, .redraw, .suspend, .difference, .elsewhere, .discard, .remove, .note, .tag, .reverse,
      .markAll, .nextColumn,
      .previousColumn, .search, .nextMatch, .previousMatch, .halfPageDown, .halfPageUp,
      .nextQuantity, .previousQuantity, .plotContent, .zoomIn, .zoomOut, .panLeft,
      .panRight, .wholeRun, .scaleX, .moreSmoothing, .lessSmoothing, .symbols, .overlayRuns,
      .evidencePage, .nextHead, .previousHead, .windowShare, .copy:
      return []
    }
  }

  /// Shows what a file of tensors holds.
  private mutating func inspect(_ name: String) -> [Effect] {
    var page = TextPage(title: "inside \(name)", lines: ["reading …"])
    page.file = name
    overlays.append(.text(page))
    return [.inspect(name)]
  }

  /// Puts what was read of a file on the page that waits for it.
  mutating func receiveInspection(of name: String, _ lines: [String]) {
    for index in overlays.indices {
      guard case .text(var page) = overlays[index], page.file == name else { continue }
      page.lines = lines
      overlays[index] = .text(page)
    }
  }

  /// Leaves at once when nothing would be lost, else asks; what runs goes on.
  private mutating func leave() -> [Effect] {
    if document.isModified {
      overlays.append(.confirm(.unsaved(.quit)))
    } else {
      isFinished = true
    }
    return []
  }
}
