import Files
import Foundation
import Plans

/// File of the unsaved edits of one explorer, `recovery/NAME.json` in the state directory.
///
/// A lock beside it is held while the explorer lives; a file without one was left by an explorer
/// that was killed.
package final class RecoveryFile {
  private let path: String
  private let lock: FileLock

  /// Directory of all files below the state directory.
  private static func directory(_ state: String) -> String { "\(state)/recovery" }

  private struct Record: Codable {
    static let formatVersion = 1

    let version: Int
    let time: Double
    let opening: Opening
    /// Texts of plan files.
    let plan, saved: String
    let steps: [String]

    private enum CodingKeys: String, CodingKey {
      case version = "espalier_recovery"
      case time, opening, plan, saved, steps
    }
  }

  /// Makes a locked name for a new file.
  ///
  /// - Throws: `FileError` when the state directory cannot be written.
  package init(state: String) throws {
    let directory = Self.directory(state)
    try AtomicFile.makeDirectory(directory)
    let stamp = String(UInt64.random(in: .min ... .max), radix: 36)
    path = "\(directory)/\(getpid())-\(stamp).json"
    guard let lock = try FileLock.take(Self.lockPath(path)) else {
      throw FileError("\(path): is locked by another process; try again")
    }
    self.lock = lock
  }

  private static func lockPath(_ path: String) -> String { "\(path).lock" }

  /// Replaces the content of the file.
  ///
  /// - Throws: `FileError` when it cannot be written, `PlanError` for an invalid plan.
  package func write(_ unsaved: UnsavedPlan) throws {
    let opening = unsaved.opening.absolute
    let place = opening.plan ?? path
    let record = Record(
      version: Record.formatVersion, time: Date().timeIntervalSince1970, opening: opening,
      plan: String(decoding: try unsaved.plan.json(for: place), as: UTF8.self),
      saved: String(decoding: try unsaved.saved.json(for: place), as: UTF8.self),
      steps: Array(unsaved.steps.suffix(100)))
    try AtomicFile.write(
      try JSONEncoder().encode(record), to: path, followingLinks: false, permissions: 0o600)
  }

  /// Removes the file.
  package func remove() { Self.remove(path) }

  /// Removes a file and its lock.
  package static func remove(_ path: String) {
    unlink(path)
    unlink(lockPath(path))
  }

  /// Unsaved edits that killed explorers left, the newest first.
  ///
  /// - Returns: The edits with their files and locks, which keep other explorers from offering them.
  package static func abandoned(
    state: String = UserDirectory.state.path()
  ) -> [(unsaved: UnsavedPlan, file: String, lock: FileLock)] {
    let directory = directory(state)
    let names = (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []
    var found: [(unsaved: UnsavedPlan, file: String, lock: FileLock, time: Double)] = []
    for name in names where name.hasSuffix(".json") {
      let path = "\(directory)/\(name)"
      guard let lock = try? FileLock.take(lockPath(path)),
        let bytes = try? AtomicFile.read(path, limit: 16 << 20),
        let record = try? JSONDecoder().decode(Record.self, from: Data(bytes)),
        record.version == Record.formatVersion
      else { continue }
      let folder = AtomicFile.directory(of: record.opening.plan ?? path)
      guard let plan = try? GraftPlan.parse(record.plan, file: path, in: folder),
        let saved = try? GraftPlan.parse(record.saved, file: path, in: folder)
      else { continue }
      let unsaved = UnsavedPlan(
        opening: record.opening, plan: plan, saved: saved, steps: record.steps)
      found.append((unsaved, path, lock, record.time))
    }
    return found.sorted { $0.time > $1.time }.map { ($0.unsaved, $0.file, $0.lock) }
  }
}

extension Opening {
  /// The same with an absolute path of the plan.
  var absolute: Opening {
    var absolute = self
    absolute.plan = plan.map { AtomicFile.absolute($0) }
    return absolute
  }
}

/// Record of what the last explorer showed, `session.json` in the state directory.
package enum LastSession {
  private struct Record: Codable {
    static let formatVersion = 1

    let version: Int
    let opening: Opening

    private enum CodingKeys: String, CodingKey {
      case version = "espalier_session"
      case opening
    }
  }

  private static func path(_ state: String) -> String { "\(state)/session.json" }

  /// Records what is shown.
  ///
  /// - Throws: `FileError` when it cannot be written.
  static func keep(_ opening: Opening, state: String) throws {
    try AtomicFile.makeDirectory(state)
    try AtomicFile.write(
      try JSONEncoder().encode(Record(version: Record.formatVersion, opening: opening.absolute)),
      to: path(state))
  }

  /// Reads what was shown last; nil if there is nothing to show any more.
  package static func read(state: String = UserDirectory.state.path()) -> Opening? {
    guard let bytes = try? AtomicFile.read(path(state), limit: 1 << 20),
      let record = try? JSONDecoder().decode(Record.self, from: Data(bytes)),
      record.version == Record.formatVersion,
      record.opening.plan.map(FileManager.default.fileExists(atPath:)) ?? true
    else { return nil }
    return record.opening
  }
}
