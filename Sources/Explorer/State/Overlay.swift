import Plans
import Runs
import Text

/// A screen or prompt on top of the grid.
package enum Overlay: Equatable, Sendable {
  /// The list of operators that fit a slot.
  case picker(Picker)
  /// A form of numbers.
  case form(Form)
  /// One line of text in the bottom row.
  case prompt(Prompt)
  /// A question.
  case confirm(Question)
  /// The list of runs.
  case runs(RunsPane)
  /// Runs beside each other.
  case compare(ComparePane)
  /// The log of a run.
  case log(LogPage)
  /// The processes of a run.
  case ranks(RanksPage)
  /// The preview over the whole screen.
  case images
  /// Runs plotted over the whole screen.
  case plot(PlotPane)
  /// The best plans for all budgets.
  case search(SearchPane)
  /// The list of runs beside the plotted one.
  case overlayList(OverlayList)
  /// What is known of the teacher in one block.
  case evidence(EvidencePane)
  /// The table of keys.
  case help(HelpPage)
  /// Text, such as the differences of two plans.
  case text(TextPage)
  /// The settings of the explorer; the number is that of the highlighted row.
  case settings(index: Int)
  /// What was found of the terminal; the number is the first line shown.
  case terminal(scroll: Int)
}

/// The list of operators that fit one kind of slot.
package struct Picker: Equatable, Sendable {
  /// One line of the list.
  package enum Entry: Equatable, Sendable {
    /// The teacher's own operator and weights.
    case original
    /// A replacement, with the configuration it would get.
    case replacement(OperatorSpec)
  }

  /// The kind of slot.
  package let slot: Slot
  /// The slots that will get the operator.
  package let targets: [SlotID]
  /// Selected slots of the other kind, which are left alone.
  package let skipped: Int
  /// The choices.
  package let entries: [Entry]
  /// The highlighted choice.
  package var index: Int

  /// The highlighted choice.
  package var entry: Entry { entries[index] }
}

/// One line of text asked for in the bottom row.
package struct Prompt: Equatable, Sendable {
  /// What the text is for.
  package enum Purpose: Equatable, Sendable {
    /// Blocks that get the selected slot's operator.
    case apply(source: SlotID)
    /// Blocks to mark in the selected column.
    case mark(slot: Slot)
    /// Where to save the plan.
    case saveAs
    /// Where to save the pictures on the screen.
    case savePicture
    /// Which plan to load.
    case open
    /// The note of runs.
    case note(ids: [String])
    /// Tags to add to runs and to remove from them.
    case tag(ids: [String])
    /// What the listed runs match; `before` comes back when it is given up.
    case filter(before: RunFilter)
    /// A text to look for in a list or page.
    case search
    /// The budget.
    case budget
    /// A setting of the plan, as `plan set` has it.
    case set
    /// A command by name.
    case command
  }

  /// What the text is for.
  package let purpose: Purpose
  /// What is typed.
  package var field = TextField()
  /// Why the text cannot be accepted, after a try.
  package var problem: String?
  /// The line of the history that is shown, and what was typed before.
  package var recalled: Recalled?

  /// A line of the history in the place of what was typed.
  package struct Recalled: Equatable, Sendable {
    let place: Int
    let typed: String
  }
}

/// A question with a few answers.
package enum Question: Equatable, Sendable {
  /// Leave, or replace the plan, although it has unsaved changes.
  case unsaved(PlanStep)
  /// Show what was shown last.
  case lastSession(Opening)
  /// Take up unsaved edits of an explorer that was killed; `file` keeps them.
  case recover(UnsavedPlan, file: String)
  /// Delete unsaved edits of an explorer that was killed.
  case forget(UnsavedPlan, file: String)
  /// Start with weights of several runs, or of runs and fresh ones.
  case mixture(PlanWeights)
  /// Stop a run for good.
  case cancelRun(id: String)
  /// Do something to several runs.
  case many(RunBulk, ids: [String])
  /// Write over a file; `present` is the plan that it holds, if it holds one.
  case overwrite(path: String, present: GraftPlan? = nil)
}

/// The end of a run's log, read again every second.
package struct LogPage: Equatable, Sendable {
  /// The run.
  package let id: String
  /// Its last lines; nil until they are read.
  package var lines: [String]?
  /// Rows of text below the last one shown; with 0 the page follows the end of the log.
  package var below = 0

  /// Shows a run's log.
  package init(id: String, lines: [String]? = nil, below: Int = 0) {
    (self.id, self.lines, self.below) = (id, lines, below)
  }

  /// Takes in what was read again; what is shown stays where it is unless it was the end.
  mutating func receive(_ read: [String], width: Int) {
    if below > 0, let last = lines?.last, let index = read.lastIndex(of: last) {
      below += Self.rows(read[(index + 1)...], width).count
    }
    lines = read
  }

  /// Lines as rows of a width; one that fits keeps its spaces, and so the columns of a table.
  static func rows(_ lines: some Sequence<String>, _ width: Int) -> [String] {
    lines.flatMap { TextWidth.columns(of: $0) <= width ? [$0] : TextWidth.wrap($0, width) }
  }
}

/// The table of keys.
package struct HelpPage: Equatable, Sendable {
  /// The first line shown.
  package var scroll = 0
}
