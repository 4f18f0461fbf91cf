import Files
import Foundation
import Plans
import Runs
import TestSupport
import Testing

/// Runs that are another's, or whose files are not their own, and what killed commands leave.
@Suite struct RunOwnershipTests {
  let scratch: Scratch
  var root: String { scratch.path + "/runs" }

  init() throws { scratch = try Scratch() }

  private func run(queue: QueuePlace? = nil, onDone: String? = nil) throws -> RunDirectory {
    try RunDirectory.create(
      root: root,
      job: JobRequest(
        job: .distill(planPath: "plan.json"), name: "test", codeVersion: "0", modelHash: "c0ffee",
        queue: queue, onDone: onDone))
  }

  private func kind(of path: String) -> mode_t {
    var status = stat()
    return lstat(path, &status) == 0 ? status.st_mode & S_IFMT : 0
  }

  /// Every file that a worker writes, as a link to a victim, a FIFO, a directory.
  @Test func linksAndDevicesAreRefused() throws {
    let victim = try scratch.put("precious", "victim")
    let names = [
      ".reserve", "events.jsonl", "control.jsonl", "worker.json", "worker.lock", "log.txt",
      "run.json", "skipped.txt", "checkpoints/latest.safetensors", "samples/teacher.png",
      "tensorboard",
    ]
    for name in names {
      let run = try run()
      try run.append(Event(.started(pid: 1, totalSteps: 1)))
      let path = "\(run.path)/\(name)"
      let launcher = try RunLauncher(root: root, executable: "/bin/true")
      func expectRefusal(_ what: String) {
        for body in [
          { _ = try run.claim() }, { try launcher.retry(run) }, { _ = try run.remove() },
          { try run.pause() },
        ] as [() throws -> Void] {
          let error = #expect(throws: (any Error).self) { try body() }
          let text = error.map { "\($0)" } ?? ""
          // Without a request it is no run at all.
          #expect(text.contains(what) || name == "run.json", "\(name): \(text)")
        }
      }
      unlink(path)
      try FileManager.default.createSymbolicLink(atPath: path, withDestinationPath: victim)
      if name == "run.json" { continue }
      expectRefusal("\(path): is a symbolic link, expected a file of the run's own; remove it")
      run.reserveRoomForLastWords()
      unlink(path)
      #expect(mkfifo(path, 0o600) == 0)
      expectRefusal("\(path): is neither file nor directory")
      unlink(path)
      #expect(try String(contentsOfFile: victim, encoding: .utf8) == "precious", "\(name)")
    }
    let run = try run()
    unlink(run.eventsPath)
    mkdir(run.eventsPath, 0o700)
    #expect(throws: FileError.self) { _ = try run.claim() }
  }

  /// The room for last words never goes through a link, whoever made it and when.
  @Test func theReserveIsAFileOfItsOwn() throws {
    let victim = try scratch.put("precious", "victim")
    let run = try run()
    let path = run.path + "/.reserve"
    try FileManager.default.createSymbolicLink(atPath: path, withDestinationPath: victim)
    run.reserveRoomForLastWords()
    #expect(kind(of: path) == S_IFREG)
    #expect(try String(contentsOfFile: victim, encoding: .utf8) == "precious")
    run.releaseRoomForLastWords()
    #expect(kind(of: path) == 0)
  }

  /// Their commands are not ours to run; needs the right to give files away.
  @Test(.enabled(if: getuid() == 0)) func runsOfOthersAreLeftAlone() throws {
    let told = scratch.path + "/told"
    for place in ["", "/run.json"] {
      let run = try run(queue: QueuePlace(), onDone: "touch \(told)")
      try #require(chown(run.path + place, 12345, 12345) == 0)
      let launcher = try RunLauncher(root: root, executable: "/bin/true")
      for body in [
        { _ = try run.claim() }, { _ = try run.cancel() }, { _ = try run.cancel(hard: true) },
        { try run.pause() }, { _ = try run.remove(if: { _ in true }) }, { try run.setPriority(1) },
        { _ = try QueueRunner(launcher).drain() }, { try launcher.retry(run) },
      ] as [() throws -> Void] {
        let error = #expect(throws: FileError.self) { try body() }
        #expect(error?.message.contains("belongs to user 12345, not to you (0)") == true)
      }
      #expect(run.summary().state == .queued && kind(of: told) == 0)
      chown(run.path + place, 0, 0)
      #expect(try run.remove(if: { _ in true }))
    }
  }

  /// A worker holds its run until it has cleared up behind the last event; a retry waits for that, and for
  /// nothing else.
  @Test func aRetryWaitsForTheLastWorker() throws {
    let run = try run()
    try run.append(Event(.started(pid: 1, totalSteps: 1)))
    try run.append(Event(.finished(outcome: .cancelled, text: "cancelled at step 1")))
    let launcher = try RunLauncher(root: root, executable: "/bin/true")
    let holder = Process()
    holder.executableURL = URL(filePath: "/usr/bin/flock")
    holder.arguments = [run.lockPath, "sleep", "0.7"]
    try holder.run()
    while !FileLock.isHeld(run.lockPath) { usleep(1000) }
    try launcher.retry(run)
    #expect(run.worker() != nil && run.summary().end == nil)
    holder.waitUntilExit()
    // A worker that has ended and was not waited for would keep tests of exits waiting.
    while launcher.collect().isEmpty { usleep(1000) }
  }

  @Test func fileSystemsWithoutLocksAreNamed() {
    let error = FileLock.refused("/runs/x/worker.lock", errno: ENOLCK)
    #expect(
      error.message
        == "/runs/x/worker.lock: cannot be locked (No locks available); choose a directory"
        + " on a file system with locks, or let its lock service be started")
  }

  /// A clean or a launch that was killed half-way; those that are under way stay.
  @Test func leftoversAreSwept() throws {
    let run = try run()
    let removed = "\(root)/.20260101-000000-distill-a.removed"
    let draft = "\(root)/.20260101-000000-distill-b.tmp"
    let underWay = "\(root)/.20260101-000000-distill-c.tmp"
    for folder in [removed, draft, underWay] {
      try FileManager.default.createDirectory(
        atPath: folder + "/checkpoints", withIntermediateDirectories: true)
      try Data().write(to: URL(fileURLWithPath: folder + "/worker.lock"))
    }
    let lock = try #require(try FileLock.take(underWay + "/worker.lock"))
    RunDirectory.removeLeftovers(root: root)
    #expect(kind(of: removed) == 0 && kind(of: draft) == 0 && kind(of: underWay) == S_IFDIR)
    #expect(kind(of: run.path) == S_IFDIR)
    withExtendedLifetime(lock) {}
  }

  /// Every queued run begins, and ends, with the variables of whoever queued it, which nobody else reads.
  @Test func queuedRunsKeepTheirEnvironment() throws {
    let program = try scratch.put(
      """
      #!/bin/sh
      echo '{"kind":"started","pid":1,"t":1,"total_steps":9,"v":1}' >> "$2/events.jsonl"
      echo '{"kind":"finished","outcome":"done","t":1,"text":"","v":1}' >> "$2/events.jsonl"
      echo "$ESPALIER_TEST_SUBMITTER $0" > "$2/seen"
      """, "worker.sh", mode: 0o755)
    let launcher = try RunLauncher(root: root, executable: program)
    var runs: [RunDirectory] = []
    for name in ["one", "two"] {
      setenv("ESPALIER_TEST_SUBMITTER", name, 1)
      runs.append(try run(queue: QueuePlace(), onDone: "true"))
      let path = runs.last.map { $0.path + "/environment.json" } ?? ""
      var status = stat()
      #expect(lstat(path, &status) == 0 && status.st_mode & 0o777 == 0o600)
    }
    setenv("ESPALIER_TEST_SUBMITTER", "runner", 1)
    defer { unsetenv("ESPALIER_TEST_SUBMITTER") }
    #expect(try QueueRunner(launcher, interval: 1000).drain())
    for (run, name) in zip(runs, ["one", "two"]) {
      let seen = try String(contentsOfFile: run.path + "/seen", encoding: .utf8)
      #expect(seen == "\(name) \(program)\n")
    }
    // A withdrawn one keeps nothing.
    let withdrawn = try run(queue: QueuePlace())
    #expect(try withdrawn.cancel() == .withdrawn)
    #expect(kind(of: withdrawn.path + "/environment.json") == 0)
  }

}
