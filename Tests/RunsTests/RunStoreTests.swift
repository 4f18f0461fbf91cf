import Files
import Foundation
import Plans
import Runs
import TestSupport
import Testing

private let slot = GraftSite.slot(SlotID(block: 1, slot: .attention))

/// Looking at runs from outside: nothing is read twice, and what was read is kept beside the log.
@Suite struct RunStoreTests {
  let scratch: Scratch
  let run: RunDirectory

  init() throws {
    scratch = try Scratch()
    run = try scratch.run()
  }

  private func step(_ step: Int, _ loss: Double = 0.5) -> String {
    #"{"kind":"step","loss":\#(loss),"losses":{"1.attention":\#(loss)},"rate":2,"#
      + #""seconds_left":1,"step":\#(step),"t":100,"total":100000,"v":1}"# + "\n"
  }

  private let begin = #"{"kind":"started","pid":1,"t":99,"total_steps":100000,"v":1}"# + "\n"

  /// A log of so many steps.
  private func write(steps: Int) throws {
    let lines = begin + (1...steps).map { step($0) }.joined()
    try Data(lines.utf8).write(to: URL(fileURLWithPath: run.eventsPath))
  }

  private var kept: String { "\(run.path)/summary.json" }
  private var curves: String { "\(run.path)/curves.json" }
  private func exists(_ path: String) -> Bool { FileManager.default.fileExists(atPath: path) }

  @Test func readsOnlyWhatIsNew() throws {
    var follower = RunFollower(run, keepsCurves: true)
    #expect(follower.poll().state == .queued)
    _ = try run.claim()
    try run.append(Event(.started(pid: 1, totalSteps: 10)))
    #expect(follower.poll().state == .running)
    try run.append(Event(.message("once")))
    for _ in 0..<3 { _ = follower.poll() }
    #expect(follower.history.messages == ["once"])
    try run.append(Event(.finished(outcome: .done, text: "")))
    #expect(follower.poll().state == .done)
    #expect(run.summary() == follower.poll())
  }

  /// A store lists new runs first, finds new ones, and forgets those that are gone.
  @Test func lists() throws {
    let other = try scratch.run("other", createdAt: 1_763_700_000)
    var store = RunStore(root: scratch.path)
    store.look()
    #expect(store.summaries.map(\.name) == ["other", "test"])
    #expect(store.summaries.map(\.kind) == [.distill, .distill])
    #expect(store.summary(run.id)?.createdAt == 1_763_694_000)
    try write(steps: 3)
    #expect(store.look() == [run.id])
    #expect(store.summary(run.id)?.step == 3)
    #expect(store.history(run.id)?.meanLoss.isEmpty == true)
    store.follow([run.id])
    #expect(store.history(run.id)?.losses[slot]?.map(\.step) == [1, 2, 3])
    store.follow([])
    #expect(store.history(run.id)?.meanLoss.isEmpty == true && store.summary(run.id)?.step == 3)
    #expect(try other.remove(if: { _ in true }))
    store.look()
    #expect(store.summaries.map(\.id) == [run.id])
  }

  /// Runs whose logs were not read to their end yet are left out, so that a long log keeps nobody waiting.
  @Test func aLimitedLookGoesOnLater() throws {
    try write(steps: 30_000)
    var store = RunStore(root: scratch.path)
    store.look(limit: 1 << 20)
    #expect(store.summaries.isEmpty)
    var looks = 1
    while store.summaries.isEmpty, looks < 100 {
      store.look(thorough: false, limit: 1 << 20)
      looks += 1
    }
    #expect(looks > 2 && store.summaries.first?.step == 30_000)
  }

  @Test func aLogThatWasReplacedIsReadAnew() throws {
    var follower = RunFollower(run, keepsCurves: true)
    try write(steps: 9)
    #expect(follower.poll().step == 9)
    try write(steps: 2)
    #expect(follower.poll().step == 2 && follower.history.meanLoss.count == 2)
    try FileManager.default.removeItem(atPath: run.eventsPath)
    #expect(follower.poll().step == 0)
  }

  // MARK: - What is kept

  /// A run of some thousand events is read once, whoever looks next.
  @Test func theSummaryIsKept() throws {
    try write(steps: 3000)
    let first = run.summary()
    #expect(first.step == 3000 && exists(kept) && !exists(curves))
    // A line amid those that were read is broken, which nobody looks at again; one is appended.
    try overwrite(offset: 40_000, "x")
    try appendRaw(step(3001, 0.25), to: run.eventsPath)
    let second = run.summary()
    #expect(second.step == 3001 && second.loss == 0.25 && second.damagedLines == 0)
    // The curves were never kept, so they are read from the start, and see it.
    #expect(run.history().summary.damagedLines == 1)
    var follower = RunFollower(run, keepsCurves: true)
    _ = follower.poll()
    follower.save()
    #expect(exists(curves))
    let history = follower.history
    #expect(run.history() == history && history.losses[slot]?.last?.value == 0.25)
  }

  @Test func aSmallLogIsNotWorthAFile() throws {
    try write(steps: 10)
    _ = run.summary()
    #expect(!exists(kept))
    run.keepSummary()
    #expect(exists(kept) && exists(curves))
  }

  /// What is stale, damaged, of another version or of another run is ignored and made anew.
  @Test(arguments: ["another log", "shorter", "byte", "cut", "empty", "other", "version"])
  func whatIsKeptIsChecked(fault: String) throws {
    try write(steps: 3000)
    _ = run.summary()
    var bytes = try Data(contentsOf: URL(fileURLWithPath: kept))
    switch fault {
    case "another log":
      let text = try String(contentsOfFile: run.eventsPath, encoding: .utf8)
      try Data(text.replacing("\"t\":99", with: "\"t\":98").utf8)
        .write(to: URL(fileURLWithPath: run.eventsPath))
    case "shorter": try write(steps: 2999)
    case "byte": bytes[bytes.count / 2] ^= 1
    case "cut": bytes = bytes.dropLast(5)
    case "empty": bytes = Data()
    case "other": bytes = Data("{\"digest\":\"\"}".utf8)
    default:
      bytes = Data(
        String(decoding: bytes, as: UTF8.self).replacing("\"version\":1", with: "\"version\":2")
          .utf8)
    }
    try bytes.write(to: URL(fileURLWithPath: kept))
    let steps = fault == "shorter" ? 2999 : 3000
    #expect(run.summary().step == steps)
    #expect(try Data(contentsOf: URL(fileURLWithPath: kept)) != bytes)
    #expect(run.summary().step == steps)
  }

  /// Puts bytes over others of the log.
  private func overwrite(offset: UInt64, _ text: String) throws {
    let handle = try FileHandle(forWritingTo: URL(fileURLWithPath: run.eventsPath))
    try handle.seek(toOffset: offset)
    try handle.write(contentsOf: Data(text.utf8))
    try handle.close()
  }

  // MARK: - Odd files

  /// Files of a run directory that readers open.
  static let files = [
    "run.json", "plan.json", "worker.json", "events.jsonl", "control.jsonl", "log.txt",
    "summary.json",
    "curves.json",
  ]

  /// Whatever lies in the place of a file, readers end soon.
  @Test(arguments: files)
  func oddFilesNeitherHangNorKill(name: String) throws {
    try write(steps: 3000)
    run.keepSummary()
    let path = "\(run.path)/\(name)"
    let kinds: [(String, () -> Void)] = [
      ("FIFO", { mkfifo(path, 0o666) }),
      ("directory", { mkdir(path, 0o777) }),
      ("loop", { symlink(path, path) }),
      ("device", { symlink("/dev/zero", path) }),
      ("terminal", { symlink("/dev/tty", path) }),
      ("sparse", { truncate(20 << 30, path) }),
      ("nothing", {}),
    ]
    for (kind, make) in kinds {
      try? FileManager.default.removeItem(atPath: path)
      make()
      read(run)
      if name == "run.json", kind != "nothing", kind != "loop" {
        var store = RunStore(root: scratch.path)
        store.look()
        #expect(store.summaries.first?.damage?.contains("run.json") == true, "\(kind)")
      }
    }
  }

  private func truncate(_ size: Int, _ path: String) {
    let descriptor = open(path, O_CREAT | O_WRONLY, 0o666)
    ftruncate(descriptor, off_t(size))
    close(descriptor)
  }

  /// All that readers do with a run.
  private func read(_ run: RunDirectory) {
    var store = RunStore(root: scratch.path, readsPlans: true)
    store.look()
    store.follow([run.id])
    store.look()
    _ = run.history()
    _ = run.lastLines()
    _ = run.hasRequest(.cancel)
    _ = store.waiting.map(\.waitsFor)
  }

  /// A hole in a log is passed over, and what follows it counts.
  @Test func aHoleInTheLog() throws {
    try write(steps: 5)
    truncate(20 << 30, run.eventsPath)
    var follower = RunFollower(run)
    #expect(follower.poll().step == 5)
    try run.append(Event(.heartbeat(step: 7)))
    #expect(follower.poll().step == 7)
    let fresh = run.summary()
    #expect(fresh.step == 7 && fresh.damage?.contains("damaged") == true)
  }

  @Test func aLineWithoutEndIsPassedOver() throws {
    try write(steps: 5)
    try appendRaw(String(repeating: "x", count: 3 << 20) + "\n" + step(6), to: run.eventsPath)
    let summary = run.summary()
    #expect(summary.step == 6 && summary.damagedLines == 1)
    #expect(summary.damage == "\(run.eventsPath): 1 line is damaged and left out")
  }

  /// A request that cannot be read does not hide the run.
  @Test(arguments: [#""created_at" : 1763694000"#, #""seed" : 18446744073709551615"#])
  func aDamagedRequestIsShown(entry: String) throws {
    try write(steps: 4)
    let text = try String(contentsOfFile: run.requestPath, encoding: .utf8)
    let broken = text.replacing(entry, with: String(entry.prefix { $0 != ":" }) + ": 1e300")
    #expect(broken != text)
    try broken.write(toFile: run.requestPath, atomically: true, encoding: .utf8)
    let summary = run.summary()
    #expect(summary.name == run.id && summary.kind == nil && summary.step == 4)
    #expect(summary.damage?.hasPrefix("\(run.requestPath): ") == true)
    if entry.contains("created_at") {
      #expect(summary.damage?.contains("created_at is 1e+300, expected 0.0 to") == true)
    }
  }

  /// A worker's note from elsewhere, or one that cannot be read, leaves it to the events.
  @Test func workersThatCannotBeAsked() throws {
    let notes = [
      #"{"pid": 1, "start_time": 1, "boot_id": "another boot"}"#, #"{"pid": 1e300}"#, "{", "[]",
    ]
    for note in notes {
      try note.write(toFile: run.workerPath, atomically: true, encoding: .utf8)
      try begin.write(toFile: run.eventsPath, atomically: true, encoding: .utf8)
      #expect(run.summary().state == .running, "\(note)")
      utimes(
        run.eventsPath, [timeval(tv_sec: 1000, tv_usec: 0), timeval(tv_sec: 1000, tv_usec: 0)])
      #expect(run.summary().state == .lost, "\(note)")
    }
  }

  // MARK: - Damage

  /// Every number of every file replaced by extremes, every value by other types, every line cut.
  @Test(arguments: ["run.json", "plan.json", "worker.json", "events.jsonl", "control.jsonl"])
  func damagedFilesAreRead(name: String) throws {
    try prepare()
    let path = "\(run.path)/\(name)"
    let text = try String(contentsOfFile: path, encoding: .utf8)
    for damaged in Damage.of(text, values: name == "plan.json" ? 3 : Damage.values.count) {
      try Data(damaged.utf8).write(to: URL(fileURLWithPath: path))
      read(run)
    }
  }

  /// Likewise what readers keep, with a digest that is right again, as only somebody who forges it has.
  @Test(arguments: ["summary.json", "curves.json"])
  func forgedSummariesAreRead(name: String) throws {
    try prepare()
    run.keepSummary()
    let path = "\(run.path)/\(name)"
    let text = try String(contentsOfFile: path, encoding: .utf8)
    let start = #"{"digest":""#.count
    for damaged in Damage.of(text) where damaged.count > start + 32 {
      let rest = damaged.dropFirst(start + 32)
      let forged = text.prefix(start) + ContentHash.sha256(Data(rest.utf8)).prefix(32) + rest
      try Data(forged.utf8).write(to: URL(fileURLWithPath: path))
      read(run)
    }
  }

  private func prepare() throws {
    try FileManager.default.removeItem(atPath: run.path)
    var plan = GraftPlan(
      named: "p", model: ModelReference(path: "/m", shape: smallShape, contentHash: "c0ffee"))
    plan.edits[SlotID(block: 1, slot: .attention)] = OperatorSpec("skip")
    var request = scratch.request()
    request.queue = QueuePlace(priority: 3, after: ["x"])
    request.timeout = 10
    let made = try RunDirectory.create(root: scratch.path, job: request, plan: plan)
    try FileManager.default.moveItem(atPath: made.path, toPath: run.path)
    _ = try run.claim()
    let events: [EventKind] = [
      .started(pid: 4, totalSteps: 8), .progress(done: 3, total: 9, label: "encoding images"),
      .heldOut(step: 0, loss: nil, losses: [slot: 2.5]),
      .step(
        step: 2, total: 8, loss: 0.5, losses: [slot: 0.5], rate: 2, secondsLeft: 3,
        learningRate: LearningRate(0.25)),
      .heartbeat(step: 3), .checkpointed(step: 4, path: "checkpoints/latest.safetensors"),
      .paused(step: 4, reason: "disk full"), .resumed(step: 4),
      .sampled(role: .graft, path: "samples/graft.png", classLabel: 2, seed: 6), .message("m"),
    ]
    for kind in events { try run.append(Event(kind, time: 1_763_694_001)) }
    for control in Control.allCases { try run.append(control) }
  }
}
