import Plans
import Runs

/// The jobs in the run root, as last read from disk.
package struct RunsState: Equatable, Sendable {
  /// Every run, newest first.
  package var records: [RunSummary] = []
  /// Number of runs that are not read yet.
  package var unread = 0
  /// The training whose marks and curves are shown.
  package var focus: FocusedRun?
  /// Steps of the followed run's checkpoints that are kept, ascending.
  package var checkpoints: [Int] = []
  /// Whether a training was asked for and has not been confirmed yet.
  package var isLaunching = false
  /// Whether the plan's last edit was the form of that training.
  var launchEdit: GraftPlan?
  /// The measurement or report whose result is shown when it is there.
  var awaitedReport: String?
  /// Runs that were asked to stop; asked again they are killed.
  package var stopping: Set<String> = []
  /// Whether the run root was read at least once.
  package var isScanned = false

  /// The record with this identifier.
  package func record(_ id: String) -> RunSummary? { records.first { $0.id == id } }

  /// What a run is called: its name, and the end of its identifier where another training bears the same name.
  package func title(_ record: RunSummary) -> String { record.name + distinction(of: record) }

  /// What follows the name in a title; mostly nothing.
  func distinction(of record: RunSummary) -> String {
    let isShared = records.contains {
      $0.isTraining && $0.id != record.id && $0.name == record.name
    }
    return isShared && record.isTraining
      ? " ·\(record.id.split(separator: "-").last ?? "")" : ""
  }

  /// The title of the run with this identifier.
  package func title(of id: String) -> String { record(id).map(title) ?? id }

  /// The titles of runs as a list; of many, the first ones and how many more.
  func names(of ids: [String], limit: Int = 6) -> String {
    let names = ids.prefix(limit).map { title(of: $0) }.joined(separator: ", ")
    return ids.count > limit ? "\(names) and \(ids.count - limit) more" : names
  }

  /// The record of the focused run.
  package var focusRecord: RunSummary? { focus.flatMap { record($0.id) } }

  /// Runs worth a line: trainings, measurements and damaged runs, and other jobs only while they live.
  package var listed: [RunSummary] {
    records.filter { $0.isQueueable || $0.isAlive || $0.damage != nil }
  }

  /// The chain of the training that is followed, or else one that goes on.
  package var chain: RunChain? {
    let id = focusRecord?.chain?.id ?? records.first { $0.isAlive && $0.chain != nil }?.chain?.id
    return id.flatMap { RunChain($0, among: records) }
  }

  /// The training that goes on now, or else one that waits for its turn.
  package var aliveTraining: RunSummary? {
    let alive = records.filter { $0.isTraining && $0.isAlive }
    return alive.first { $0.state != .queued } ?? alive.first
  }
}

extension RunSummary {
  /// The state with the place in the queue, for a narrow column.
  package var stateLabel: String { turn.map { "\(state.name) #\($0.position)" } ?? state.name }

  /// Where it was, for a sentence: "at step 3 of 9", "while measuring at step 3 of 9".
  var placeText: String { "\(label == nil ? "at" : "while") \(progressText)" }

  /// Why it waits although nobody asked it to, in a few words.
  package var waitReason: String? { stateReason ?? turn?.reason }

  /// Why its checkpoints cannot be used here; nil if they can.
  var reasonAgainstUsingFiles: String? {
    guard let link, !link.isSevered,
      !link.fetched.keys.contains(where: { $0.hasPrefix("checkpoints/") })
    else { return nil }
    return
      "the checkpoints of \(name) are at \(link.host): 'espalier runs fetch \(id)' brings them here"
  }

  /// What became of it, where that needs more than one word.
  package var remark: String? {
    if let damage { return "damaged: \(damage)" }
    return switch state {
    case .failed: "failed: \(end?.text ?? "")"
    case .lost: "its worker ended \(placeText); R takes it up again"
    case .detached: "detached: \(stateReason ?? ""); R follows it again"
    case .unreachable, .pending: stateText
    default: waitReason.map { "waits: \($0)" }
    }
  }
}

/// The training whose marks and curves are shown.
package struct FocusedRun: Equatable, Sendable {
  /// The run directory's name.
  package let id: String
  /// The plan it trains, as copied into its directory.
  package var plan: GraftPlan?
  /// Its losses so far.
  package var history = RunHistory()

  /// Follows a run.
  package init(id: String, plan: GraftPlan?) {
    self.id = id
    self.plan = plan
  }
}
