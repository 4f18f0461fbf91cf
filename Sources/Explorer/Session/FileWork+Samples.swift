import Foundation
import Pictures
import Plans
import Runs

/// Statistics of the teacher and previews.
extension FileWork {
  func readAnalysis() -> Action? {
    let path = ModelAnalysis.cachePath(modelHash: model.contentHash)
    guard FileManager.default.fileExists(atPath: path) else { return nil }
    do {
      let analysis = try ModelAnalysis.load(path: path)
      return analysis.modelHash == model.contentHash ? .analysisRead(analysis) : nil
    } catch {
      return .analysisFailed("\(error)")
    }
  }

  /// Reads the cache, or joins or starts the job that fills it.
  func findAnalysis(again: Bool) -> Action {
    if !again, let known = readAnalysis() { return known }
    store.look()
    let running = store.summaries.first {
      $0.kind == .analyze && $0.modelHash == model.contentHash && $0.isAlive
    }
    if let running {
      analysisRun = running.id
      return .analysisStarted(runID: running.id)
    }
    do {
      var request = AnalyzeRequest(modelPath: model.path)
      if case .analysisRead(let known) = readAnalysis() {
        request.samples = max(request.samples, known.samples)
      }
      let run = try start(.analyze(request), name: Self.name(model), plan: nil)
      analysisRun = run.id
      return .analysisStarted(runID: run.id)
    } catch {
      return .analysisFailed("\(error)")
    }
  }

  func startPreview(
    _ generation: Int, _ plan: GraftPlan?, _ weights: PlanWeights, _ settings: PreviewSettings,
    _ options: PreviewOptions
  ) -> [Action] {
    var request = previewRequest(settings, of: plan)
    request.isBackground = options.isBackground
    do {
      request.teacherImage = sampledTeacher(settings)
      request.weights = try paths(of: weights)
      if let step = options.checkpoint, let first = weights.runSources.first?.id,
        let place = request.weights.indices.last, let run = store.run(first)
      {
        // The run that takes precedence is the last one.
        request.weights[place] = run.checkpointPath(ofStep: step)
      }
      let run = try start(
        .preview(request), name: plan?.name ?? Self.name(model), plan: plan, weights: weights)
      previews[run.id] = generation
      lastPreview = (settings, run)
      return [.previewStarted(generation: generation, runID: run.id)]
    } catch {
      return [.previewEnded(generation: generation, problem: "\(error)")]
    }
  }

  /// The teacher's image of the last preview, if that sampled with the same settings.
  private func sampledTeacher(_ settings: PreviewSettings) -> String? {
    guard let (known, run) = lastPreview, known == settings, settings.rows == 1,
      settings.seeds == 1, settings.frames == 0
    else { return nil }
    let path = "\(run.samplesPath)/teacher.png"
    return FileManager.default.fileExists(atPath: path) ? path : nil
  }

  private static func name(_ model: ModelReference) -> String {
    model.path.split(separator: "/").last.map(String.init) ?? model.path
  }

  /// Asks the workers of unfinished previews to stop.
  package func cancelPreviews() {
    for id in previews.keys { _ = try? store.run(id)?.requestCancellation() }
  }

  func lookAtAnalysis(_ records: [RunSummary]) -> [Action] {
    guard let id = analysisRun, let record = records.first(where: { $0.id == id }) else {
      return []
    }
    switch record.state {
    case .queued: return []
    case .starting, .pending, .running, .paused, .frozen, .unreachable, .detached:
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

  func lookAtPreview(
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
    case .starting, .pending, .running, .paused, .frozen, .unreachable, .detached:
      isFinished = false
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
