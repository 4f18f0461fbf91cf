import Foundation
import Pictures
import Plans
import Runs

/// The state of the queue's work.
///
/// `@unchecked Sendable`: everything is touched on the serial queue of `LiveEffects` alone.
package final class FileWork: @unchecked Sendable {
  /// Makes and starts runs.
  package let launcher: RunLauncher
  let model: ModelReference
  let codeVersion: String
  var store: RunStore
  /// The run whose losses are shown, and those that are being compared.
  var (followed, compared): (String?, [String]) = (nil, [])
  var previews: [String: Int] = [:]
  var delivered: [String: Int] = [:]
  var analysisRun: String?
  var lastRecords: [RunSummary]?
  var looks = 0

  /// Does the work for one run root and model.
  package init(launcher: RunLauncher, model: ModelReference, codeVersion: String) {
    self.launcher = launcher
    self.model = model
    self.codeVersion = codeVersion
    store = RunStore(root: launcher.root, readsPlans: true)
  }

  /// The directory of run directories.
  var root: String { launcher.root }

  // MARK: - Looking

  /// Bytes of logs that one look reads at most, so that keys and other runs need not wait for a long log.
  private static let readLimit = 32 << 20

  /// Looks at the runs at work every time, at all others and for new ones once a second.
  package func look(now: Date) -> [Action] {
    let thorough = looks % 10 == 0
    looks += 1
    if thorough {
      for run in launcher.collect() { store.noteEndedWorker(of: run.id) }
    }
    let changed = store.look(now: now, thorough: thorough, limit: Self.readLimit)
    var actions: [Action] = []
    let records = store.summaries
    if records != lastRecords {
      lastRecords = records
      actions.append(.runsScanned(records))
    }
    if let id = followed, changed.contains(id), let history = store.history(id) {
      actions.append(.historyRead(id: id, history))
    }
    actions += lookAtAnalysis(records)
    actions += previews.flatMap { lookAtPreview($0.key, generation: $0.value, records) }
    return actions
  }

  private func lookAtAnalysis(_ records: [RunSummary]) -> [Action] {
    guard let id = analysisRun, let record = records.first(where: { $0.id == id }) else {
      return []
    }
    switch record.state {
    case .queued: return []
    case .running, .paused, .frozen:
      return [.analysisProgressed(done: record.step, total: record.total)]
    case .done:
      analysisRun = nil
      return [readAnalysis() ?? .analysisFailed("the job ended without a result")]
    case .cancelled:
      analysisRun = nil
      return [.analysisFailed("the job was cancelled; A computes them")]
    case .failed:
      analysisRun = nil
      return [.analysisFailed(record.end?.text ?? "")]
    case .lost:
      analysisRun = nil
      return [.analysisFailed("the job's worker ended\(lastWords(id)); A tries again")]
    }
  }

  private func lookAtPreview(
    _ id: String, generation: Int, _ records: [RunSummary]
  ) -> [Action] {
    guard let record = records.first(where: { $0.id == id }), let run = store.run(id) else {
      return []
    }
    var actions: [Action] = []
    var isFinished = true
    var problem: String?
    switch record.state {
    case .queued: return []
    case .running, .paused, .frozen: isFinished = false
    case .done, .cancelled: break
    case .failed: problem = record.end?.text ?? ""
    case .lost: problem = "its worker ended\(lastWords(id))"
    }
    for sample in record.images.suffix(max(0, record.imageCount - (delivered[id] ?? 0))) {
      guard let role = PreviewRole(rawValue: sample.role.rawValue) else { continue }
      do {
        let image = try RGBImage.read(path: "\(run.path)/\(sample.path)")
        actions.append(
          .previewSampled(generation: generation, role, image, step: sample.samplerStep))
      } catch {
        problem = "\(error)"
      }
    }
    delivered[id] = record.imageCount
    if record.total > 0 {
      actions.append(
        .previewProgressed(generation: generation, done: record.step, total: record.total))
    }
    if isFinished {
      previews[id] = nil
      delivered[id] = nil
      actions.append(.previewEnded(generation: generation, problem: problem))
    }
    return actions
  }

  /// The last line that a worker printed before it vanished.
  private func lastWords(_ id: String) -> String {
    let lines = store.run(id)?.logTail().split(separator: "\n") ?? []
    return lines.last.map { ": \($0)" } ?? ""
  }
}
