import Files
import Foundation
import Plans

/// Run on disk: request, plan, event log, requests to the worker, and results.
///
/// Explorer, commands and worker communicate only by these files. Logs grow by whole lines; all
/// other files are written atomically.
package struct RunDirectory: Sendable, Equatable, Hashable {
  /// Path of the directory.
  package let path: String

  init(path: String) {
    self.path = path
  }

  /// Name of the directory, which sorts by creation time.
  package var id: String {
    String(path[(path.lastIndex(of: "/").map(path.index(after:)) ?? path.startIndex)...])
  }

  /// End of the name, unique in practice.
  package var shortID: String {
    String(id[(id.lastIndex(of: "-").map(id.index(after:)) ?? id.startIndex)...])
  }

  /// Parent directory of all runs.
  package var root: String { AtomicFile.directory(of: path) }
  /// The plan of a distillation.
  package var planPath: String { "\(path)/plan.json" }
  /// The job and its settings.
  package var requestPath: String { "\(path)/run.json" }
  /// The event log, written by the worker.
  package var eventsPath: String { "\(path)/events.jsonl" }
  /// Requests to the worker.
  package var controlPath: String { "\(path)/control.jsonl" }
  /// Output of the worker.
  package var logPath: String { "\(path)/log.txt" }
  /// Checkpoint for resuming, relative to the run.
  package static let latest = "checkpoints/latest.safetensors"
  /// Path of the checkpoint for resuming.
  package var latestPath: String { "\(path)/\(Self.latest)" }
  /// Whether there is a checkpoint for resuming.
  package var hasBegun: Bool { FileManager.default.fileExists(atPath: latestPath) }
  /// Path of the kept checkpoint of an earlier step.
  package func checkpointPath(ofStep step: Int) -> String {
    "\(checkpointsPath)/step-\(step).safetensors"
  }
  /// Steps of the kept checkpoints, ascending.
  package var keptSteps: [Int] {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: checkpointsPath)) ?? []
    return names.compactMap { name in
      Int(name.dropFirst("step-".count).dropLast(".safetensors".count))
        .flatMap {
          $0 >= 0 && checkpointPath(ofStep: $0) == "\(checkpointsPath)/\(name)" ? $0 : nil
        }
    }.sorted()
  }
  /// The directory of checkpoints.
  package var checkpointsPath: String { "\(path)/checkpoints" }
  /// The directory of sample images.
  package var samplesPath: String { "\(path)/samples" }
  /// The directory of TensorBoard's event files.
  package var tensorBoardPath: String { "\(path)/tensorboard" }

  /// Resolves a path of a request, relative to the run or absolute.
  package func resolve(_ name: String) -> String {
    name.hasPrefix("/") ? name : "\(path)/\(name)"
  }

  /// Resolves an entry of a job's `weights` to a file.
  ///
  /// - Throws: `FileError` if it is the id of a run that does not exist or has no weights.
  package func weightsPath(_ name: String) throws -> String {
    if name.contains("/") { return name }
    return try RunDirectory.open("\(root)/\(name)").trainedWeights()
  }

  /// Path of the newest weights of a training: operators of stage 1, the whole model of stage 2.
  ///
  /// - Throws: `FileError` if the run is not a training or has no weights yet.
  package func trainedWeights() throws -> String {
    let names: [String]
    switch try request().job {
    case .distill: names = ["operators.safetensors", "latest.safetensors"]
    case .finetune: names = ["model.safetensors"]
    case .preview, .analyze, .library, .search, .measure, .report, .sample, .evaluate:
      throw FileError("\(path): trains nothing; name a run of 'espalier distill' or 'finetune'")
    }
    let paths = names.map { "\(checkpointsPath)/\($0)" }
    guard let found = paths.first(where: FileManager.default.fileExists(atPath:)) else {
      if let link = try openLink() {
        throw FileError(
          "\(path): its weights are at \(link.host); wait for its end, or let 'espalier runs fetch \(id)' bring"
            + " them here")
      }
      throw FileError("\(path): has no checkpoint yet; wait for its first one")
    }
    return found
  }

  /// Default directory of runs: `$ESPALIER_RUNS`, otherwise `$XDG_STATE_HOME/espalier/runs`,
  /// otherwise `~/.local/state/espalier/runs`.
  package static func defaultRoot(
    environment: [String: String] = ProcessInfo.processInfo.environment
  ) -> String {
    if let root = environment["ESPALIER_RUNS"], !root.isEmpty { return root }
    return UserDirectory.state.path(environment: environment) + "/runs"
  }

  /// Opens an existing run.
  ///
  /// - Throws: `FileError` when there is no run at `path`.
  package static func open(_ path: String) throws -> RunDirectory {
    let run = RunDirectory(path: AtomicFile.absolute(path))
    guard FileManager.default.fileExists(atPath: run.requestPath) else {
      throw FileError("\(path): holds no run.json, so it is no run; see `espalier runs`")
    }
    return run
  }

  /// Lists the runs in `root`, newest first; empty if the directory is missing.
  package static func list(root: String) -> [RunDirectory] {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: root)) ?? []
    return names.filter { !$0.hasPrefix(".") }.sorted(by: >).compactMap { name in
      let run = RunDirectory(path: "\(root)/\(name)")
      return FileManager.default.fileExists(atPath: run.requestPath) ? run : nil
    }
  }

  /// Reads the request of the run.
  ///
  /// - Throws: `FileError` when the file cannot be read or is invalid.
  package func request() throws -> JobRequest {
    let request: JobRequest = try read(requestPath)
    guard request.version == JobRequest.formatVersion else {
      throw FileError(
        "\(requestPath): expected version \(JobRequest.formatVersion), found \(request.version);"
          + " use a matching version of espalier")
    }
    do {
      try request.checkNumbers()
    } catch {
      throw FileError("\(requestPath): \(error); the run is damaged")
    }
    return request
  }

  /// Replaces the request atomically.
  ///
  /// - Throws: `FileError` when it cannot be written.
  package func writeRequest(_ request: JobRequest) throws {
    try write(request, to: requestPath)
  }

  /// Reserves disk space for the final event on a full disk.
  ///
  /// Does nothing if the disk is full already; the next write reports that.
  package func reserveRoomForLastWords() {
    let filler = (0..<16_384).map { UInt8(truncatingIfNeeded: $0 &* 151 &+ 7) }
    unlink(reservePath)
    let descriptor = Foundation.open(
      reservePath, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { return }
    defer { close(descriptor) }
    if Foundation.write(descriptor, filler, filler.count) != filler.count { unlink(reservePath) }
  }

  /// Releases the reserved space.
  package func releaseRoomForLastWords() {
    unlink(reservePath)
  }

  private var reservePath: String { "\(path)/.reserve" }

  /// Appends an event to the log.
  ///
  /// - Throws: `FileError` naming the reason, for example a full disk.
  package func append(_ event: Event) throws {
    try LineLog(path: eventsPath).append(event)
  }

  /// Appends a request to the worker.
  ///
  /// - Throws: `FileError` naming the reason, for example a full disk.
  package func append(_ control: Control) throws {
    try LineLog(path: controlPath).append(ControlRecord(control))
  }

  /// Size of the event log in bytes.
  package var logSize: UInt64 { FileStamp(eventsPath)?.size ?? 0 }

  /// Reads the events after `offset`, initially 0, and advances it.
  ///
  /// Incomplete lines, unknown kinds and versions, and damaged lines are skipped.
  package func readEvents(after offset: inout UInt64) -> [Event] {
    var scanner = EventScanner(readsSites: true)
    var events: [Event] = []
    _ = LineLog(path: eventsPath).read(after: &offset) { line in
      if let event = scanner.event(in: line) { events.append(event) }
    }
    return events
  }

  /// Reads the requests after `offset`, initially 0, and advances it.
  package func readControls(after offset: inout UInt64) -> [Control] {
    readControlRecords(after: &offset).map(\.request)
  }

  /// Reads the requests after `offset` with their times, and advances it.
  func readControlRecords(after offset: inout UInt64) -> [ControlRecord] {
    var records: [ControlRecord] = []
    _ = LineLog(path: controlPath).read(after: &offset) { line in
      if let record = try? JSONDecoder().decode(ControlRecord.self, from: Data(line)),
        record.version == ControlRecord.formatVersion
      {
        records.append(record)
      }
    }
    return records
  }

  /// End of the output of the worker.
  package func logTail(bytes limit: Int = 4096) -> String {
    guard let file = try? RegularFile(logPath),
      let bytes = try? file.bytes(from: max(0, file.size - limit), count: min(file.size, limit))
    else { return "" }
    return String(decoding: bytes, as: UTF8.self)
  }

  /// Size of its files on disk in bytes.
  package func size() -> Int {
    let names = FileManager.default.enumerator(atPath: path)?.compactMap { $0 as? String } ?? []
    return names.reduce(0) { sum, name in
      var status = stat()
      return lstat("\(path)/\(name)", &status) == 0 ? sum + Int(status.st_blocks) * 512 : sum
    }
  }

  func write(_ value: some Encodable, to path: String) throws {
    try AtomicFile.write(
      JSONEncoder.sorted(isPretty: true).encode(value), to: path, followingLinks: false)
  }

  func read<Value: Decodable>(_ path: String) throws -> Value {
    let bytes = try AtomicFile.read(path, limit: 4 << 20)
    do {
      return try JSONDecoder().decode(Value.self, from: Data(bytes))
    } catch {
      throw FileError(
        "\(path): is not the JSON that espalier writes (\(reason(error))); the run is damaged")
    }
  }
}

/// Short reason of a decoding error.
func reason(_ error: any Error) -> String {
  switch error as? DecodingError {
  case .keyNotFound(let key, _): "the key \(key.stringValue) is missing"
  case .typeMismatch(_, let context), .valueNotFound(_, let context):
    "the key \(context.codingPath.map(\.stringValue).joined(separator: ".")) has the wrong type"
  case .dataCorrupted(let context): context.debugDescription
  default: "unreadable"
  }
}
