import Foundation
import Plans
import Runs

/// Follows the runs under a root by looking at their directories; never writes.
///
/// A look is cheap: sizes are read first, and only what was appended is parsed.
struct RunWatcher {
  private let root: String
  private var tails: [String: RunTail] = [:]
  private var order: [String] = []
  /// The run whose whole history is wanted.
  private(set) var followed: String?

  init(root: String) {
    self.root = root
  }

  /// The run with this identifier.
  func run(_ id: String) -> RunDirectory? { tails[id]?.run }

  /// The history of a run as last read.
  func history(_ id: String) -> RunHistory? { tails[id]?.history }

  /// The images that a run has written.
  func images(_ id: String) -> [SampleImage] { tails[id]?.images ?? [] }

  /// What the list says about every run, newest first.
  var records: [RunRecord] {
    var places: [String: (Int, WaitingRun)] = [:]
    for (index, run) in WaitingRun.list(order.compactMap { tails[$0]?.entry }).enumerated() {
      places[run.id] = (index + 1, run)
    }
    return order.compactMap { id in
      var record = tails[id]?.record
      if let (position, run) = places[id] {
        record?.queuePosition = position
        record?.waiting = run
      }
      return record
    }
  }

  /// Adds a run that was made just now, before the next listing finds it.
  mutating func add(_ run: RunDirectory) {
    guard tails[run.id] == nil else { return }
    tails[run.id] = RunTail(run: run)
    order.insert(run.id, at: 0)
  }

  /// Wants one run's whole history from now on, and no other's.
  mutating func follow(_ id: String?, now: Date) {
    if let followed { tails[followed]?.isKept = false }
    followed = id
    guard let id else { return }
    tails[id]?.isKept = true
    tails[id]?.look(now: now, thorough: true)
  }

  /// Notes that a worker started from here has ended; it may have died before it left any trace.
  mutating func noteEndedWorker(of id: String) {
    tails[id]?.hasEndedWorker = true
  }

  /// Looks for new and vanished runs.
  mutating func list() {
    let runs = RunDirectory.list(root: root)
    order = runs.map(\.id)
    let present = Set(order)
    tails = tails.filter { present.contains($0.key) }
    for run in runs where tails[run.id] == nil { tails[run.id] = RunTail(run: run) }
  }

  /// Reads what was appended to unfinished runs; `thorough` also asks whether their workers live.
  ///
  /// - Returns: Identifiers of the runs that have new events.
  mutating func look(now: Date, thorough: Bool) -> Set<String> {
    var changed: Set<String> = []
    for id in order {
      // Changed in place, so that long histories are not copied.
      if tails[id]?.look(now: now, thorough: thorough) == true { changed.insert(id) }
    }
    return changed
  }
}

/// One run's events up to where they were read.
struct RunTail {
  let run: RunDirectory
  /// Whether the whole history is wanted although the run has ended.
  var isKept = false
  /// Whether the worker is known to have ended, whatever the directory says.
  var hasEndedWorker = false
  /// What has become of the run.
  private(set) var status: RunStatus?
  private var follower: RunFollower
  private var request: JobRequest?
  private let changes: GraftPlan.Changes?
  private var size: UInt64?
  private var isForgotten = false
  private var samples: [SampleImage] = []

  init(run: RunDirectory) {
    self.run = run
    follower = RunFollower(run)
    request = try? run.request()
    changes = try? GraftPlan.load(path: run.planPath).changes
  }

  /// The events as far as they were read; empty for an ended run that nobody follows.
  var history: RunHistory { follower.history }

  private var isEnded: Bool {
    switch status?.state {
    case .done, .cancelled, .failed: true
    default: false
    }
  }

  /// Reads what was appended and works out the state; says whether there was anything new.
  ///
  /// Unless `thorough`, a log that has not grown is all there is to see.
  @discardableResult
  mutating func look(now: Date, thorough: Bool) -> Bool {
    let isWanted = isForgotten && isKept
    if isEnded && !thorough && !isWanted { return false }
    let length = Self.length(run.eventsPath)
    let isNew = length != size || isWanted
    if isEnded && !isNew { return false }
    guard isNew || thorough || status == nil else { return false }
    if isForgotten {
      follower = RunFollower(run)
      isForgotten = false
    }
    // A run that waits may get another place, one that is taken up again loses it.
    if request == nil || request?.queue != nil { request = try? run.request() }
    size = length
    status = follower.poll(now: now)
    if isEnded && !isKept {
      // The curves of an ended run may be long; its last numbers are in the status.
      samples = follower.history.samples
      follower = RunFollower(run)
      isForgotten = true
    }
    return isNew
  }

  /// Images in the order they were written, also of a run whose history was dropped.
  var images: [SampleImage] { isForgotten ? samples : follower.history.samples }

  /// What the queue needs to know of it.
  var entry: QueueEntry? { status.flatMap { QueueEntry(run, request, $0.state) } }

  var record: RunRecord? {
    guard let request, let status else { return nil }
    let state = status.state == .queued && hasEndedWorker ? .lost : status.state
    var record = RunRecord(
      id: run.id, name: request.name, kind: Self.kind(request.job), modelHash: request.modelHash,
      createdAt: request.createdAt, state: state, step: status.step, total: status.total,
      loss: status.loss, rate: status.rate, secondsLeft: status.secondsLeft,
      lastEventAt: status.lastEventTime)
    record.changes = changes
    record.label = status.label
    record.pauseReason = status.pauseReason
    return record
  }

  private static func kind(_ job: Job) -> RunRecord.Kind {
    switch job {
    case .distill: .distill
    case .finetune: .finetune
    case .preview: .preview
    case .analyze: .analyze
    }
  }

  private static func length(_ path: String) -> UInt64 {
    var status = stat()
    return stat(path, &status) == 0 ? UInt64(status.st_size) : 0
  }
}
