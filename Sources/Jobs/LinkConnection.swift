import Files
import Foundation
import Synchronization
import TorchEngine

/// Connection to `espalier_torch follow` at the other end of a link: frames over the standard streams of a
/// process.
///
/// A frame is a line of JSON, and as many bytes as its `size` says.
final class LinkConnection: Sendable {
  /// What the other end says.
  struct Frame: Sendable {
    /// The members of its line.
    let header: Header
    /// The bytes after the line.
    let payload: Data
  }

  /// The members of the frames of the other end; which ones a kind has is said in follow.py.
  struct Header: Codable, Sendable {
    let kind: String
    var size: Int?
    var text: String?
    var `protocol`: Int?
    var exists: Bool?
    var attempt: Int?
    var controls: UInt64?
    var from: UInt64?
    var total: UInt64?
    var path: String?
    var stamp: String?
    var state: String?
    var reason: String?
    var name: String?
    var present: [String]?
    var parts: [String: UInt64]?
    var missing: [String]?
    var places: [String: String]?
    var files: [String: String]?
  }

  private struct Incoming {
    var frames: [Frame] = []
    var isOver = false
  }

  private let process: Process
  private let input: FileHandle
  private let errors: Pipe
  private let incoming = Mutex(Incoming())
  private let arrival = DispatchSemaphore(value: 0)
  /// Largest line and largest number of bytes of a frame.
  private static let limit = 16 << 20

  /// Connects to the other end of a run's link.
  ///
  /// - Parameters:
  ///   - engine: The engine.
  ///   - place: Path of the run at its host.
  ///   - offset: Size of the log here.
  /// - Throws: `PlanError` if the program that connects is missing.
  init(_ engine: Engine, place: String, from offset: UInt64) throws {
    process = try engine.process(
      engine.words(["follow", "--from", "\(offset)", "--models", engine.models, place]))
    let (standardInput, standardOutput) = (Pipe(), Pipe())
    errors = Pipe()
    (process.standardInput, process.standardOutput) = (standardInput, standardOutput)
    process.standardError = errors
    input = standardInput.fileHandleForWriting
    try engine.start(process)
    let output = standardOutput.fileHandleForReading
    Thread.detachNewThread { [self] in
      while let frame = Self.read(output) {
        incoming.withLock { $0.frames.append(frame) }
        arrival.signal()
      }
      incoming.withLock { $0.isOver = true }
      arrival.signal()
    }
  }

  /// Takes the next frame; nil if there is none within some seconds.
  ///
  /// - Throws: `Lost` when the connection has ended.
  func next(within seconds: Double) throws -> Frame? {
    let deadline = DispatchTime.now() + seconds
    while true {
      let (frame, isOver) = incoming.withLock { incoming in
        (incoming.frames.isEmpty ? nil : incoming.frames.removeFirst(), incoming.isOver)
      }
      if let frame { return frame }
      if isOver { throw lost() }
      if arrival.wait(timeout: deadline) == .timedOut { return nil }
    }
  }

  /// Sends a frame.
  ///
  /// - Throws: `Lost` when the connection has ended.
  func send(_ header: some Encodable, _ payload: Data = Data()) throws {
    var line = try JSONEncoder.sorted().encode(header)
    line.append(UInt8(ascii: "\n"))
    do {
      try input.write(contentsOf: line + payload)
    } catch {
      throw lost()
    }
  }

  /// Ends the connection; the other end notices.
  func close() {
    try? input.close()
    for _ in 0..<100 where process.isRunning { usleep(10_000) }
    if process.isRunning { process.terminate() }
    process.waitUntilExit()
  }

  /// A connection that has ended, with the last words of the program that made it.
  struct Lost: Error {
    let reason: String

    /// Whether another attempt would end in the same way.
    var isFinal: Bool {
      ["Permission denied", "verification failed", "No module named"].contains {
        reason.contains($0)
      }
    }
  }

  private func lost() -> Lost {
    close()
    let text = String(
      decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    let last = text.split(whereSeparator: \.isNewline).last.map(String.init)
    return Lost(reason: last ?? "the connection ended with code \(process.terminationStatus)")
  }

  /// Reads a frame; nil at the end, or for bytes that are none.
  private static func read(_ handle: FileHandle) -> Frame? {
    guard let line = readLine(handle),
      let header = try? JSONDecoder().decode(Header.self, from: line),
      let size = Optional(header.size ?? 0), (0...limit).contains(size)
    else { return nil }
    var payload = Data()
    while payload.count < size {
      guard let piece = try? handle.read(upToCount: size - payload.count), !piece.isEmpty else {
        return nil
      }
      payload.append(piece)
    }
    return Frame(header: header, payload: payload)
  }

  private static func readLine(_ handle: FileHandle) -> Data? {
    var line = Data()
    while line.count < limit {
      var byte: UInt8 = 0
      let moved = Foundation.read(handle.fileDescriptor, &byte, 1)
      if moved < 0, errno == EINTR { continue }
      guard moved == 1 else { return nil }
      if byte == UInt8(ascii: "\n") { return line }
      line.append(byte)
    }
    return nil
  }
}
