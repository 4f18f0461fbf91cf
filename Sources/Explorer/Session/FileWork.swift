import Foundation
import Pictures
import Plans
import Runs

/// The state of the queue's work.
///
/// `@unchecked Sendable`: everything is touched on the serial queue of `LiveEffects` alone.
package final class FileWork: @unchecked Sendable {
  let root: String
  let model: ModelReference
  let executable: String
  let codeVersion: String
  var watcher: RunWatcher
  /// What is read of runs that are being compared.
  var compared: [String: RunFollower] = [:]
  var previews: [String: Int] = [:]
  var delivered: [String: Int] = [:]
  var analysisRun: String?
  /// Processes that this one has started and collects.
  package var children: [(pid: Int32, run: String)] = []
  var lastRecords: [RunRecord]?
  var looks = 0

  /// Does the work for one run root and model.
  package init(root: String, model: ModelReference, executable: String, codeVersion: String) {
    self.root = root
    self.model = model
    self.executable = executable
    self.codeVersion = codeVersion
    watcher = RunWatcher(root: root)
  }

  // MARK: - Looking

  /// Looks at the run directories: sizes every time, lists and processes once a second.
  package func look(now: Date) -> [Action] {
    let thorough = looks % 10 == 0
    looks += 1
    if thorough {
      watcher.list()
      for child in children where WorkerLauncher.reap(child.pid) {
        watcher.noteEndedWorker(of: child.run)
        children.removeAll { $0.pid == child.pid }
      }
    }
    let changed = watcher.look(now: now, thorough: thorough)
    var actions: [Action] = []
    let records = watcher.records
    if records != lastRecords {
      lastRecords = records
      actions.append(.runsScanned(records))
    }
    if let id = watcher.followed, changed.contains(id), let history = watcher.history(id) {
      actions.append(.historyRead(id: id, history))
    }
    actions += lookAtAnalysis(records)
    actions += previews.flatMap { lookAtPreview($0.key, generation: $0.value, records) }
    return actions
  }

  private func lookAtAnalysis(_ records: [RunRecord]) -> [Action] {
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
    case .failed(let reason):
      analysisRun = nil
      return [.analysisFailed(reason)]
    case .lost:
      analysisRun = nil
      return [.analysisFailed("the job's worker ended\(lastWords(id)); A tries again")]
    }
  }

  private func lookAtPreview(
    _ id: String, generation: Int, _ records: [RunRecord]
  ) -> [Action] {
    guard let record = records.first(where: { $0.id == id }), let run = watcher.run(id) else {
      return []
    }
    var actions: [Action] = []
    var isFinished = true
    var problem: String?
    switch record.state {
    case .queued: return []
    case .running, .paused, .frozen: isFinished = false
    case .done, .cancelled: break
    case .failed(let reason): problem = reason
    case .lost: problem = "its worker ended\(lastWords(id))"
    }
    let samples = watcher.images(id)
    for sample in samples.dropFirst(delivered[id] ?? 0) {
      guard let role = PreviewRole(rawValue: sample.role.rawValue) else { continue }
      do {
        let image = try PNG.read(path: "\(run.path)/\(sample.path)")
        actions.append(.previewSampled(generation: generation, role, image))
      } catch {
        problem = "\(error)"
      }
    }
    delivered[id] = samples.count
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
    let lines = watcher.run(id)?.logTail().split(separator: "\n") ?? []
    return lines.last.map { ": \($0)" } ?? ""
  }
}
