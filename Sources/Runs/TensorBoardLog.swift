import Files
import Foundation
import Pictures
import Plans
import Synchronization

/// TensorBoard event file with losses, speed and images of a run.
///
/// Every writer creates its own file in the folder of the run with its first value; TensorBoard
/// reads them in order of their names. A record is one `write` call, so that the file of a killed
/// writer is valid up to its last record.
package final class TensorBoardLog: Sendable {
  private let run: RunDirectory
  private let state = Mutex(State())

  private struct State {
    var file: EventFile?
    /// Whether the session start was written.
    var isSessionStarted = false
    /// Last step with a loss, used for images.
    var step = 0
  }

  /// Makes a log of a run; the file is created on demand.
  package init(run: RunDirectory) { self.run = run }

  /// Adds the plotted values of an event, if any.
  ///
  /// - Throws: `FileError`, for example for a full disk; the file then ends with the previous
  ///   record.
  package func add(_ event: Event) throws {
    switch event.kind {
    case .step(let step, _, let loss, let losses, let rate, _, let learningRate, let measures):
      var values: [TensorBoardRecord.Value] = [
        .scalar(tag: "loss/train", loss), .scalar(tag: "speed/steps_per_second", rate),
      ]
      values += Self.scalars("train", losses)
      if let learningRate {
        values.append(.scalar(tag: "learning_rate", learningRate.highest))
        values += Self.scalars("learning_rate", learningRate.sites)
      }
      values += StepMeasure.members.compactMap { measure in
        measures[measure].map { .scalar(tag: measure.tag, $0) }
      }
      try add(values, step: step, time: event.time, ofTraining: true)
    case .heldOut(let step, let loss, let losses):
      guard let whole = loss ?? losses.mean else { return }
      try add(
        [.scalar(tag: "loss/held_out", whole)] + Self.scalars("held_out", losses),
        step: step, time: event.time, ofTraining: true)
    case .sampled(let role, let path, _, _, nil):
      let step = state.withLock { $0.step }
      try add(
        [try Self.image(tag: "samples/\(role.rawValue)", path: run.resolve(path))], step: step,
        time: event.time)
    default: break
    }
  }

  /// Adds values of a step.
  ///
  /// - Throws: `FileError` as `add(_:)`.
  package func add(
    _ values: [TensorBoardRecord.Value], step: Int, time: Double = Date().timeIntervalSince1970
  ) throws {
    try add(values, step: step, time: time, ofTraining: false)
  }

  /// Makes a value from a PNG file.
  ///
  /// - Throws: `FileError` when the file cannot be read or is not a PNG.
  package static func image(tag: String, path: String) throws -> TensorBoardRecord.Value {
    let picture = try RGBImage.read(path: path)
    return .image(
      tag: tag, png: try AtomicFile.read(path, limit: 256 << 20), width: picture.width,
      height: picture.height)
  }

  /// One scalar per site.
  private static func scalars(
    _ group: String, _ sites: [GraftSite: Double]
  ) -> [TensorBoardRecord.Value] {
    sites.sorted { $0.key < $1.key }.map { .scalar(tag: "\(group)/\($0.key)", $0.value) }
  }

  private func add(
    _ values: [TensorBoardRecord.Value], step: Int, time: Double, ofTraining: Bool
  ) throws {
    try state.withLock { state in
      let file = try state.file ?? EventFile(folder: run.tensorBoardPath, time: time)
      state.file = file
      var records: [TensorBoardRecord] = []
      if ofTraining, !state.isSessionStarted {
        records.append(.sessionStart(step: step, time: time))
      }
      records.append(.summary(values, step: step, time: time))
      try file.append(records.flatMap(\.bytes))
      guard ofTraining else { return }
      state.isSessionStarted = true
      state.step = step
    }
  }
}

/// Event file that grows by whole records.
private final class EventFile: Sendable {
  private let path: String
  private let descriptor: Int32

  /// Creates a file that sorts after those of the folder created before `time`.
  ///
  /// - Throws: `FileError` as `append`, or when the folder cannot be created.
  init(folder: String, time: Double) throws {
    try AtomicFile.makeDirectory(folder)
    var seconds = Int(time)
    while true {
      let path = "\(folder)/events.out.tfevents.\(seconds).\(Self.host)"
      let descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0o666)
      if descriptor >= 0 {
        (self.path, self.descriptor) = (path, descriptor)
        break
      }
      guard errno == EEXIST else { throw LineLog(path: path).failure(errno) }
      seconds += 1
    }
    do {
      try append(TensorBoardRecord.fileVersion(time: time).bytes)
    } catch {
      unlink(path)
      throw error
    }
  }

  deinit { close(descriptor) }

  /// Appends all bytes, or none.
  ///
  /// - Throws: `FileError` naming the reason, for example a full disk.
  func append(_ bytes: [UInt8]) throws(FileError) {
    let size = lseek(descriptor, 0, SEEK_END)
    var moved = write(descriptor, bytes, bytes.count)
    while moved < 0, errno == EINTR { moved = write(descriptor, bytes, bytes.count) }
    guard moved != bytes.count else { return }
    let code = moved < 0 ? errno : ENOSPC
    if moved > 0 { ftruncate(descriptor, size) }
    throw LineLog(path: path).failure(code)
  }

  private static let host =
    ProcessIdentity.host.isEmpty
    ? "localhost" : ProcessIdentity.host.replacing("/", with: "-")
}
