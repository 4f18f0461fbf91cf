import Dispatch
import Files
import Foundation
import Runs
import Text
import TorchEngine

/// A run whose engine works in a run directory of its own, here or on another host: this process sends what
/// is needed, has it started once, and mirrors its log, whatever becomes of the connection in between.
final class LinkedJob {
  private let context: JobContext
  private let engine: Engine
  private let upload: () throws -> LinkUpload
  private let run: RunDirectory
  private var link: RunLink
  /// Offset in the log of the events that TensorBoard does not have yet.
  private var plotted: UInt64
  /// Size of the requests at the other end when this process began to send those here.
  private var controlBase: UInt64?
  /// Bytes of requests here that were sent.
  private var controlsSent: UInt64 = 0
  private var wanted: [String: String] = [:]
  private var fetching: (path: String, stamp: String)?
  private var isOver = false

  /// Seconds between two frames that say nothing.
  private static let pulse = 5.0
  /// Seconds until the first, and until any later attempt to connect again.
  private static let patience = (first: 0.5, most: 30.0)
  /// Bytes of a piece of a file.
  private static let piece = 1 << 20

  /// Makes the job.
  ///
  /// - Parameters:
  ///   - context: The run's context.
  ///   - engine: The engine.
  ///   - upload: Prepares the files that the run needs; called before the run is sent.
  /// - Throws: `FileError` for a damaged link.
  init(context: JobContext, engine: Engine, upload: @escaping () throws -> LinkUpload) throws {
    (self.context, self.engine, self.upload, run) = (context, engine, upload, context.run)
    let known = try run.link()
    if let known, !known.isSevered {
      link = known
    } else {
      let attempt = (known?.attempt ?? 0) + 1
      let name = attempt == 1 ? run.id : "\(run.id)-\(attempt)"
      link = RunLink(
        host: engine.hostName, place: "\(engine.runs ?? "")/\(name)",
        fetch: RunLink.FetchPolicy(rawValue: engine.fetch) ?? .models, attempt: attempt)
    }
    plotted = run.logSize
  }

  /// Whether the run is at the other end, so that its log is no longer written here.
  var isSent: Bool { run.hasOpenLink }

  /// Follows the run to its end.
  ///
  /// - Returns: Whether it came to its end; false if this process was asked to stop following.
  /// - Throws: `FileError` if the run can neither be sent nor followed.
  func perform() throws -> Bool {
    var delay = Self.patience.first
    while true {
      let begun = ContinuousClock.now
      do {
        try follow()
        return true
      } catch let lost as LinkConnection.Lost {
        if begun.duration(to: .now) > .seconds(30) { delay = Self.patience.first }
        if isSent {
          try change(.unreachable, lost.reason.printableSentence)
        } else if lost.isFinal || delay > Self.patience.most / 2 {
          throw FileError(
            "\(run.path): \(engine.hostName) cannot be reached: \(lost.reason); try 'espalier engines check"
              + " \(engine.name)'")
        } else if !context.isMuted {
          try context.emit(.message("\(engine.hostName) does not answer yet: \(lost.reason)"))
        }
        let end = ContinuousClock.now + .seconds(delay)
        while ContinuousClock.now < end {
          do { try checkStop() } catch is Detaching { return false }
          usleep(50_000)
        }
        delay = min(2 * delay, Self.patience.most)
      } catch is Detaching {
        return false
      }
    }
  }

  /// Notes why this process no longer follows the run.
  func leave(_ reason: String) throws { try change(.unreachable, reason.printableSentence) }

  private struct Detaching: Error {}

  /// Frame that asks the other end for something.
  private struct Request: Encodable {
    let `do`: String
    var size: Int?
    var name: String?
    var digest: String?
    var from: UInt64?
    var total: UInt64?
    var path: String?
    var stamp: String?
    var attempt: Int?
    var step: Int?
    var copies: [String: String]?
    var files: [String: String]?
    var sizes: [String: UInt64]?
    var paths: [String]?
    var messages: [String]?
    var launch: [String]?
    var options: [String]?
    var slurm: SlurmSettings?

    init(_ name: String) { self.do = name }
  }

  // MARK: - One connection

  /// Connects, sends the run if it is not there, and mirrors it to its end.
  private func follow() throws {
    // What was on its way is asked for anew.
    (known, wanted, fetching, isOver) = ([:], [:], nil, false)
    let connection = try LinkConnection(
      engine, place: link.place, from: run.hasOpenLink ? run.logSize : 0)
    defer { connection.close() }
    let hello = try expect("hello", on: connection, seconds: 120)
    guard hello.header.protocol == 1 else {
      throw FileError(
        "\(engine.hostName): the package there speaks another protocol; 'espalier engines install"
          + " \(engine.name)' renews it")
    }
    let exists = hello.header.exists == true
    guard isSent || !exists else {
      throw FileError(
        "\(link.place): is at \(link.host) already, from another time; remove it there")
    }
    if !exists {
      guard !link.isStarted else {
        throw FileError(
          "\(link.place): is gone from \(link.host); remove the run, or start it anew")
      }
      try send(on: connection)
    }
    if !link.isStarted {
      try start(on: connection)
    } else if let controls = hello.header.controls {
      // A worker that has just begun sends what is asked for from now on.
      let base = controlBase ?? controls
      (controlBase, controlsSent) = (base, controls >= base ? controls - base : 0)
    }
    if link.state == .unreachable { try change(.connected, nil) }
    try mirror(connection)
  }

  /// Waits for a frame of a kind, and treats others as they come.
  @discardableResult
  private func expect(_ kind: String, on connection: LinkConnection, seconds: Double = 600) throws
    -> LinkConnection.Frame
  {
    let end = ContinuousClock.now + .seconds(seconds)
    while ContinuousClock.now < end {
      try checkStop()
      guard let frame = try connection.next(within: 0.2) else { continue }
      try take(frame)
      if frame.header.kind == kind { return frame }
    }
    throw LinkConnection.Lost(reason: "it has said nothing for \(Int(seconds)) s")
  }

  /// Throws if this process is asked to stop: a run that is not sent yet is cancelled, any other one left.
  private func checkStop() throws {
    if !context.isMuted { return try context.checkpoint(step: 0) }
    if context.isCancelled { throw Detaching() }
  }

  /// Sends models and data that are not there, and makes the run directory.
  private func send(on connection: LinkConnection) throws {
    var upload = try upload()
    var copies: [String: String] = [:]
    if run.hasBegun {
      copies[RunDirectory.latest] = try upload.add(run.latestPath)
    }
    let sizes = try upload.files.mapValues { UInt64(try RegularFile($0.path).size) }
    var ask = Request("have")
    (ask.sizes, ask.paths) = (sizes, upload.mapped)
    try connection.send(ask)
    let have = try expect("have", on: connection).header
    if let missing = have.missing?.first {
      throw FileError(
        "\(missing): is not at \(engine.hostName), where \(engine.name).paths in \(Engine.path()) says"
          + " that it is; correct the path map, or put it there")
    }
    let present = Set(have.present ?? [])
    for (name, file) in upload.files.sorted(by: { $0.key < $1.key }) where !present.contains(name) {
      try put(name, file, from: have.parts?[name] ?? 0, on: connection)
    }
    var paths: [String: String] = [:]
    for (name, place) in upload.places {
      switch place {
      case .path(let path): paths[name] = path
      case .name(let sent): paths[name] = try self.place(of: sent, have.places ?? [:])
      }
    }
    var create = Request("create")
    create.files = try requestFiles().merging(
      [
        "paths.json": String(
          decoding: try JSONEncoder.sorted(isPretty: true).encode(paths), as: UTF8.self)
      ]) { $1 }
    if let data = try? AtomicFile.read("\(run.path)/data.json", limit: 4 << 20) {
      create.files?["data.json"] = String(decoding: data, as: UTF8.self)
    }
    // From here the log is written at the other end alone.
    context.mute()
    let log = try upload.add(run.eventsPath)
    if let file = upload.files[log] { try put(log, file, from: 0, on: connection) }
    copies["events.jsonl"] = log
    create.copies = copies
    try run.write(link)
    try connection.send(create)
    try expect("created", on: connection)
  }

  /// Path at the other end of what was sent under a name, of a folder that of its files.
  private func place(of name: String, _ places: [String: String]) throws -> String {
    if let path = places[name] { return path }
    guard let (file, path) = places.first(where: { $0.key.hasPrefix("\(name)/") }) else {
      throw FileError("\(name): is not at \(engine.hostName)")
    }
    return String(path.dropLast(file.count - name.count))
  }

  private func put(
    _ name: String, _ file: (path: String, digest: String), from start: UInt64,
    on connection: LinkConnection
  ) throws {
    let source = try RegularFile(file.path)
    var request = Request("put")
    (request.name, request.digest, request.total) = (name, file.digest, UInt64(source.size))
    var offset = min(start, UInt64(source.size))
    var throttle = Throttle()
    repeat {
      try checkStop()
      let count = min(Self.piece, source.size - Int(offset))
      let piece = Data(try source.bytes(from: Int(offset), count: count))
      (request.from, request.size) = (offset, piece.count)
      try connection.send(request, piece)
      offset += UInt64(count)
      if !context.isMuted, throttle.isDue() {
        try context.emit(
          .progress(
            done: Int(offset >> 20), total: max(1, source.size >> 20),
            label: "sending \(AtomicFile.name(of: file.path))"))
      }
    } while offset < UInt64(source.size)
    while try expect("stored", on: connection).header.name != name {}
  }

  /// The run's request and plan as the other end gets them.
  private func requestFiles() throws -> [String: String] {
    var request = try run.request()
    // Queue and hook belong to this end.
    (request.queue, request.onDone) = (nil, nil)
    var files = [
      "run.json": String(
        decoding: try JSONEncoder.sorted(isPretty: true).encode(request), as: UTF8.self)
    ]
    if let plan = try? AtomicFile.read(run.planPath, limit: 16 << 20) {
      files["plan.json"] = String(decoding: plan, as: UTF8.self)
    }
    return files
  }

  private func start(on connection: LinkConnection) throws {
    var request = Request("start")
    (request.attempt, request.messages, request.step) = (link.attempt, link.messages, link.step)
    (request.files, request.slurm) = (try requestFiles(), engine.slurm)
    (request.launch, request.options) = (engine.launchOptions, engine.runOptions)
    try connection.send(request)
    let started = try expect("started", on: connection).header
    (link.isStarted, link.messages, link.step) = (true, [], nil)
    (controlBase, controlsSent) = (started.controls, 0)
    try run.write(link)
    try change(engine.slurm == nil ? .connected : .starting, nil)
  }

  // MARK: - Following

  private func mirror(_ connection: LinkConnection) throws {
    var pulsed = ContinuousClock.now
    while true {
      if context.isCancelled { throw Detaching() }
      if let frame = try connection.next(within: 0.1) { try take(frame) }
      try sendControls(on: connection)
      if fetching == nil, let next = wanted.min(by: { $0.key < $1.key }) {
        try fetch(next.key, next.value, on: connection)
      }
      if isOver, fetching == nil, wanted.isEmpty {
        return try change(.closed, nil)
      }
      if pulsed.duration(to: .now) > .seconds(Self.pulse) {
        try connection.send(Request("alive"))
        pulsed = .now
      }
    }
  }

  /// Does what a frame of the other end says.
  private func take(_ frame: LinkConnection.Frame) throws {
    let header = frame.header
    switch header.kind {
    case "events":
      guard isSent else { return }
      try whenRoom { try run.mirror(frame.payload, at: header.from ?? 0) }
      context.plot(after: &plotted)
    case "state":
      guard header.attempt == link.attempt else { return }
      switch header.state {
      case "pending": try change(.pending, header.reason)
      case "starting": try change(.starting, header.reason)
      case "running": try change(.connected, nil)
      default:
        try change(.connected, nil)
        isOver = true
        want(known)
      }
    case "files":
      known = header.files ?? [:]
      want(known)
    case "controlled":
      if let base = controlBase, let controls = header.controls, controls >= base {
        controlsSent = controls - base
      }
    case "data": try store(frame)
    case "error": throw FileError("\(engine.hostName): \(header.text ?? "")")
    default: break
    }
  }

  /// Versions of the files at the other end.
  private var known: [String: String] = [:]

  /// Chooses what to fetch: images and operators at once, the rest at the end by the policy.
  private func want(_ files: [String: String]) {
    wanted = files.filter { path, stamp in
      guard link.fetched[path] != stamp, fetching?.path != path else { return false }
      if path.hasPrefix("samples/") || path == "checkpoints/operators.safetensors" { return true }
      guard isOver else { return false }
      switch link.fetch {
      case .operators: return path == "log.txt"
      case .models: return path == "log.txt" || path.hasPrefix("checkpoints/") && Self.isModel(path)
      case .all: return true
      }
    }
  }

  private static func isModel(_ path: String) -> Bool {
    ["model.safetensors", "best.safetensors"].contains(AtomicFile.name(of: path))
  }

  // MARK: - Files

  /// Where a file of the other end is kept here, and the draft that grows until it is whole.
  private func paths(of path: String, _ stamp: String) -> (whole: String, draft: String) {
    let whole = path == "log.txt" ? "\(run.path)/engine.log" : "\(run.path)/\(path)"
    let digest = ContentHash.sha256(Data("\(path)\n\(stamp)".utf8)).prefix(16)
    return (whole, "\(run.path)/.fetched-\(digest)")
  }

  private func fetch(_ path: String, _ stamp: String, on connection: LinkConnection) throws {
    wanted[path] = nil
    guard !path.hasPrefix("/"), !path.split(separator: "/").contains("..") else { return }
    var request = Request("get")
    (request.path, request.stamp) = (path, stamp)
    request.from = (try? RegularFile(paths(of: path, stamp).draft)).map { UInt64($0.size) } ?? 0
    try connection.send(request)
    fetching = (path, stamp)
  }

  private func store(_ frame: LinkConnection.Frame) throws {
    guard let fetching, frame.header.path == fetching.path, frame.header.stamp == fetching.stamp,
      let from = frame.header.from, let total = frame.header.total
    else { return }
    let (whole, draft) = paths(of: fetching.path, fetching.stamp)
    try whenRoom {
      let descriptor = open(draft, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0o666)
      guard descriptor >= 0 else { throw FileError.writing(draft, errno: errno) }
      let handle = FileHandle(fileDescriptor: descriptor, closeOnDealloc: true)
      do {
        try handle.truncate(atOffset: from)
        try handle.write(contentsOf: frame.payload)
      } catch {
        throw FileError.writing(draft, errno: errno)
      }
    }
    guard from + UInt64(frame.payload.count) >= total else { return }
    try AtomicFile.makeDirectory(AtomicFile.directory(of: whole))
    guard rename(draft, whole) == 0 else { throw FileError.writing(whole, errno: errno) }
    link.fetched[fetching.path] = fetching.stamp
    self.fetching = nil
    try run.write(link)
  }

  // MARK: - Requests and state

  private func sendControls(on connection: LinkConnection) throws {
    guard let base = controlBase, let file = try? RegularFile(run.controlPath),
      UInt64(file.size) > controlsSent
    else { return }
    let bytes = try file.bytes(
      from: Int(controlsSent), count: min(Self.piece, file.size - Int(controlsSent)))
    // Whole lines only.
    guard let end = bytes.lastIndex(of: UInt8(ascii: "\n")) else { return }
    let lines = Data(bytes[...end])
    var request = Request("control")
    (request.from, request.size) = (base + controlsSent, lines.count)
    try connection.send(request, lines)
    controlsSent += UInt64(lines.count)
  }

  /// Calls `body`, which writes files, again and again while the disk here is full.
  private func whenRoom(_ body: () throws -> Void) throws {
    while true {
      do {
        return try body()
      } catch let error as FileError where error.isDiskFull {
        try? change(.unreachable, "the disk here is full")
        if context.isCancelled { throw Detaching() }
        Thread.sleep(forTimeInterval: 1)
      }
    }
  }

  private func change(_ state: RunLink.State, _ reason: String?) throws {
    guard state != link.state || reason != link.reason else { return }
    (link.state, link.reason, link.since) = (state, reason, Date().timeIntervalSince1970)
    try run.write(link)
  }
}
