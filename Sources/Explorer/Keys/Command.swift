/// Every command of the explorer; the raw value is its name after `:`.
package enum Command: String, CaseIterable, Sendable {
  // Moving.
  case left, right, up, down, first, last
  case pageUp = "page-up"
  case pageDown = "page-down"
  case nextEdited = "next-edited"
  case previousEdited = "previous-edited"
  // Selecting.
  case range, mark
  case markPattern = "mark-pattern"
  // Editing.
  case pick, configure, apply, clear, join, undo, redo
  case again = "repeat"
  // Training.
  case distil, finetune, chain, report, pause, cancel, series, scale, runs, plot
  // Looking.
  case preview, images, analyze, evidence
  case bestPlans = "best-plans"
  case buildLibrary = "library"
  case costMap = "costs"
  case nextOperator = "next-operator"
  case previousOperator = "previous-operator"
  case followEdits = "follow-edits"
  case previewSettings = "preview-settings"
  case imageClass = "class"
  case nextClass = "next-class"
  case previousClass = "previous-class"
  case nextSeed = "next-seed"
  case previousSeed = "previous-seed"
  case moreSteps = "more-steps"
  case fewerSteps = "fewer-steps"
  case moreGuidance = "more-guidance"
  case lessGuidance = "less-guidance"
  case gridSize = "grid-size"
  case frames, renewal
  // Plans and the program.
  case save
  case saveAs = "save-as"
  case open, new, set, history, command, help, redraw, suspend, quit
  case openModel = "model"
  case inspect
  case costTable = "cost-table"
  case budget
  // The terminal.
  case settings, terminal
  case nextPane = "next-pane"
  case resetPanes = "reset-panes"
  case escape
  // Inside lists, forms, prompts and questions.
  case accept, yes, no, next, previous
  case retry, log, ranks, raise, lower, remove, note, tag, reverse
  case markAll = "mark-all"
  case nextColumn = "next-column"
  case previousColumn = "previous-column"
  case halfPageDown = "half-page-down"
  case halfPageUp = "half-page-up"
  case more, reload, difference, elsewhere, discard
  case saveFirst = "save-first"
  case erase, delete
  case eraseLine = "erase-line"
  case cursorLeft = "cursor-left"
  case cursorRight = "cursor-right"
  case earlierText = "earlier-text"
  case laterText = "later-text"
  case complete, compare, search, copy
  case nextMatch = "next-match"
  case previousMatch = "previous-match"
  // In the plot.
  case nextQuantity = "next-quantity"
  case previousQuantity = "previous-quantity"
  case plotContent = "plot-content"
  case zoomIn = "zoom-in"
  case zoomOut = "zoom-out"
  case panLeft = "pan-left"
  case panRight = "pan-right"
  case wholeRun = "whole-run"
  case scaleX = "scale-x"
  case moreSmoothing = "more-smoothing"
  case lessSmoothing = "less-smoothing"
  case symbols
  case overlayRuns = "overlay-runs"
  // In the search for the best plans.
  case nextPoint = "next-point"
  case previousPoint = "previous-point"
  case otherSlot = "other-slot"
  case lock, unlock, measure
  case lockPlan = "lock-plan"
  case fewerOperators = "fewer-operators"
  case moreOperators = "more-operators"
  case startSearch = "start-search"
  // In the large images.
  case flip, arrangement
  case laterFrame = "later-frame"
  case earlierFrame = "earlier-frame"
  case laterCheckpoint = "later-checkpoint"
  case earlierCheckpoint = "earlier-checkpoint"
  case secondRun = "second-run"
  case savePicture = "save-picture"
  // In the evidence.
  case evidencePage = "evidence-page"
  case nextHead = "next-head"
  case previousHead = "previous-head"
  case windowShare = "window-share"

  /// Whether the command line accepts it; the rest only makes sense inside a list, form or question.
  package var hasName: Bool {
    switch self {
    case .accept, .yes, .no, .next, .previous, .retry, .log, .ranks, .raise, .lower, .saveFirst,
      .erase,
      .delete, .eraseLine, .cursorLeft, .cursorRight, .complete, .compare, .command, .escape,
      .nextQuantity, .previousQuantity, .plotContent, .zoomIn, .zoomOut, .panLeft, .panRight,
      .wholeRun, .scaleX, .moreSmoothing, .lessSmoothing, .symbols, .overlayRuns, .evidencePage,
      .nextHead, .previousHead, .windowShare, .flip, .arrangement, .laterFrame, .earlierFrame,
      .laterCheckpoint, .earlierCheckpoint, .secondRun, .savePicture, .gridSize, .frames, .renewal,
      .more, .reload, .difference, .elsewhere, .discard, .remove, .note, .tag, .reverse, .markAll,
      .nextColumn, .previousColumn, .earlierText, .laterText, .search, .nextPoint, .previousPoint,
      .otherSlot, .lock, .unlock, .measure, .lockPlan, .fewerOperators, .moreOperators,
      .startSearch,
      .nextMatch, .previousMatch, .halfPageDown, .halfPageUp, .copy:
      false
    default: true
    }
  }

  /// What may follow the name on the command line, for the help page; nil when nothing may.
  package var argument: String? {
    switch self {
    case .apply, .markPattern: "BLOCKS"
    case .save, .saveAs, .open: "PATH"
    case .openModel, .inspect: "MODEL"
    case .set: "KEY=VALUE …"
    case .budget: "MEASURE PERCENT"
    case .pick: "OPERATOR [KEY=VALUE …]"
    case .first, .last: "BLOCK"
    case .nextClass, .previousClass, .nextSeed, .previousSeed: "N"
    case .series: "slot|mean|all"
    case .plot: "QUANTITY"
    case .imageClass: "NAME"
    case .runs: "RUN"
    case .join: "MERGE"
    default: nil
    }
  }

  /// Why an argument cannot be used, in one sentence; nil when it may.
  func problem(with argument: String) -> String? {
    switch self.argument {
    case "N":
      Int(argument).map((1...9999).contains) == true
        ? nil : "\(rawValue) takes a number from 1 to 9999"
    case "BLOCK":
      Int(argument).map { $0 >= 0 } == true ? nil : "\(rawValue) takes the number of a block"
    case nil: "\(rawValue) takes no argument"
    default: nil
    }
  }
}

/// What has the keyboard.
package enum KeyContext: String, CaseIterable, Sendable {
  /// The grid of blocks.
  case grid
  /// The list of operators.
  case picker
  /// A form of numbers.
  case form
  /// A line of text in the bottom row.
  case prompt
  /// A question.
  case question
  /// The list of runs.
  case runs
  /// Runs beside each other.
  case compare
  /// The log of a run.
  case log
  /// The preview over the whole screen.
  case images
  /// Runs plotted over the whole screen.
  case plot
  /// The list of runs beside the plotted one.
  case overlayList
  /// What is known of the teacher in one block.
  case evidence
  /// The best plans for all budgets.
  case search
  /// The table of keys.
  case help
  /// A page of text.
  case text
  /// The settings of the explorer.
  case settings
  /// What was found of the terminal.
  case terminal
  /// Everywhere, unless the place has another meaning for the key.
  case anywhere

  /// The heading on the help page.
  package var title: String {
    switch self {
    case .grid: "Grid"
    case .picker: "Operator list"
    case .form: "Form"
    case .prompt: "Text line"
    case .question: "Question"
    case .runs: "Runs"
    case .compare: "Comparison"
    case .log: "Log of a run"
    case .images: "Large images"
    case .plot: "Plot"
    case .overlayList: "Runs beside the plotted one"
    case .evidence: "The teacher's attention and activations"
    case .search: "The best plans"
    case .help: "Help"
    case .text: "Text page"
    case .settings: "Settings"
    case .terminal: "Terminal"
    case .anywhere: "Everywhere"
    }
  }
}

extension AppState {
  /// What has the keyboard.
  package var keyContext: KeyContext {
    switch overlay {
    case nil: .grid
    case .picker: .picker
    case .form: .form
    case .prompt: .prompt
    case .confirm: .question
    case .runs: .runs
    case .compare: .compare
    case .log: .log
    case .images: .images
    case .plot: .plot
    case .overlayList: .overlayList
    case .evidence: .evidence
    case .search: .search
    case .help: .help
    case .text, .ranks: .text
    case .settings: .settings
    case .terminal: .terminal
    }
  }
}
