import Plans

/// Everything that a run's events tell, built up event by event, in bounded memory.
package struct RunHistory: Codable, Equatable, Sendable {
  /// The run without its curves.
  package internal(set) var summary = RunSummary()
  /// Training loss by site.
  package private(set) var losses: [GraftSite: LossSeries] = [:]
  /// Mean training loss over the sites.
  package private(set) var meanLoss = LossSeries()
  /// Held-out loss by site.
  package private(set) var heldOut: [GraftSite: LossSeries] = [:]
  /// Held-out loss of the whole, which is the mean over the sites where they have losses of their own.
  package private(set) var meanHeldOut = LossSeries()
  /// The newest remarks for people.
  package private(set) var messages: [String] = []

  /// Remarks that are kept.
  private static let messageLimit = 200
  /// Sites that are kept; those beyond are no sites of any model.
  private static let siteLimit = 4096

  /// An empty history.
  package init() {}

  /// Takes the next event.
  ///
  /// A step at or before the last one means that a worker went back to a checkpoint; what was
  /// recorded from there on is replaced.
  package mutating func apply(_ event: Event) {
    summary.apply(event)
    switch event.kind {
    case .step(let step, _, let loss, let losses, _, _, _):
      meanLoss.append(LossPoint(step: step, value: loss))
      Self.append(losses, step, to: &self.losses)
    case .heldOut(let step, let loss, let losses):
      // Training losses of a worker that was further than the present one, which began before that.
      meanLoss.drop(after: step)
      for site in self.losses.keys { self.losses[site]?.drop(after: step) }
      self.losses = self.losses.filter { !$0.value.isEmpty }
      Self.append(losses, step, to: &heldOut)
      if let value = loss ?? losses.mean {
        meanHeldOut.append(LossPoint(step: step, value: value))
      }
    case .message(let text):
      messages.append(text)
      if messages.count > Self.messageLimit { messages.removeFirst() }
    default: break
    }
  }

  /// Whether a log may have told it.
  var isPlausible: Bool {
    let series = [meanLoss, meanHeldOut] + losses.values + heldOut.values
    return summary.isPlausible && series.allSatisfy(\.isPlausible)
  }

  private static func append(
    _ values: [GraftSite: Double], _ step: Int, to series: inout [GraftSite: LossSeries]
  ) {
    for (site, value) in values where series[site] != nil || series.count < siteLimit {
      series[site, default: LossSeries()].append(LossPoint(step: step, value: value))
    }
  }
}
