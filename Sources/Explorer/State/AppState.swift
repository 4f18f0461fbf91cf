import Plans
import Runs
import TerminalUI

/// The state of the explorer; views read it, only `update` changes it.
package struct AppState: Equatable, Sendable {
  /// The terminal's size in cells.
  package var size: Size
  /// What the terminal can do.
  package var terminal = TerminalCapabilities()
  /// Settings and keys.
  package var configuration = Configuration()
  /// The command lines that were typed.
  package var history = CommandHistory()
  /// The prompts of previews that were typed.
  package var prompts = CommandHistory()
  /// What a screen shows that has no room for everything.
  package var pane = Pane.grid
  /// What the plan may take; nil for no budget.
  package var budget: Budget?
  /// Where the mouse took hold of the grid.
  package var dragStart: SlotID?
  /// The sizes of panes that were chosen.
  package var panes = PaneSizes()
  /// The border between panes that the mouse holds.
  var heldBorder: Layout.Border?
  /// The model being grafted.
  package let model: ModelReference
  /// Names of the model's classes in label order; empty when it has none.
  package let classNames: [String]
  /// The model as the command line names it.
  package let subject: Opening
  /// The plan, its file and its history.
  package var document: PlanDocument { didSet { refreshWeights() } }
  /// The selected slot.
  package var cursor = SlotID(block: 0, slot: .attention)
  /// Where a visual range started, or nil outside visual mode.
  package var anchor: SlotID?
  /// Slots marked one by one.
  package var marks: Set<SlotID> = []
  /// A count or the first key of a sequence, typed but not used yet.
  package var pending = PendingInput()
  /// The operator applied last for each kind of slot, which "repeat" applies again.
  package var lastOperators: [Slot: OperatorSpec] = [:]
  /// The merge chosen last for parallel blocks.
  package var lastMerge = ParallelMerge.projection
  /// Screens and prompts on top of the grid; the last one has the keyboard.
  package var overlays: [Overlay] = []
  /// Statistics of the teacher.
  package var analysis = AnalysisState.unknown
  /// The statistics to return to if recomputing them fails.
  package var knownAnalysis: ModelAnalysis?
  /// The share of the attention that suggested windows hold.
  package var windowShare = ModelAnalysis.windowShare
  /// The jobs in the run root.
  package var runs = RunsState() { didSet { refreshWeights() } }
  /// The list of runs as it was left: its filter and order come back with it.
  var kept = RunsPane()
  /// The text that was looked for last in a list or page.
  var searched = ""
  /// When a key was pressed last, and whether the window's title tells of an end since then.
  var (lastKey, hasTitle) = (0.0, false)
  /// The weights that runs hold for the plan.
  package private(set) var weights = PlanWeights()
  /// The runs that `weights` was made from.
  private var weighedRuns: [RunSummary] = []
  /// The mixture of weights that was agreed to last, the run of each site by name.
  package var acceptedMixture: [GraftSite: String]?
  /// What the library of the model's operators and finished searches say.
  package var library = LibraryState() { didSet { refreshWeights(anew: true) } }
  /// The heat map of the grid; nil while it is not shown.
  package var costMap: CostMap?
  /// The images before and after grafting.
  package var preview = PreviewState()
  /// How losses are drawn.
  package var chart = ChartSettings()
  /// The places of plotted runs among the colours and marks, by identifier.
  package var runColors: [String: Int] = [:]
  /// One sentence shown in the bottom row until the next key, or for a while if it is a mere note.
  package var notice: Notice? {
    didSet { if notice != oldValue { noticeExpiry = nil } }
  }
  /// When a note gives the bottom row back to the hints; set by the clock's next tick.
  package var noticeExpiry: Double?
  /// Path of the plan's file if another program has changed it since it was read or written.
  var changedOnDisk: String?
  /// What waits for a save to succeed.
  package var afterSave: PlanStep?
  /// A plan that is being read, with the document that it will take the place of.
  package var awaited: AwaitedPlan?
  /// What the explorer should show after it has left, instead of ending.
  package var next: Opening?
  /// The clock, in seconds since 1970.
  package var now: Double
  /// The pretrained model that the shown graft was made of, where it is not there; the graft can then be
  /// looked at, but not edited or trained.
  package var missingTeacher: String?
  /// Names of the user's engines besides the native one.
  package var engines: [String] = []
  /// Whether the explorer should leave.
  package var isFinished = false
  /// Whether unsaved edits are given up on leaving, because somebody said so.
  package var forgetsUnsaved = false

  /// Starts with a document on a model; `subject` says how the model was named.
  package init(
    model: ModelReference, subject: Opening? = nil, classNames: [String], document: PlanDocument,
    size: Size, now: Double
  ) {
    self.model = model
    self.subject = subject ?? Opening(model: model.path)
    self.classNames = classNames
    self.document = document
    self.size = size
    self.now = now
    lastKey = now
    weights = PlanWeights(of: document.plan, runs: [])
    (preview.settings.steps, preview.settings.guidance) = model.shape.family.samplerDefaults
  }

  /// Brings `weights` up to date with the plan and the runs.
  private mutating func refreshWeights(anew: Bool = false) {
    guard anew || weights.changes != plan.changes || weighedRuns != runs.records else { return }
    weights = weights(of: plan, runs: runs.records)
    weighedRuns = runs.records
  }

  /// The plan as it is now.
  package var plan: GraftPlan { document.plan }
  /// The colours of the screen.
  package var palette: ThemePalette {
    ThemePalette.chosen(configuration.settings.theme, in: terminal)
  }
  /// The places of all panes.
  package var layout: Layout { Layout(size: size, depth: depth, panes: panes) }
  /// Number of blocks.
  package var depth: Int { model.shape.depth }
  /// The prompt or screen that has the keyboard, or nil when the grid has it.
  package var overlay: Overlay? { overlays.last }
}

/// One of the panes that a small screen shows one at a time.
package enum Pane: String, CaseIterable, Equatable, Sendable {
  case grid, slot, losses, images, runs
}

/// Keys typed that do not make a command yet.
package struct PendingInput: Equatable, Sendable {
  /// The number typed before a command.
  package var count: Int?
  /// The first keys of a longer sequence such as `g g`.
  package var keys: [Key] = []

  /// Nothing typed.
  package init() {}
}

/// One sentence for the bottom row.
package struct Notice: Equatable, Sendable {
  /// How much attention a notice asks for.
  package enum Kind: Equatable, Sendable { case note, warning, failure }
  /// How much attention it asks for.
  package let kind: Kind
  /// The sentence.
  package let text: String

  /// Seconds for which a note is shown.
  static let duration = 6.0

  /// Something worth knowing.
  package static func note(_ text: String) -> Notice { Notice(kind: .note, text: text) }
  /// Something that did not happen, with the reason.
  package static func warning(_ text: String) -> Notice { Notice(kind: .warning, text: text) }
  /// Something that went wrong.
  package static func failure(_ text: String) -> Notice { Notice(kind: .failure, text: text) }
}

/// A step that replaces the plan or leaves, and therefore asks about unsaved changes first.
package enum PlanStep: Equatable, Sendable {
  /// Leave the explorer.
  case quit
  /// Start an empty plan.
  case new
  /// Load a plan file.
  case load(path: String)
  /// Load a run's plan and follow the run.
  case openRun(id: String)
  /// Show another model, with a plan or run of it.
  case show(Opening)
}

/// A plan that is being read from a file or run.
package struct AwaitedPlan: Equatable, Sendable {
  /// The step that needs it.
  package let step: PlanStep
  /// The document when it was asked for.
  package let document: PlanDocument
}

/// What is known of the teacher's activations.
package enum AnalysisState: Equatable, Sendable {
  /// Not asked for yet.
  case unknown
  /// A job computes it; `total` is 0 until the job says how much there is.
  case computing(runID: String?, done: Int, total: Int)
  /// Known.
  case ready(ModelAnalysis)
  /// It could not be computed; the sentence says why.
  case failed(String)
}

/// How plots are drawn.
package struct ChartSettings: Equatable, Sendable {
  /// Which curves are drawn.
  package enum Series: String, CaseIterable, Equatable, Sendable {
    /// Train and held-out loss of the selected slot.
    case slot
    /// The mean over all slots, train and held-out.
    case mean
    /// One train curve per slot.
    case all
  }

  /// Which curves are drawn.
  package var series = Series.mean
  /// Whether the loss axis is logarithmic.
  package var isLogarithmic = true
  /// Whether the axis of steps is logarithmic.
  package var isLogX = false
  /// The weight of the moving average; 0 is none.
  package var smoothing = 0.0
  /// The characters of curves.
  package var symbols = PlotSymbols.braille
}
