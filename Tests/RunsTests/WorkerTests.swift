import Foundation
import Runs
import TestSupport
import Testing

/// Real processes: a shell script stands in for the worker.
@Suite(.serialized) struct WorkerTests {
  let scratch: Scratch
  let run: RunDirectory

  init() throws {
    scratch = try Scratch()
    run = try scratch.run()
  }

  /// Starts a script as the worker and waits for its first event.
  private func startWorker() throws -> Int32 {
    let script = try scratch.put(
      """
      #!/bin/sh
      echo "$1 works on $2"
      echo "a complaint" >&2
      echo '{"kind":"started","pid":1,"t":1,"total_steps":9,"v":1}' >> "$2/events.jsonl"
      exec sleep 1000
      """, "worker.sh", mode: 0o755)
    let pid = try WorkerLauncher.start(executable: script, run: run)
    var isStarted = false
    for _ in 0..<3000 where !isStarted {
      var offset: UInt64 = 0
      isStarted = !run.readEvents(after: &offset).isEmpty
      if !isStarted { usleep(10_000) }
    }
    try #require(isStarted, "the worker wrote no event")
    return pid
  }

  @Test func workerIsDetached() throws {
    // A descriptor that must not leak into the worker.
    let leak = open("/dev/zero", O_RDONLY)
    defer { close(leak) }
    let pid = try startWorker()
    defer {
      kill(pid, SIGKILL)
      waitpid(pid, nil, 0)
    }
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
    #expect(run.logTail() == "worker works on \(run.path)\na complaint\n")
    #expect(run.worker()?.pid == pid)
    #expect(run.summary().state == .running)
  }

  @Test func stoppedWorkerIsFrozen() throws {
    let pid = try startWorker()
    defer {
      kill(pid, SIGKILL)
      waitpid(pid, nil, 0)
    }
    let worker = try #require(run.worker())
    try worker.signal(SIGSTOP)
    while !worker.isStopped { usleep(1000) }
    let status = run.summary()
    #expect(status.state == .frozen && !status.isSilent)
    try worker.signal(SIGCONT)
    while worker.isStopped { usleep(1000) }
    #expect(run.summary().state == .running)
  }

  @Test func killedWorkerIsLost() throws {
    let pid = try startWorker()
    #expect(run.summary().state == .running)
    kill(pid, SIGKILL)
    // Wait for its death without collecting it: a zombie is as dead as can be.
    var info = siginfo_t()
    #expect(waitid(P_PID, id_t(pid), &info, WEXITED | WNOWAIT) == 0)
    #expect(run.summary().state == .lost)
    #expect(WorkerLauncher.reap(pid))
    #expect(run.summary().state == .lost)
  }

  /// The number of a dead worker belongs to another process by now: this one.
  @Test func reusedProcessNumberIsLost() throws {
    try run.append(Event(.started(pid: getpid(), totalSteps: 9), time: 1000))
    let longAgo = timeval(tv_sec: 1000, tv_usec: 0)
    utimes(run.eventsPath, [longAgo, longAgo])
    try run.claim()
    #expect(run.summary().state == .running)
    let own = try #require(ProcessIdentity(pid: getpid()))
    for other in [
      ProcessIdentity(pid: own.pid, startTime: own.startTime - 1, bootID: own.bootID),
      ProcessIdentity(pid: own.pid, startTime: own.startTime, bootID: "another boot"),
    ] {
      try JSONEncoder().encode(other).write(to: URL(fileURLWithPath: run.workerPath))
      #expect(run.summary().state == .lost)
    }
    // Such a run can be taken up again.
    try run.claim()
    #expect(run.worker() == own)
  }

  @Test func livingWorkerKeepsItsRun() throws {
    let pid = try startWorker()
    let error = #expect(throws: RunError.self) { try run.claim() }
    #expect(error?.message.contains("process \(pid) already works") == true)
    kill(pid, SIGKILL)
    waitpid(pid, nil, 0)
    try run.claim()
  }

  @Test func missingExecutable() throws {
    let error = #expect(throws: RunError.self) {
      try WorkerLauncher.start(executable: "\(scratch.path)/absent", run: run)
    }
    #expect(error?.message.contains("cannot be started (No such file or directory)") == true)
    #expect(run.summary().state == .queued)
  }

  @Test func processNames() {
    #expect(ProcessIdentity(pid: 0) == nil)
    #expect(ProcessIdentity(pid: -1) == nil)
    #expect(ProcessIdentity(pid: .max) == nil)
    #expect(ProcessIdentity(pid: getpid())?.isAlive == true)
  }
}
