import Runs
import TerminalUI

extension AppState {
  /// Seconds without a key after which nobody is taken to look at the screen.
  private static let attention = 30.0

  /// Notes a key; the title that told of a run is taken back then.
  mutating func noteKey() -> [Effect] {
    lastKey = now
    guard hasTitle else { return [] }
    hasTitle = false
    return [.announce(Announcement(title: "espalier"))]
  }

  /// Announces trainings and measurements that have ended without being looked at.
  ///
  /// What is shown as the followed run is looked at while keys are pressed; a run that was asked to stop
  /// from here surprises nobody.
  mutating func announceEnds(
    since old: [RunSummary], except stopping: Set<String>
  ) -> [Effect] {
    let alive = Set(old.filter { $0.isAlive && $0.isQueueable }.map(\.id))
    let isAway = now - lastKey > Self.attention
    let ended = runs.records.filter { run in
      let isShown = overlay == nil && runs.focus?.id == run.id
      return alive.contains(run.id) && !run.isAlive && !stopping.contains(run.id)
        && (isAway || !isShown)
    }
    guard !ended.isEmpty else { return [] }
    let text = ended.map { "\(runs.title($0)) is \($0.state.name)" }.joined(separator: ", ")
    if notice == nil {
      notice =
        ended.contains { $0.state == .failed || $0.state == .lost } ? .failure(text) : .note(text)
    }
    let settings = configuration.settings
    hasTitle = settings.title
    return [
      .announce(
        Announcement(
          text, rings: settings.bell, notification: settings.notification,
          title: settings.title ? "espalier: \(text)" : nil))
    ]
  }
}
