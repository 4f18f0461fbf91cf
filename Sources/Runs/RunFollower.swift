import Files
import Foundation
import Plans

/// Reads one run from outside, without ever reading an event twice.
///
/// What it has read is kept beside the log (`summary.json`, and `curves.json` with the losses) where that
/// belongs to this user, so that the next reader goes on from there.
package struct RunFollower: Sendable {
  /// The run.
  package let run: RunDirectory
  /// What the log tells up to the last poll; without losses by step unless they are kept.
  package private(set) var history = RunHistory()
  /// Whether all complete lines of the log were read.
  package private(set) var isAtEnd = false
  /// Whether losses by step are kept.
  package let keepsCurves: Bool

  private var scanner: EventScanner
  private var request = (stamp: FileStamp?.none, value: JobRequest?.none, fault: String?.none)
  private var log: FileStamp?
  /// Bytes of the log that were read, and as many of them as the files beside it cover.
  private(set) var offset: UInt64 = 0
  private var covered: UInt64 = 0
  /// When the log was seen to grow.
  private var grownAt: ContinuousClock.Instant?

  /// Bytes of the log beyond which what was read of them is kept on disk.
  private static let summaryInterval: UInt64 = 1 << 18
  private static let curvesInterval: UInt64 = 1 << 22
  /// Bytes of the log that one poll reads at most.
  package static let logLimit = 8 << 30

  /// Follows a run from its beginning.
  ///
  /// - Parameters:
  ///   - run: The run.
  ///   - keepsCurves: Whether its losses by step are wanted.
  package init(_ run: RunDirectory, keepsCurves: Bool = false) {
    self.run = run
    self.keepsCurves = keepsCurves
    scanner = EventScanner(readsSites: keepsCurves)
  }

  /// Takes the events since the last poll and tells how the run is now.
  ///
  /// - Parameters:
  ///   - now: The present.
  ///   - limit: Bytes of the log after which reading stops for now.
  /// - Returns: The run as it is now.
  package mutating func poll(now: Date = Date(), limit: Int = logLimit) -> RunSummary {
    // The worker first: one that ends in between has by then written its last event.
    let worker = run.workerPresence()
    readRequest()
    let fault = readLog(limit: limit)
    if isAtEnd { save(beyond: keepsCurves ? Self.curvesInterval : Self.summaryInterval) }
    var seen = history.summary.seen(worker: worker, now: now, quiet: quiet(now))
    // One that is being killed is not lost.
    if seen.state == .lost, run.hasRequest(.kill) { seen.state = .cancelled }
    seen.id = run.id
    seen.name = request.value?.name ?? run.id
    seen.kind = request.value?.job.kind
    seen.modelHash = request.value?.modelHash ?? ""
    (seen.createdAt, seen.place) = (request.value?.createdAt, request.value?.queue)
    seen.damage = request.fault ?? fault
    return seen
  }

  /// Keeps what was read on disk, where it is more than some bytes of the log beyond what is kept there.
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

  /// Reads what was appended; what is wrong with the log, in a sentence.
  private mutating func readLog(limit: Int) -> String? {
    let path = run.eventsPath
    let found = FileStamp(path)
    // Another file, or one that was cut off, is another log.
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

  /// Takes over what an earlier reader has kept on disk.
  private mutating func restore() {
    if keepsCurves {
      guard let kept = run.curvesCache.read(), kept.content.isPlausible else { return }
      (history, offset, covered) = (kept.content, kept.offset, kept.offset)
    } else {
      guard let kept = run.summaryCache.read(), kept.content.isPlausible else { return }
      (history.summary, offset, covered) = (kept.content, kept.offset, kept.offset)
    }
  }

  /// Seconds since the log grew, by this process's clock and by the file's time.
  private func quiet(_ now: Date) -> Double {
    let seen = grownAt.map { ($0.duration(to: .now)) / .seconds(1) } ?? .infinity
    let written = log.map { abs(now.timeIntervalSince1970 - $0.time) } ?? .infinity
    return min(seen, written)
  }
}

/// What tells a version of a file from others without reading it.
struct FileStamp: Equatable, Sendable {
  private let device, number: UInt64
  /// Bytes.
  let size: UInt64
  /// When it was changed, in seconds since 1970.
  let time: Double
  /// Whether it is no directory, device, FIFO or socket.
  let isRegular: Bool

  /// Looks at the file at a path, through symbolic links; nil when there is none.
  init?(_ path: String) {
    var status = stat()
    guard stat(path, &status) == 0 else { return nil }
    (device, number) = (UInt64(status.st_dev), UInt64(status.st_ino))
    size = UInt64(status.st_size)
    time = Double(status.st_mtim.tv_sec) + Double(status.st_mtim.tv_nsec) / 1e9
    isRegular = status.st_mode & S_IFMT == S_IFREG
  }

  /// Whether it is the same file, perhaps changed since.
  func isSameFile(as other: FileStamp) -> Bool {
    (device, number) == (other.device, other.number)
  }
}

extension RunDirectory {
  /// The run as it is now.
  package func summary(now: Date = Date()) -> RunSummary {
    var follower = RunFollower(self)
    return follower.poll(now: now)
  }

  /// What all of the run's events tell, with the losses by step.
  package func history() -> RunHistory {
    var follower = RunFollower(self, keepsCurves: true)
    _ = follower.poll()
    return follower.history
  }

  /// Keeps what the log tells beside it, for readers to come.
  package func keepSummary() {
    var follower = RunFollower(self, keepsCurves: true)
    _ = follower.poll()
    follower.save()
  }

  /// What was read of the log, kept for the next reader.
  fileprivate var summaryCache: LogCache<RunSummary> {
    LogCache(path: "\(path)/summary.json", logPath: eventsPath)
  }

  /// The same with the losses by step.
  fileprivate var curvesCache: LogCache<RunHistory> {
    LogCache(path: "\(path)/curves.json", logPath: eventsPath)
  }

  /// Whether the directory belongs to the user of this process.
  fileprivate var isOwn: Bool {
    var status = stat()
    return stat(path, &status) == 0 && status.st_uid == geteuid()
  }
}
