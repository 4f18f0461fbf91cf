import Plans
import Runs

/// The jobs in the run root, as last read from disk.
package struct RunsState: Equatable, Sendable {
  /// Every run, newest first.
  package var records: [RunRecord] = []
  /// The training whose marks and curves are shown.
  package var focus: FocusedRun?
  /// Whether a training was asked for and has not been confirmed yet.
  package var isLaunching = false
  /// Runs that were asked to stop; asked again they are killed.
  package var stopping: Set<String> = []
  /// Whether the run root was read at least once.
  package var isScanned = false

  /// The record with this identifier.
  package func record(_ id: String) -> RunRecord? { records.first { $0.id == id } }

  /// What a run is called: its name, and the end of its identifier where another training bears the same name.
  package func title(_ record: RunRecord) -> String { record.name + distinction(of: record) }

  /// What follows the name in a title; mostly nothing.
  func distinction(of record: RunRecord) -> String {
    let isShared = records.contains {
      $0.kind.isTraining && $0.id != record.id && $0.name == record.name
    }
    return isShared && record.kind.isTraining
      ? " ·\(record.id.split(separator: "-").last ?? "")" : ""
  }

  /// The title of the run with this identifier.
  package func title(of id: String) -> String { record(id).map(title) ?? id }

  /// The record of the focused run.
  package var focusRecord: RunRecord? { focus.flatMap { record($0.id) } }

  /// Runs worth a line: trainings, and other jobs only while they live.
  package var listed: [RunRecord] {
    records.filter { $0.kind.isTraining || $0.isAlive }
  }

  /// The training that goes on now, or else one that waits for its turn.
  package var aliveTraining: RunRecord? {
    let alive = records.filter { $0.kind.isTraining && $0.isAlive }
    return alive.first { $0.state != .queued } ?? alive.first
  }
}

/// What the runs list says about one job.
package struct RunRecord: Equatable, Sendable {
  /// What the job does.
  package enum Kind: String, Equatable, Sendable {
    /// Activation distillation, stage 1.
    case distill
    /// End-to-end finetuning, stage 2.
    case finetune
    /// Sampling for the preview.
    case preview
    /// Statistics of the teacher.
    case analyze

    /// Whether it trains a plan, and so has losses and checkpoints.
    package var isTraining: Bool { self == .distill || self == .finetune }
  }

  /// The run directory's name.
  package let id: String
  /// What the person called it.
  package let name: String
  /// What the job does.
  package let kind: Kind
  /// Content hash of its model.
  package let modelHash: String
  /// When it was asked for, in seconds since 1970.
  package let createdAt: Double
  /// Where it stands.
  package let state: RunState
  /// Steps done.
  package let step: Int
  /// Steps in all; 0 while unknown.
  package let total: Int
  /// Mean training loss, when one is known.
  package let loss: Double?
  /// Steps per second, when known.
  package let rate: Double?
  /// Estimated seconds left, when known.
  package let secondsLeft: Double?
  /// Time of its last event, in seconds since 1970.
  package let lastEventAt: Double?
  /// What its plan changes in the model; nil where there is no plan.
  package var changes: GraftPlan.Changes?
  /// What is counted instead of steps, such as images that are encoded; nil for steps.
  package var label: String?
  /// Why it is paused, when nobody asked for it.
  package var pauseReason: String?
  /// Its place in the queue from 1 on; nil for a run that does not wait there.
  package var queuePosition: Int?
  /// What it waits for beside its turn.
  package var waiting: WaitingRun?

  /// Makes a record.
  package init(
    id: String, name: String, kind: Kind, modelHash: String, createdAt: Double, state: RunState,
    step: Int = 0, total: Int = 0, loss: Double? = nil, rate: Double? = nil,
    secondsLeft: Double? = nil, lastEventAt: Double? = nil
  ) {
    self.id = id
    self.name = name
    self.kind = kind
    self.modelHash = modelHash
    self.createdAt = createdAt
    self.state = state
    self.step = step
    self.total = total
    self.loss = loss
    self.rate = rate
    self.secondsLeft = secondsLeft
    self.lastEventAt = lastEventAt
  }

  /// Whether a worker is expected to go on with it.
  package var isAlive: Bool { !state.isEnded }

  /// One word for the state.
  package var stateName: String { state.name }

  /// The state with the place in the queue, for a narrow column.
  package var stateLabel: String { queuePosition.map { "\(stateName) #\($0)" } ?? stateName }

  /// Why it waits although nobody asked it to, in a few words.
  package var waitReason: String? { pauseReason ?? waiting?.reason }

  /// What became of it, where that needs more than one word.
  package var remark: String? {
    switch state {
    case .failed(let reason): "failed: \(reason)"
    case .lost: "its worker ended at \(progressText); R takes it up again"
    default: waitReason.map { "waits: \($0)" }
    }
  }

  /// How far it is: "step 5 of 60", "encoding images 64 of 480".
  package var progressText: String { "\(label ?? "step") \(step) of \(total)" }
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
