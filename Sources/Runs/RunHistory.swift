import Plans

/// State of a run accumulated from its events, in bounded memory.
package struct RunHistory: Codable, Equatable, Sendable {
  /// The run without its curves.
  package internal(set) var summary = RunSummary()
  /// Training loss by site.
  package private(set) var losses: [GraftSite: StepSeries] = [:]
  /// Mean training loss over the sites.
  package private(set) var meanLoss = StepSeries()
  /// Held-out loss by site.
  package private(set) var heldOut: [GraftSite: StepSeries] = [:]
  /// Total held-out loss; the mean over the sites if there are losses by site.
  package private(set) var meanHeldOut = StepSeries()
  /// Other measures of the training steps.
  package private(set) var measures: [StepMeasure: StepSeries] = [:]
  /// Latest messages.
  package private(set) var messages: [String] = []
  /// How many remarks there were, those that are no longer kept included.
  package private(set) var messageCount = 0

  /// Steps from which a worker has gone on behind where one was before, in order of time.
  package private(set) var restarts: [Int] = []

  /// Maximum number of stored restarts.
  private static let restartLimit = 1000
  /// Maximum number of stored messages.
  private static let messageLimit = 200
  /// Maximum number of stored sites, above that of any model.
  private static let siteLimit = 4096

  /// An empty history.
  package init() {}

  /// Applies the next event.
  ///
  /// A step at or before the last one means that a worker resumed from a checkpoint; later records
  /// are replaced.
  package mutating func apply(_ event: Event) {
    summary.apply(event)
    switch event.kind {
    case .started:
      let step = summary.step
      if let last = meanLoss.last?.step, step < last, restarts.count < Self.restartLimit {
        restarts.append(step)
      }
    case .step(let step, _, let loss, let losses, _, _, let learningRate, var measures):
      meanLoss.append(StepValue(step: step, value: loss))
      Self.append(losses, step, to: &self.losses)
      measures[.learningRate] = learningRate?.highest
      for (measure, value) in measures {
        self.measures[measure, default: StepSeries()].append(StepValue(step: step, value: value))
      }
    case .heldOut(let step, let loss, let losses):
      // Training losses of an earlier worker that was ahead of the resumed step.
      meanLoss.drop(after: step)
      for site in self.losses.keys { self.losses[site]?.drop(after: step) }
      self.losses = self.losses.filter { !$0.value.isEmpty }
      for measure in measures.keys { measures[measure]?.drop(after: step) }
      Self.append(losses, step, to: &heldOut)
      if let value = loss ?? losses.mean {
        meanHeldOut.append(StepValue(step: step, value: value))
      }
    case .message(let text):
      messages.append(text)
      messageCount += 1
      if messages.count > Self.messageLimit { messages.removeFirst() }
    default: break
    }
  }

  /// Whether the state is consistent.
  var isPlausible: Bool {
    let series = [meanLoss, meanHeldOut] + losses.values + heldOut.values + measures.values
    return summary.isPlausible && series.allSatisfy(\.isPlausible)
  }

  private static func append(
    _ values: [GraftSite: Double], _ step: Int, to series: inout [GraftSite: StepSeries]
  ) {
    for (site, value) in values where series[site] != nil || series.count < siteLimit {
      series[site, default: StepSeries()].append(StepValue(step: step, value: value))
    }
  }
}
