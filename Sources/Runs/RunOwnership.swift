import Files
import Foundation

/// Who may do what to a run: its worker and every command that starts, retries, cancels or removes it hold
/// the same lock, and nobody touches the runs of others.
extension RunDirectory {
  /// Locked by whoever changes what becomes of the run, and by its worker for as long as that lives.
  package var lockPath: String { "\(path)/worker.lock" }
  /// Which process works or worked on the run.
  package var workerPath: String { "\(path)/worker.json" }

  /// The process that works or worked on the run; `nil` before the first, and for a record that names
  /// something else than a worker of this run.
  package func worker() -> ProcessIdentity? {
    guard let found: ProcessIdentity = try? read(workerPath), found.command.count > 2,
      found.command[found.command.count - 2] == "worker",
      found.command.last.map({ AtomicFile.name(of: $0) }) == id
    else { return nil }
    return found
  }

  /// The descriptor on which a worker inherits the lock of its run from whoever started it.
  package static let inheritedLock: Int32 = 3

  /// Takes the run's lock.
  ///
  /// - Parameter inherited: A descriptor of the lock that this process was started with.
  /// - Returns: The lock; nil while another process has it.
  /// - Throws: `RunError` for a run of another user, and one with links or devices among its files;
  ///   `FileError` when the file system has no locks.
  func lock(inherited: Int32? = nil) throws -> FileLock? {
    try requireOwn()
    // A process that was just killed, or a child that has yet to become another program, may have it for
    // a moment longer.
    for _ in 0..<20 {
      if let lock = try FileLock.take(lockPath, inherited: inherited) { return lock }
      usleep(5_000)
    }
    return nil
  }

  /// Does something under the run's lock.
  ///
  /// - Returns: What `body` returns; nil, without calling it, while another process has the lock.
  /// - Throws: What `body` throws, and as `lock` does.
  func withLock<Result>(_ body: () throws -> Result) throws -> Result? {
    guard let lock = try lock() else { return nil }
    return try withExtendedLifetime(lock) { try body() }
  }

  /// Says that another process has the lock.
  var busy: RunError {
    RunError(
      "\(path): another process works on this run (its worker, the command for its end, or another retry"
        + " or clean); wait until it has ended, or cancel the run")
  }

  /// Makes this process the run's worker for as long as it keeps the lock.
  ///
  /// - Parameter inherited: A descriptor of the lock that this process was started with, if any.
  /// - Returns: The lock.
  /// - Throws: `RunError` while another process works on it or for a run of another user,
  ///   `FileError` when the disk fails.
  package func claim(inherited: Int32? = nil) throws -> FileLock {
    guard let own = ProcessIdentity(pid: getpid()) else {
      throw RunError("\(path): this system has no /proc, which workers need; mount it")
    }
    guard let lock = try lock(inherited: inherited) else { throw busy }
    if let other = worker(), other != own {
      guard other.presence == .gone || summary().state.isEnded else { throw busy }
      try dropRequests()
    }
    try record(own)
    return lock
  }

  /// Notes which process is the run's worker.
  func record(_ worker: ProcessIdentity) throws { try write(worker, to: workerPath) }

  /// Refuses a run of another user, whose commands this one must not run, and what `requirePlainFiles`
  /// refuses.
  ///
  /// - Throws: `RunError`.
  func requireOwn() throws {
    var status = stat()
    for place in [path, requestPath] where lstat(place, &status) == 0 && status.st_uid != geteuid()
    {
      throw RunError(
        "\(place): belongs to user \(status.st_uid), not to you (\(geteuid())); only its owner starts,"
          + " steers and removes this run")
    }
    try requirePlainFiles()
  }

  /// Refuses a run whose files are no files of its own: what is written to them would land elsewhere or
  /// never arrive.
  ///
  /// - Throws: `RunError`.
  package func requirePlainFiles() throws {
    var status = stat()
    let plain: Set = [
      requestPath, planPath, eventsPath, controlPath, workerPath, lockPath, logPath,
      environmentPath,
    ]
    for case let name as String in FileManager.default.enumerator(atPath: path) ?? .init() {
      let place = "\(path)/\(name)"
      guard lstat(place, &status) == 0 else { continue }
      switch status.st_mode & S_IFMT {
      case S_IFREG: continue
      case S_IFDIR where !plain.contains(place): continue
      case let kind:
        throw RunError(
          "\(place): is \(Self.name(ofKind: kind)), expected a file of the run's own; remove it, or put"
            + " the file back that it stands for")
      }
    }
  }

  private static func name(ofKind kind: mode_t) -> String {
    switch kind {
    case S_IFLNK: "a symbolic link"
    case S_IFDIR: "a directory"
    default: "neither file nor directory"
    }
  }

  // MARK: - The environment of a queued run

  /// The variables of whoever queued the run, for its worker and its command; readable by its owner alone,
  /// and removed at its end.
  var environmentPath: String { "\(path)/environment.json" }

  /// Keeps this process's variables for the time when the run gets its turn.
  func keepEnvironment() throws {
    let data = try JSONEncoder().encode(ProcessInfo.processInfo.environment)
    try AtomicFile.write(data, to: environmentPath, followingLinks: false, permissions: 0o600)
  }

  /// The variables that the run's processes get: those of whoever queued it, else this process's.
  ///
  /// - Throws: `RunError` if what was kept is damaged.
  func environment() throws -> [String: String] {
    guard access(environmentPath, F_OK) == 0 else { return ProcessInfo.processInfo.environment }
    return try read(environmentPath)
  }

  // MARK: - Removal

  /// Removes the run if it is still what it was when somebody decided so.
  ///
  /// - Parameter isMeant: Whether a run in this state shall go; called when nobody else can change it.
  /// - Returns: Whether it is gone; a run that another process works on stays.
  /// - Throws: `RunError` when it cannot be removed or belongs to another user.
  @discardableResult
  package func remove(if isMeant: (RunSummary) -> Bool = { $0.state.isEnded }) throws -> Bool {
    let doomed = "\(root)/.\(id).removed"
    let isRenamed = try withLock {
      guard isMeant(summary()) else { return false }
      guard rename(path, doomed) == 0 else {
        throw RunError(
          "\(path): cannot be removed (\(String(cString: strerror(errno)))); check its permissions")
      }
      return true
    }
    guard isRenamed == true else { return false }
    try Self.delete(doomed)
    return true
  }

  /// Removes what commands that were killed have left below a root: runs that were being made or removed.
  package static func removeLeftovers(root: String) {
    for name in (try? FileManager.default.contentsOfDirectory(atPath: root)) ?? [] {
      let place = "\(root)/\(name)"
      var status = stat()
      guard name.hasPrefix("."), name.hasSuffix(".removed") || name.hasSuffix(".tmp"),
        lstat(place, &status) == 0, status.st_mode & S_IFMT == S_IFDIR, status.st_uid == geteuid()
      else { continue }
      if name.hasSuffix(".tmp") {
        // Whoever makes a run holds its lock from the beginning.
        let lock = RunDirectory(path: place).lockPath
        let isYoung = access(lock, F_OK) != 0 && time(nil) - status.st_mtim.tv_sec < 60
        if isYoung || FileLock.isHeld(lock) { continue }
      }
      try? delete(place)
    }
  }

  private static func delete(_ doomed: String) throws {
    do {
      try FileManager.default.removeItem(atPath: doomed)
    } catch  where access(doomed, F_OK) == 0 {
      throw RunError("\(doomed): cannot be removed wholly; remove it by hand")
    } catch {
      // Another clean has removed the rest.
    }
  }
}
