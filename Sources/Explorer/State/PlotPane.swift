import Plans
import Runs
import TerminalUI

/// The numbers that a plot shows over the steps of a run.
package enum PlotQuantity: String, CaseIterable, Equatable, Sendable {
  /// The training loss: of the whole model, or the mean over the sites.
  case loss
  /// The held-out loss: of the whole model, or the mean over the sites.
  case heldOut = "held-out"
  /// The training loss of the selected slot.
  case slot
  /// The held-out loss of the selected slot.
  case slotHeldOut = "slot-held-out"
  /// The learning rate.
  case learningRate = "learning-rate"
  /// The gradient's norm before clipping.
  case gradientNorm = "gradient-norm"
  /// Training samples per second.
  case speed
  /// The worker's resident memory.
  case memory

  /// The names as a list, for help and refusals.
  static let names = allCases.map(\.rawValue).joined(separator: ", ")

  /// The heading of a plot, of a slot where it has one.
  func title(_ site: GraftSite) -> String {
    switch self {
    case .loss: "training loss"
    case .heldOut: "held-out loss"
    case .slot: "training loss of \(site)"
    case .slotHeldOut: "held-out loss of \(site)"
    case .learningRate: "learning rate"
    case .gradientNorm: "gradient norm"
    case .speed: "samples per second"
    case .memory: "resident memory, MiB"
    }
  }

  /// The quantity of single slots with the same kind of loss.
  var ofSlot: PlotQuantity { self == .heldOut || self == .slotHeldOut ? .slotHeldOut : .slot }

  /// The other loss of the same subject, which is drawn beside it when one run is shown.
  var partner: PlotQuantity? {
    switch self {
    case .loss: .heldOut
    case .slot: .slotHeldOut
    default: nil
    }
  }

  /// The values of a run.
  func series(_ history: RunHistory, _ site: GraftSite) -> StepSeries {
    switch self {
    case .loss: history.meanLoss
    case .heldOut: history.meanHeldOut
    case .slot: history.losses[site] ?? StepSeries()
    case .slotHeldOut: history.heldOut[site] ?? StepSeries()
    case .learningRate: history.measures[.learningRate] ?? StepSeries()
    case .gradientNorm: history.measures[.gradientNorm] ?? StepSeries()
    case .speed: history.measures[.samplesPerSecond] ?? StepSeries()
    case .memory: history.measures[.residentMemory] ?? StepSeries()
    }
  }

  /// The number on the axis for one of the values.
  func shown(_ value: Double) -> Double { self == .memory ? value / 1_048_576 : value }
}

/// Runs plotted over the whole screen.
package struct PlotPane: Equatable, Sendable {
  /// What is drawn.
  package enum Content: String, CaseIterable, Equatable, Sendable {
    /// One chart.
    case curves
    /// A chart for each slot.
    case slots
    /// Slots by steps, losses as colours.
    case map
  }

  /// What is drawn.
  package var content = Content.curves
  /// Which numbers.
  package var quantity = PlotQuantity.loss
  /// Which steps.
  package var window = PlotWindow()
  /// The step whose values are read off; nil for none.
  package var crosshair: Double?
  /// Runs beside the followed one.
  package var others: [FocusedRun] = []
  /// Where the mouse took hold of the plot, in columns of the screen.
  package var hold: Int?

  /// A plot of the followed run.
  package init() {}
}

/// The list of trainings in which those are chosen that a plot shows beside the followed one.
package struct OverlayList: Equatable, Sendable {
  /// The highlighted run.
  package var selection: String?
}

extension AppState {
  /// The plot that is open.
  var plotPane: PlotPane? {
    overlays.lazy.compactMap { if case .plot(let pane) = $0 { pane } else { nil } }.first
  }

  /// The runs that a plot shows: the followed one, then the others.
  func runs(in pane: PlotPane) -> [FocusedRun] {
    (runs.focus.map { [$0] } ?? []) + pane.others.filter { $0.id != runs.focus?.id }
  }

  /// The slots and pairs of which a plot has losses, in order.
  func sites(in pane: PlotPane) -> [GraftSite] {
    Set(runs(in: pane).flatMap { Array($0.history.losses.keys) }).sorted()
  }

  /// The site that a plot of single slots shows: the cursor's, as the runs have it, or the next that they have.
  func site(in pane: PlotPane) -> GraftSite {
    let (cursor, sites) = (cursor, sites(in: pane))
    return sites.first { $0.slots.contains(cursor) } ?? sites.first { $0.firstSlot > cursor }
      ?? sites.last ?? selectedSite
  }

  /// The steps that the plotted runs have.
  func extent(of pane: PlotPane) -> ClosedRange<Double>? {
    let shown = pane.content == .curves ? pane.quantity : pane.quantity.ofSlot
    let quantities = [shown, shown.partner].compactMap(\.self)
    let sites = pane.content == .curves ? [site(in: pane)] : sites(in: pane)
    let ends = runs(in: pane).flatMap { run in
      sites.flatMap { site in
        quantities.flatMap { quantity -> [Int] in
          let series = quantity.series(run.history, site)
          return [series.first?.step, series.last?.step].compactMap(\.self)
        }
      }
    }
    guard let low = ends.min(), let high = ends.max() else { return nil }
    return Double(low)...Double(max(low + 1, high))
  }

  /// The steps that a plot shows now.
  func visibleSteps(of pane: PlotPane) -> ClosedRange<Double>? {
    extent(of: pane).map { pane.window.visible(of: $0, isLogarithmic: chart.isLogX) }
  }

  /// The place of a run among the colours and marks: free ones first, by the digest of its identifier, and then
  /// kept.
  mutating func takeColor(for id: String) {
    guard runColors[id] == nil else { return }
    let digest = ImagePlacement.hash(of: Array(id.utf8))
    let count = Theme.runStyles.count
    let start = abs(digest % count)
    let taken = Set(runColors.values)
    runColors[id] =
      (0..<count).map { (start + $0) % count }.first { !taken.contains($0) } ?? start
  }
}
