import Files
import Foundation
import Plans

/// Incremental reader of one run.
///
/// The content read is cached next to the log (`summary.json`, and `curves.json` with the losses)
/// if the run belongs to this user, so that the next reader continues from there.
package struct RunFollower: Sendable {
  /// The run.
  package let run: RunDirectory
  /// History up to the last poll; with losses by step only if `keepsCurves`.
  package private(set) var history = RunHistory()
  /// Whether all complete lines of the log were read.
  package private(set) var isAtEnd = false
  /// Whether losses by step are kept.
  package let keepsCurves: Bool

  private var scanner: EventScanner
  private var request = (stamp: FileStamp?.none, value: JobRequest?.none, fault: String?.none)
  private var notes = (stamp: FileStamp?.none, value: RunAnnotation(), fault: String?.none)
  private var link = (stamp: FileStamp?.none, value: RunLink?.none)
  private var log: FileStamp?
  /// Offsets up to which the log was read and cached.
  private(set) var offset: UInt64 = 0
  private var covered: UInt64 = 0
  /// Time when growth of the log was last observed.
  private var grownAt: ContinuousClock.Instant?

  /// Number of bytes read after which the cache is written.
  private static let summaryInterval: UInt64 = 1 << 18
  private static let curvesInterval: UInt64 = 1 << 22
  /// Maximum number of bytes read per poll.
  package static let logLimit = 8 << 30

  /// Follows a run from its beginning.
  package init(_ run: RunDirectory, keepsCurves: Bool = false) {
    self.run = run
    self.keepsCurves = keepsCurves
    scanner = EventScanner(readsSites: keepsCurves)
  }

  /// Reads the events since the last poll and returns the current state.
  ///
  /// - Returns: The current summary of the run.
  package mutating func poll(now: Date = Date(), limit: Int = logLimit) -> RunSummary {
    // The worker is checked first: if it ends afterwards, it has written its final event before the
    // log is read.
    let worker = run.workerPresence()
    readRequest()
    readAnnotation()
    let fault = readLog(limit: limit)
    if isAtEnd { save(beyond: keepsCurves ? Self.curvesInterval : Self.summaryInterval) }
    readLink()
    var seen = history.summary.seen(
      worker: worker, now: now, quiet: quiet(now), link: link.value)
    // A worker that is being killed is not lost.
    if seen.state == .lost, run.hasRequest(.kill) { seen.state = .cancelled }
    seen.id = run.id
    seen.name = request.value?.name ?? run.id
    seen.kind = request.value?.job.kind
    seen.modelHash = request.value?.modelHash ?? ""
    (seen.createdAt, seen.place) = (request.value?.createdAt, request.value?.queue)
    seen.chain = request.value?.chain
    seen.annotation = notes.value
    seen.engine = request.value?.engine
    if seen.state == .running, seen.engine != nil, !seen.isStarted, seen.label == nil {
      seen.state = .starting
    }
    seen.damage = request.fault ?? fault ?? notes.fault
    return seen
  }

  /// Writes the cache if it lags by more than `interval` bytes.
  package mutating func save(beyond interval: UInt64 = 0) {
    guard offset > covered + interval, run.isOwn else { return }
    if keepsCurves { try? run.curvesCache.write(history, offset: offset) }
    try? run.summaryCache.write(history.summary, offset: offset)
    covered = offset
  }

  private mutating func readRequest() {
    let stamp = FileStamp(run.requestPath)
    guard stamp == nil || stamp != request.stamp else { return }
    do {
      request = (stamp, try run.request(), nil)
    } catch {
      request = (stamp, nil, "\(error)")
    }
  }

  private mutating func readLink() {
    let stamp = FileStamp(run.linkPath)
    guard stamp != link.stamp else { return }
    // An unreadable one is read again at the next poll.
    guard let value = try? run.openLink() else {
      link = (nil, nil)
      return
    }
    link = (stamp, value)
  }

  private mutating func readAnnotation() {
    let stamp = FileStamp(run.notesPath)
    guard stamp != notes.stamp else { return }
    do {
      notes = (stamp, try run.annotation(), nil)
    } catch {
      notes = (stamp, RunAnnotation(), "\(error)")
    }
  }

  /// Reads appended events; returns a sentence if the log is faulty.
  private mutating func readLog(limit: Int) -> String? {
    let path = run.eventsPath
    let found = FileStamp(path)
    // A replaced or truncated file is read from its start.
    if let log, found?.isSameFile(as: log) != true || found.map({ $0.size < offset }) ?? true {
      (history, offset, covered, self.log, grownAt) = (RunHistory(), 0, 0, nil, nil)
    }
    isAtEnd = true
    guard let found else { return nil }
    guard found.isRegular else { return "\(path): is no regular file, so the run has no log" }
    if log == nil { restore() } else if found.size != log?.size { grownAt = .now }
    log = found
    if found.size > offset {
      var (history, scanner) = (RunHistory(), scanner)
      swap(&history, &self.history)
      let keepsCurves = keepsCurves
      let reading = LineLog(path: path).read(after: &offset, limit: limit) { line in
        if let event = scanner.event(in: line) {
          if keepsCurves { history.apply(event) } else { history.summary.apply(event) }
        } else if !line.isEmpty {
          history.summary.damagedLines += 1
        }
      }
      history.summary.damagedLines += reading.damaged
      (isAtEnd, self.scanner, self.history) = (reading.isAtEnd, scanner, history)
    }
    if !isAtEnd, limit == Self.logLimit {
      return "\(path): has more than \(limit >> 30) GiB, of which the rest is not read"
    }
    let damaged = history.summary.damagedLines
    return damaged == 0
      ? nil : "\(path): \(damaged == 1 ? "1 line is" : "\(damaged) lines are") damaged and left out"
  }

  /// Restores the cache of an earlier reader.
  private mutating func restore() {
    if keepsCurves {
      guard let kept = run.curvesCache.read(), kept.content.isPlausible else { return }
      (history, offset, covered) = (kept.content, kept.offset, kept.offset)
    } else {
      guard let kept = run.summaryCache.read(), kept.content.isPlausible else { return }
      (history.summary, offset, covered) = (kept.content, kept.offset, kept.offset)
    }
  }

  /// Seconds since the log grew, by the clock of this process and the modification time.
  private func quiet(_ now: Date) -> Double {
    let seen = grownAt.map { ($0.duration(to: .now)) / .seconds(1) } ?? .infinity
    let written = log.map { abs(now.timeIntervalSince1970 - $0.time) } ?? .infinity
    return min(seen, written)
  }
}

/// Attributes that identify a version of a file without reading it.
struct FileStamp: Equatable, Sendable {
  private let device, number: UInt64
  /// Size in bytes.
  let size: UInt64
  /// Modification time in seconds since 1970.
  let time: Double
  /// Whether it is a regular file.
  let isRegular: Bool

  /// Reads the attributes of a file, following links; nil if it is missing.
  init?(_ path: String) {
    var status = stat()
    guard stat(path, &status) == 0 else { return nil }
    (device, number) = (UInt64(status.st_dev), UInt64(status.st_ino))
    size = UInt64(status.st_size)
    time = Double(status.st_mtim.tv_sec) + Double(status.st_mtim.tv_nsec) / 1e9
    isRegular = status.st_mode & S_IFMT == S_IFREG
  }

  /// Whether it is the same file, possibly changed.
  func isSameFile(as other: FileStamp) -> Bool {
    (device, number) == (other.device, other.number)
  }
}

extension RunDirectory {
  /// Reads the current summary of the run.
  package func summary(now: Date = Date()) -> RunSummary {
    var follower = RunFollower(self)
    return follower.poll(now: now)
  }

  /// Reads the whole history with the losses by step.
  package func history() -> RunHistory {
    var follower = RunFollower(self, keepsCurves: true)
    _ = follower.poll()
    return follower.history
  }

  /// Writes the cache for later readers.
  package func keepSummary() {
    var follower = RunFollower(self, keepsCurves: true)
    _ = follower.poll()
    follower.save()
  }

  /// Cache of the summary.
  fileprivate var summaryCache: LogCache<RunSummary> {
    LogCache(path: "\(path)/summary.json", logPath: eventsPath)
  }

  /// Cache of the history with the losses by step.
  fileprivate var curvesCache: LogCache<RunHistory> {
    LogCache(path: "\(path)/curves.json", logPath: eventsPath)
  }

  /// Whether the directory belongs to the user of this process.
  fileprivate var isOwn: Bool {
    var status = stat()
    return stat(path, &status) == 0 && status.st_uid == geteuid()
  }
}
