import Plans
import Runs
import TerminalUI

/// Changes the state by one action and returns the work that follows from it.
package func update(_ state: inout AppState, _ action: Action) -> [Effect] {
  switch action {
  case .keyPressed(let key):
    return state.press(key)
  case .pointed(let event):
    return state.point(event)
  case .terminalFound(let capabilities):
    state.terminal = capabilities
    return []
  case .textPasted(let text):
    return text.flatMap { state.typed($0) ? [] : [Effect]() }
  case .resized(let size):
    state.size = size
    return []
  case .ticked(let now):
    state.now = now
    state.expireNotice()
    if case .log(let page) = state.overlay { return [.readLog(id: page.id)] }
    return []
  case .interrupted:
    return state.interrupt()
  case .commanded(let command, let argument, let count):
    state.notice = nil
    return state.perform(command, argument: argument, count: count)
  case .runsScanned, .runOpened, .runOpenFailed, .runsRead, .historyRead, .trainingStarted,
    .trainingFailed, .trainingQueued, .chainQueued, .reportStarted, .reportRead, .logRead,
    .controlFailed, .runsReadOn, .runsRemoved:
    return state.receiveRunFact(action)
  case .analysisStarted, .analysisProgressed, .analysisRead, .analysisFailed, .previewStarted,
    .previewProgressed, .previewSampled, .previewEnded:
    return state.receiveSampleFact(action)
  case .planSaved, .planExists, .planSaveFailed, .planLoaded, .planLoadFailed,
    .planChangedOnDisk:
    return state.receivePlanFact(action)
  }
}

extension AppState {
  /// The effects with which an explorer starts.
  package func firstEffects() -> [Effect] { [.findAnalysis(again: false)] }

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
    if let needed = Layout.missingSize(size) { return pressWhileTooSmall(key, needed: needed) }
    let context = keyContext
    if context == .grid || shownList != nil, takeCount(key) { return [] }
    if context == .prompt || context == .form, case .character(let character) = key {
      if typed(character) { return [] }
    }
    let keys = pending.keys + [key]
    switch KeyBinding.match(keys, in: context) {
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
      if context == .grid { notice = .note("\(text) is not a key here; ? shows the keys") }
      if context == .question { notice = .note("press one of the keys in brackets") }
      return []
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

  /// Nothing can be seen, so nothing acts but leaving.
  private mutating func pressWhileTooSmall(_ key: Key, needed: Size) -> [Effect] {
    pending = PendingInput()
    if case .confirm = overlay {
      guard case .command(let command) = KeyBinding.match([key], in: .question) else { return [] }
      return perform(command, argument: nil, count: nil)
    }
    guard KeyBinding.match([key], in: .grid) == .command(.quit) else { return [] }
    return perform(.quit, argument: nil, count: nil)
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
    default:
      overlays.removeLast()
      afterSave = nil
      return []
    }
  }

  /// Does a command, or says why it cannot be done.
  mutating func perform(_ command: Command, argument: String?, count: Int?) -> [Effect] {
    if let reason = reasonAgainst(command) {
      notice = .warning(reason)
      return []
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
    case .log, .help, .text:
      overlays.removeLast()
      return []
    }
  }

  private mutating func performOnGrid(
    _ command: Command, argument: String?, count: Int?
  ) -> [Effect] {
    switch command {
    case .left, .right, .up, .down, .first, .last, .pageUp, .pageDown, .nextEdited,
      .previousEdited:
      move(command, argument: argument, count: count)
      return []
    case .range, .mark, .markPattern, .escape:
      return select(command, argument: argument, count: count)
    case .pick, .configure, .apply, .again, .clear, .join, .undo, .redo:
      return edit(command, argument: argument, count: count)
    case .distil, .finetune, .chain, .report, .pause, .cancel, .series, .scale, .runs:
      return distil(command, argument: argument)
    case .preview, .previewSettings, .images, .analyze, .nextClass, .previousClass, .nextSeed,
      .previousSeed,
      .moreSteps, .fewerSteps, .moreGuidance, .lessGuidance:
      return sample(command, argument: argument, count: count)
    case .save, .saveAs, .open, .new, .set:
      return keepPlan(command, argument: argument)
    case .command:
      overlays.append(.prompt(Prompt(purpose: .command)))
      return []
    case .help:
      overlays.append(.help(HelpPage()))
      return []
    case .redraw: return [.redraw, .probe]
    case .suspend: return [.suspend]
    case .quit: return leave()
    case .accept, .yes, .no, .next, .previous, .retry, .log, .raise, .lower, .saveFirst, .erase,
      .delete, .eraseLine, .cursorLeft, .cursorRight, .complete, .compare, .more, .reload,
      .difference, .elsewhere, .discard, .remove, .note, .tag, .reverse, .markAll, .nextColumn,
      .previousColumn, .search, .nextMatch, .previousMatch, .halfPageDown, .halfPageUp:
      return []
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
