import Files
import Foundation

/// Link of a run to its engine in another run directory, on this or another host (`link.json`).
///
/// While a run is linked, its log is a prefix of the one at the other end, so nothing else is
/// appended to it here: what a retry has to say goes to the other end with the next start.
package struct RunLink: Codable, Equatable, Sendable {
  /// State of a link as its worker last knew it.
  package enum State: String, Codable, Sendable {
    /// The run is being sent and started.
    case starting
    /// The run waits in the queue of a cluster, for the reason given.
    case pending
    /// The log is being followed.
    case connected
    /// The other end does not answer, for the reason given.
    case unreachable
    /// The run has ended, and what was to be fetched is here.
    case closed
  }

  /// Which files of a run are fetched besides images and operators.
  package enum FetchPolicy: String, Codable, CaseIterable, Sendable {
    /// No others.
    case operators
    /// Models, at the end.
    case models
    /// Models and all checkpoints, at the end.
    case all
  }

  /// The other end, for people: an ssh destination, or `this host`.
  package let host: String
  /// Path of the run at the other end.
  package let place: String
  /// What is fetched.
  package var fetch: FetchPolicy
  /// Number of the last start that was asked for; the other end starts none twice.
  package var attempt: Int
  /// Whether the other end has confirmed it.
  package var isStarted = false
  /// State of the link.
  package var state = State.starting
  /// Reason of a state, in words.
  package var reason: String?
  /// Time since the state holds, in seconds since 1970.
  package var since = Date().timeIntervalSince1970
  /// Messages for the log, sent with the start.
  package var messages: [String] = []
  /// Step of the kept checkpoint to go back to at the start; nil for the latest.
  package var step: Int?
  /// Versions of the files that were fetched, by path.
  package var fetched: [String: String] = [:]
  /// Whether the run goes on with another engine, so that the next link begins anew.
  package var isSevered = false

  /// Makes the first link of a run, or the one after a severed one.
  package init(host: String, place: String, fetch: FetchPolicy, attempt: Int = 1) {
    (self.host, self.place, self.fetch, self.attempt) = (host, place, fetch, attempt)
  }

  /// Asks for another start, with what its log has to say about it.
  mutating func startAgain(saying messages: [String], from step: Int?) {
    (self.messages, self.step, isStarted) = (messages, step, false)
    (state, reason, attempt) = (.starting, nil, attempt + 1)
  }

  /// Whether the log here may still grow by what the other end says.
  package var isOpen: Bool { state != .closed }

  private enum CodingKeys: String, CodingKey {
    case host, place, fetch, attempt
    case isStarted = "started"
    case state, reason, since, messages, step, fetched
    case isSevered = "severed"
  }
}

extension RunDirectory {
  /// Record of the link of a run to its engine elsewhere.
  package var linkPath: String { "\(path)/link.json" }

  /// Reads the link; nil for a run of this directory alone.
  ///
  /// - Throws: `FileError` for a damaged file.
  package func link() throws -> RunLink? {
    access(linkPath, F_OK) == 0 ? try read(linkPath) : nil
  }

  /// Replaces the link atomically.
  ///
  /// - Throws: `FileError` when it cannot be written.
  package func write(_ link: RunLink) throws { try write(link, to: linkPath) }

  /// Whether the log depends on the other end.
  package var hasOpenLink: Bool { (try? openLink()).flatMap(\.self) != nil }

  /// The link that the log depends on; nil if the run goes on in this directory.
  func openLink() throws -> RunLink? {
    try link().flatMap { $0.isSevered ? nil : $0 }
  }

  /// Appends bytes of the log at the other end.
  ///
  /// - Parameters:
  ///   - bytes: The bytes.
  ///   - offset: Their place; bytes that are here already are left out.
  /// - Throws: `FileError` when they do not follow the log, or the disk fails.
  package func mirror(_ bytes: Data, at offset: UInt64) throws {
    let size = logSize
    guard offset <= size else {
      throw FileError(
        "\(eventsPath): has \(size) bytes, and the other end sends what follows \(offset); remove the run"
      )
    }
    let rest = bytes.dropFirst(Int(clamping: size - offset))
    guard !rest.isEmpty else { return }
    let descriptor = Foundation.open(eventsPath, O_WRONLY | O_APPEND | O_NOFOLLOW | O_CLOEXEC)
    guard descriptor >= 0 else { throw FileError.writing(eventsPath, errno: errno) }
    defer { close(descriptor) }
    try rest.withUnsafeBytes { buffer in
      var done = 0
      while done < buffer.count {
        let moved = Foundation.write(
          descriptor, buffer.baseAddress.map { $0 + done }, buffer.count - done)
        if moved < 0, errno == EINTR { continue }
        guard moved >= 0 else { throw FileError.writing(eventsPath, errno: errno) }
        done += moved
      }
    }
  }
}

extension RunLauncher {
  /// Starts a worker that follows a run whose engine is elsewhere and whose last worker is gone.
  ///
  /// - Parameters:
  ///   - run: The run.
  ///   - fetchesAll: Whether it also fetches models and checkpoints, from an ended run too.
  /// - Throws: `FileError` when the run has no such engine or another process works on it.
  package func attach(_ run: RunDirectory, fetchesAll: Bool = false) throws {
    func link() throws -> RunLink {
      guard let link = try run.openLink(), link.isOpen || fetchesAll else {
        throw FileError("\(run.path): has nothing to fetch from another host; see 'espalier runs'")
      }
      return link
    }
    _ = try link()
    guard let lock = try run.lockForWorker() else { throw run.busy }
    // The last worker may have written it meanwhile.
    var link = try link()
    if fetchesAll {
      link.fetch = .all
      if !link.isOpen { link.state = .connected }
      try run.write(link)
    }
    try start(run, lock)
  }
}
