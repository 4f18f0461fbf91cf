import Files
import Foundation
import Runs
import TestSupport
import Testing

/// Real processes: a shell script stands in for the worker.
@Suite(.serialized) struct WorkerTests {
  let scratch: Scratch
  var root: String { scratch.path + "/runs" }

  init() throws { scratch = try Scratch() }

  /// A program that is started as a worker.
  private func program(_ body: String) throws -> String {
    let path = try scratch.put("#!/bin/sh\n" + body, "worker.sh", mode: 0o755)
    // A process that another test starts meanwhile may hold the file open for writing for a moment, and
    // the kernel runs no such file; it gives a read lease on it as soon as nobody does.
    let (setLease, readLease): (Int32, Int32) = (1024, 0)
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    defer { close(descriptor) }
    while fcntl(descriptor, setLease, readLease) != 0, errno == EAGAIN { usleep(1000) }
    return path
  }

  private static let steady = """
    echo "$1 works on $2"
    echo "a complaint" >&2
    echo '{"kind":"started","pid":1,"t":1,"total_steps":9,"v":1}' >> "$2/events.jsonl"
    # Only the worker has the lock.
    while :; do sleep 0.1 3>&-; done
    """

  /// Starts a script as the worker of a new run and waits for its first event.
  private func startWorker(
    _ request: JobRequest? = nil, _ body: String = steady
  ) throws -> (run: RunDirectory, worker: ProcessIdentity, launcher: RunLauncher) {
    let launcher = try RunLauncher(root: root, executable: try program(body))
    let run = try launcher.launch(request ?? scratch.request())
    var isStarted = false
    for _ in 0..<3000 where !isStarted {
      isStarted = run.summary().isStarted
      if !isStarted { usleep(10_000) }
    }
    try #require(isStarted, "the worker wrote no event")
    return (run, try #require(run.worker()), launcher)
  }

  private func end(_ worker: ProcessIdentity) {
    kill(worker.pid, SIGKILL)
    waitpid(worker.pid, nil, 0)
  }

  @Test func workerIsDetached() throws {
    // A descriptor that must not leak into the worker.
    let leak = open("/dev/zero", O_RDONLY)
    defer { close(leak) }
    let (run, worker, _) = try startWorker()
    defer { end(worker) }
    let pid = worker.pid
    #expect(getsid(pid) == pid, "the worker must lead a session of its own")
    #expect(getpgid(pid) == pid && getsid(pid) != getsid(0))
    let folder = "/proc/\(pid)/fd"
    func target(_ descriptor: String) throws -> String {
      try FileManager.default.destinationOfSymbolicLink(atPath: "\(folder)/\(descriptor)")
    }
    #expect(try target("0") == "/dev/null")
    #expect(try target("1") == run.logPath && target("2") == run.logPath)
    // A descriptor that the worker itself opens for a moment may be gone before it is looked at.
    let open = try FileManager.default.contentsOfDirectory(atPath: folder).compactMap {
      try? target($0)
    }
    #expect(!open.contains("/dev/zero"))
    #expect(open.contains(run.lockPath), "it inherits the lock")
    #expect(run.logTail() == "worker works on \(run.path)\na complaint\n")
    #expect(run.summary().state == .running)
    #expect(worker.command.suffix(2) == ["worker", run.path] && worker.owner == geteuid())
  }

  @Test func stoppedWorkerIsFrozen() throws {
    let (run, worker, _) = try startWorker()
    defer { end(worker) }
    try run.freeze()
    #expect(worker.presence == .stopped)
    let summary = run.summary()
    #expect(summary.state == .frozen && !summary.isSilent)
    try run.goOn()
    while worker.presence == .stopped { usleep(1000) }
    #expect(run.summary().state == .running)
    #expect(run.hasRequest(.resume) && !run.hasRequest(.cancel))
  }

  @Test func killedWorkerIsLost() throws {
    let (run, worker, launcher) = try startWorker()
    #expect(run.summary().state == .running)
    kill(worker.pid, SIGKILL)
    // Wait for its death without collecting it: a zombie is as dead as can be.
    var info = siginfo_t()
    #expect(waitid(P_PID, id_t(worker.pid), &info, WEXITED | WNOWAIT) == 0)
    #expect(worker.presence == .gone && run.summary().state == .lost)
    #expect(launcher.collect() == [run] && launcher.collect().isEmpty)
    #expect(run.summary().state == .lost)
  }

  /// A worker that does not stop by itself is killed; that is told when it is so, and only then.
  @Test func killingEndsTheRun() throws {
    var request = scratch.request()
    request.onDone = #"echo "$ESPALIER_OUTCOME" >> "$ESPALIER_RUN/told""#
    let (run, worker, launcher) = try startWorker(request)
    #expect(try run.cancel() == .asked)
    #expect(run.summary().state == .running && run.hasRequest(.cancel))
    #expect(try run.cancel() == .killed)
    #expect(worker.presence == .gone)
    #expect(run.summary().state == .cancelled)
    #expect(run.summary().end?.text == "killed at step 0; there is no checkpoint yet")
    #expect(try String(contentsOfFile: run.path + "/told", encoding: .utf8) == "cancelled\n")
    #expect(launcher.collect() == [run])
    #expect(throws: FileError.self) { try run.cancel(hard: true) }
  }

  /// What was asked of a worker is not asked of the next one; the run goes on from the first moment.
  @Test func retriedRunsGoOn() throws {
    let (run, worker, launcher) = try startWorker()
    try run.pause()
    try run.cancel()
    let refused = #expect(throws: FileError.self) { try launcher.retry(run) }
    #expect(refused?.message.contains("is running, expected one that was cancelled") == true)
    end(worker)
    try launcher.retry(run)
    let second = try #require(run.worker())
    defer { end(second) }
    #expect(second != worker && run.summary().state == .running)
    #expect(!run.hasRequest(.pause) && !run.hasRequest(.cancel))
  }

  /// Of a retry and a clean at once one gets the run: it goes on, or it is gone.
  @Test func retryBesideClean() throws {
    for round in 0..<8 {
      let (run, worker, launcher) = try startWorker()
      end(worker)
      let cleaner = Thread {
        usleep(UInt32(round) * 200)
        _ = try? run.remove()
      }
      cleaner.start()
      let isRetried = (try? launcher.retry(run)) != nil
      while !cleaner.isFinished { usleep(1000) }
      #expect(FileManager.default.fileExists(atPath: run.path) == isRetried)
      if isRetried, let second = run.worker() {
        #expect(second.isAlive && run.summary().state == .running)
        end(second)
      }
      let hidden = try FileManager.default.contentsOfDirectory(atPath: root).filter {
        $0.hasPrefix(".")
      }
      #expect(hidden.isEmpty)
    }
  }

  /// The number of a dead worker belongs to another process by now, or its note is of another boot.
  @Test func anotherProcessIsNoWorker() throws {
    let (run, worker, _) = try startWorker()
    func note(_ change: (inout [String: Any]) -> Void) throws -> ProcessIdentity? {
      let data = try JSONEncoder().encode(worker)
      var table = try #require(try JSONSerialization.jsonObject(with: data) as? [String: Any])
      change(&table)
      try JSONSerialization.data(withJSONObject: table)
        .write(to: URL(fileURLWithPath: run.workerPath))
      return run.worker()
    }
    defer { end(worker) }
    #expect(try note { _ in }?.presence == .running)
    #expect(try note { $0["start_time"] = worker.startTime - 1 }?.presence == .gone)
    #expect(try note { $0["owner"] = worker.owner + 1 }?.presence == .gone)
    #expect(try note { $0["command"] = ["other"] + worker.command.dropFirst() }?.presence == .gone)
    #expect(run.summary().state == .lost)
    for key in ["host", "boot_id", "pid_namespace"] {
      let elsewhere = try #require(try note { $0[key] = "another" })
      #expect(elsewhere.presence == .unseen)
      let error = #expect(throws: FileError.self) { try elsewhere.signal(SIGKILL) }
      #expect(error?.message.contains("steer the run from there") == true)
    }
    // What names no worker of this run is no worker.
    #expect(try note { $0["command"] = ["sleep", "100"] } == nil)
    #expect(try note { $0["command"] = ["espalier", "worker", "/runs/another"] } == nil)
    for broken: Any in ["x", 1e300, [:] as [String: Any]] {
      #expect(try note { $0["pid"] = broken } == nil)
    }
    #expect(try note { $0["pid"] = -1 }?.presence == .gone)
    #expect(worker.presence == .running, "nobody was signalled")
  }

  /// A note that names a stranger's process, or the first one of the system, signals nobody.
  @Test func forgedWorkersAreNotSignalled() throws {
    let (run, worker, _) = try startWorker()
    end(worker)
    // Even if it is the worker of another run.
    let (_, stranger, _) = try startWorker()
    defer { end(stranger) }
    for pid in [1, 0, -1, stranger.pid] {
      let named = ProcessIdentity(pid: pid)
      for command in [["espalier", "worker", run.path], named?.command ?? []] {
        let note: [String: Any] = [
          "host": worker.host, "boot_id": worker.bootID, "pid_namespace": worker.pidNamespace,
          "pid": pid, "start_time": named?.startTime ?? 0, "owner": named?.owner ?? 0,
          "command": command,
        ]
        try JSONSerialization.data(withJSONObject: note)
          .write(to: URL(fileURLWithPath: run.workerPath))
        #expect(run.worker()?.isAlive != true)
        #expect((try? run.cancel(hard: true)) != .killed)
        #expect(throws: FileError.self) { try run.freeze() }
        #expect(throws: FileError.self) { try run.goOn() }
      }
    }
    let first = try #require(ProcessIdentity(pid: 1))
    #expect(throws: FileError.self) { try first.signal(0) }
    #expect(stranger.presence == .running)
  }

  @Test func livingWorkerKeepsItsRun() throws {
    let (run, worker, _) = try startWorker()
    let error = #expect(throws: FileError.self) { _ = try run.claim() }
    #expect(error?.message.contains("another process works on this run") == true)
    end(worker)
    let lock = try run.claim()
    #expect(throws: FileError.self) { _ = try run.claim() }
    withExtendedLifetime(lock) {}
  }

  @Test func missingExecutable() throws {
    let launcher = try RunLauncher(root: root, executable: "\(scratch.path)/absent")
    let error = #expect(throws: FileError.self) { try launcher.launch(scratch.request()) }
    #expect(error?.message.contains("cannot be started (No such file or directory)") == true)
    #expect(try FileManager.default.contentsOfDirectory(atPath: root).isEmpty)
  }

  @Test func processNames() {
    #expect(ProcessIdentity(pid: 0) == nil)
    #expect(ProcessIdentity(pid: -1) == nil)
    #expect(ProcessIdentity(pid: .max) == nil)
    #expect(ProcessIdentity(pid: getpid())?.isAlive == true)
  }
}
