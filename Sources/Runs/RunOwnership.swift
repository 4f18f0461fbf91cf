import Files
import Foundation

/// Locking and ownership of runs: the worker and all commands that start, retry, cancel or remove a
/// run hold the same lock; runs of other users are not changed.
extension RunDirectory {
  /// Lock file, held by the worker during its lifetime and by commands that change the state of the
  /// run.
  package var lockPath: String { "\(path)/worker.lock" }
  /// Record of the current or last worker.
  package var workerPath: String { "\(path)/worker.json" }

  /// Reads the current or last worker; nil before the first, and for a record of another process.
  package func worker() -> ProcessIdentity? {
    guard let found: ProcessIdentity = try? read(workerPath), found.command.count > 2,
      found.command.dropLast().contains(where: ["worker", "espalier_torch"].contains),
      found.command.last.map({ AtomicFile.name(of: $0) }) == id
    else { return nil }
    return found
  }

  /// Descriptor on which a worker inherits the lock of its run.
  package static let inheritedLock: Int32 = 3

  /// Takes the run's lock.
  ///
  /// - Returns: The lock; nil if another process holds it.
  /// - Throws: `FileError` for a run of another user, and one with links or devices among its files;
  ///   `FileError` when the file system has no locks.
  func lock(inherited: Int32? = nil) throws -> FileLock? {
    try requireOwn()
    // A killed process, or a forked child before exec, may hold the lock briefly.
    for _ in 0..<20 {
      if let lock = try FileLock.take(lockPath, inherited: inherited) { return lock }
      usleep(5_000)
    }
    return nil
  }

  /// Takes the lock for another worker; waits for the worker of a run that has just ended and still clears up: its
  /// engine ends, and what is to be fetched comes.
  ///
  /// - Returns: The lock; nil if another process works on the run.
  /// - Throws: As `lock` does.
  func lockForWorker() throws -> FileLock? {
    let end = ContinuousClock.now + .seconds(30)
    while true {
      if let lock = try lock() { return lock }
      guard summary().state.isEnded, ContinuousClock.now < end else { return nil }
    }
  }

  /// Calls `body` with the lock of the run.
  ///
  /// - Returns: The result of `body`; nil, without calling it, if another process holds the lock.
  /// - Throws: Errors of `body`, and as `lock` does.
  func withLock<Result>(_ body: () throws -> Result) throws -> Result? {
    guard let lock = try lock() else { return nil }
    return try withExtendedLifetime(lock) { try body() }
  }

  /// Error for a lock held by another process.
  var busy: FileError {
    FileError(
      "\(path): another process works on this run (its worker, the command for its end, or another retry"
        + " or clean); wait until it has ended, or cancel the run")
  }

  /// Makes this process the worker of the run while it holds the lock.
  ///
  /// - Returns: The lock.
  /// - Throws: `FileError` while another process works on it or for a run of another user,
  ///   `FileError` when the disk fails.
  package func claim(inherited: Int32? = nil) throws -> FileLock {
    guard let own = ProcessIdentity(pid: getpid()) else {
      throw FileError("\(path): this system has no /proc, which workers need; mount it")
    }
    guard let lock = try lock(inherited: inherited) else { throw busy }
    if let other = worker(), other != own {
      guard other.presence == .gone || summary().state.isEnded else { throw busy }
      try dropRequests()
    }
    try record(own)
    return lock
  }

  /// Records the worker of the run.
  func record(_ worker: ProcessIdentity) throws { try write(worker, to: workerPath) }

  /// Checks that the run belongs to this user, because its hook command would run as this user, and
  /// calls `requirePlainFiles`.
  ///
  /// - Throws: `FileError`.
  func requireOwn() throws {
    var status = stat()
    for place in [path, requestPath] where lstat(place, &status) == 0 && status.st_uid != geteuid()
    {
      throw FileError(
        "\(place): belongs to user \(status.st_uid), not to you (\(geteuid())); only its owner starts,"
          + " steers and removes this run")
    }
    try requirePlainFiles()
  }

  /// Checks that the files of the run are not links or devices, to which writes would go elsewhere
  /// or block.
  ///
  /// - Throws: `FileError`.
  package func requirePlainFiles() throws {
    var status = stat()
    let plain: Set = [
      requestPath, planPath, eventsPath, controlPath, workerPath, lockPath, logPath,
      environmentPath, notesPath, linkPath,
    ]
    for case let name as String in FileManager.default.enumerator(atPath: path) ?? .init() {
      let place = "\(path)/\(name)"
      guard lstat(place, &status) == 0 else { continue }
      switch status.st_mode & S_IFMT {
      case S_IFREG: continue
      case S_IFDIR where !plain.contains(place): continue
      case let kind:
        throw FileError(
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

  /// Environment in which the run was queued, for its worker and hook; readable by its owner only,
  /// and removed at its end.
  var environmentPath: String { "\(path)/environment.json" }

  /// Saves the environment of this process for the start of a queued run.
  func keepEnvironment() throws {
    let data = try JSONEncoder().encode(ProcessInfo.processInfo.environment)
    try AtomicFile.write(data, to: environmentPath, followingLinks: false, permissions: 0o600)
  }

  /// Returns the environment of the run's processes: the saved one, otherwise that of this process.
  ///
  /// - Throws: `FileError` if the saved environment is damaged.
  func environment() throws -> [String: String] {
    guard access(environmentPath, F_OK) == 0 else { return ProcessInfo.processInfo.environment }
    return try read(environmentPath)
  }

  // MARK: - Removal

  /// Removes the run if `isMeant` confirms its current state.
  ///
  /// - Parameter isMeant: Whether to remove a run in this state; called while the run is locked.
  /// - Returns: Whether it was removed; a run locked by another process is not.
  /// - Throws: `FileError` when it cannot be removed or belongs to another user.
  @discardableResult
  package func remove(if isMeant: (RunSummary) -> Bool = { $0.state.isEnded }) throws -> Bool {
    let doomed = "\(root)/.\(id).removed"
    let isRenamed = try withLock {
      guard isMeant(summary()) else { return false }
      guard rename(path, doomed) == 0 else {
        throw FileError(
          "\(path): cannot be removed (\(String(cString: strerror(errno)))); check its permissions")
      }
      return true
    }
    guard isRenamed == true else { return false }
    try Self.delete(doomed)
    return true
  }

  /// Removes incomplete runs of killed commands from a root.
  package static func removeLeftovers(root: String) {
    for name in (try? FileManager.default.contentsOfDirectory(atPath: root)) ?? [] {
      let place = "\(root)/\(name)"
      var status = stat()
      guard name.hasPrefix("."), name.hasSuffix(".removed") || name.hasSuffix(".tmp"),
        lstat(place, &status) == 0, status.st_mode & S_IFMT == S_IFDIR, status.st_uid == geteuid()
      else { continue }
      if name.hasSuffix(".tmp") {
        // A run that is being created is locked.
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
      throw FileError("\(doomed): cannot be removed wholly; remove it by hand")
    } catch {
      // The remaining files were removed by another process.
    }
  }
}
