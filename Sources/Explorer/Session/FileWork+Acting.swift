import Files
import Foundation
import Pictures
import Plans
import Runs
import TerminalUI

extension FileWork {
  /// Does one piece of work and returns what came of it at once.
  package func perform(_ effect: Effect) -> [Action] {
    switch effect {
    case .savePlan(let plan, let path, let overwrite, let known):
      return [save(plan, to: path, overwrite: overwrite, known: known)]
    case .loadPlan(let path):
      return [load(path)]
    case .openRun(let id, let adopt):
      return openRun(id, adopt: adopt)
    case .readRuns(let ids):
      return readRuns(ids)
    case .followRun(let id):
      return follow(id)
    case .startTraining(let plan, let kind, let weightsFrom, let isQueued):
      return [
        isQueued ? queueTraining(plan, kind, weightsFrom) : startTraining(plan, kind, weightsFrom)
      ]
    case .control, .killRun, .retryRun, .setPriority, .readLog:
      return steer(effect)
    case .findAnalysis(let again):
      return [findAnalysis(again: again)]
    case .readAttentionMaps(let block):
      return [.attentionMapsRead(block: block, attentionMaps(block))]
    case .startPreview(let generation, let plan, let weightsFrom, let settings, let options):
      return startPreview(generation, plan, weightsFrom, settings, options)
    case .startRunPreview(let generation, let runID, let settings):
      return startPreview(generation, of: runID, settings)
    case .readCheckpoints(let id):
      return store.run(id).map { [.checkpointsRead(id: id, steps: checkpoints(of: $0))] } ?? []
    case .savePictures(let images, let path):
      return [save(images, to: path)]
    case .saveSetting, .keepCommand, .listFiles:
      return keep(effect)
    case .redraw, .suspend, .probe, .wish:
      return []
    }
  }

  private func save(
    _ plan: GraftPlan, to path: String, overwrite: Bool, known: GraftPlan?
  ) -> Action {
    let expanded = Self.expand(path)
    var isFolder: ObjCBool = false
    if FileManager.default.fileExists(atPath: expanded, isDirectory: &isFolder), isFolder.boolValue
    {
      return .planSaveFailed("\(path): is a folder; give the name of a file in it")
    }
    do {
      if overwrite {
        try plan.save(to: expanded)
      } else if try !plan.save(to: expanded, over: known) {
        return .planExists(path: path)
      }
      return .planSaved(plan, path: path)
    } catch {
      return .planSaveFailed("\(error)")
    }
  }

  private func load(_ path: String) -> Action {
    do {
      let plan = try read(Self.expand(path))
      return .planLoaded(plan, path: path)
    } catch {
      return .planLoadFailed("\(error)")
    }
  }

  /// Reads a plan for the explorer's model.
  private func read(_ path: String) throws(PlanError) -> GraftPlan {
    let plan = try GraftPlan.load(path: path)
    do {
      try plan.check(against: model)
    } catch {
      var named = error
      named.file = named.file ?? path
      throw named
    }
    return plan
  }

  private static func expand(_ path: String) -> String {
    guard path == "~" || path.hasPrefix("~/") else { return path }
    let home = ProcessInfo.processInfo.environment["HOME"] ?? ""
    return home + path.dropFirst()
  }

  /// Keeps the losses of a run from now on, instead of those of the last one.
  private func follow(_ id: String?) -> [Action] {
    followed = id
    store.follow(Set(compared + [id].compactMap(\.self)))
    guard let id, let history = store.history(id) else { return [] }
    return [.historyRead(id: id, history)]
  }

  /// Reads plans and losses of runs for a comparison.
  private func readRuns(_ ids: [String]) -> [Action] {
    compared = ids
    store.follow(Set(compared + [followed].compactMap(\.self)))
    do {
      return [
        .runsRead(
          try ids.map { id in
            guard let run = store.run(id) else {
              throw FileError("the run \(id) is no longer in \(root)")
            }
            var known = FocusedRun(id: id, plan: try GraftPlan.load(path: run.planPath))
            known.history = store.history(id) ?? RunHistory()
            return known
          })
      ]
    } catch {
      return [.runOpenFailed("\(error)")]
    }
  }

  private func openRun(_ id: String, adopt: Bool) -> [Action] {
    guard let run = store.run(id) else {
      return [.runOpenFailed("the run \(id) is no longer in \(root)")]
    }
    do {
      let plan = try read(run.planPath)
      return [.runOpened(id: id, plan: plan, adopt: adopt)] + follow(id)
    } catch {
      return [.runOpenFailed("\(error)")]
    }
  }

  private func startTraining(
    _ plan: GraftPlan, _ kind: Job.Kind, _ weightsFrom: String?
  ) -> Action {
    do {
      let job: Job =
        kind == .finetune
        ? .finetune(planPath: "plan.json", weights: try weights(of: weightsFrom))
        : .distill(planPath: "plan.json")
      let run = try start(job, name: plan.name, plan: plan)
      return .trainingStarted(id: run.id, plan: plan, kind: kind)
    } catch {
      return .trainingFailed("\(error)")
    }
  }

  /// The newest weights of a run that is still there; none of no run.
  func weights(of id: String?) throws -> [String] {
    guard let id, let run = store.run(id) else { return [] }
    return [try run.trainedWeights()]
  }

  // MARK: - Jobs

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

  /// The mean attention maps of a block's heads in colours; empty without a readable picture of them.
  private func attentionMaps(_ block: Int) -> [RGBImage] {
    let cache = ModelAnalysis.cachePath(modelHash: model.contentHash)
    let path = ModelAnalysis.mapPath(beside: cache, block: block)
    guard let sheet = try? RGBImage.read(path: path), sheet.height % sheet.width == 0 else {
      return []
    }
    return (0..<(sheet.height / sheet.width)).map { head in
      let size = sheet.width * sheet.width
      let pixels = (0..<size).flatMap { index -> [UInt8] in
        let level = sheet.pixels[3 * (head * size + index)]
        let (red, green, blue) = HeatMap.components(Double(level) / 255)
        return [red, green, blue]
      }
      return RGBImage(width: sheet.width, height: sheet.width, pixels: pixels)
    }
  }

  /// Reads the cache, or joins or starts the job that fills it.
  private func findAnalysis(again: Bool) -> Action {
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

  private func startPreview(
    _ generation: Int, _ plan: GraftPlan?, _ weightsFrom: String?, _ settings: PreviewSettings,
    _ options: PreviewOptions
  ) -> [Action] {
    var request = previewRequest(settings, of: plan)
    request.isBackground = options.isBackground
    do {
      request.weights = try weights(of: weightsFrom)
      if let step = options.checkpoint, let run = weightsFrom.flatMap({ store.run($0) }) {
        request.weights = [run.checkpointPath(ofStep: step)]
      }
      let run = try start(.preview(request), name: plan?.name ?? Self.name(model), plan: plan)
      previews[run.id] = generation
      return [.previewStarted(generation: generation, runID: run.id)]
    } catch {
      return [.previewEnded(generation: generation, problem: "\(error)")]
    }
  }

  private func previewRequest(_ settings: PreviewSettings, of plan: GraftPlan?) -> PreviewRequest {
    PreviewRequest(
      modelPath: model.path, planPath: plan.map { _ in "plan.json" },
      classLabel: settings.classLabel, seed: settings.seed, steps: settings.steps,
      guidance: settings.guidance, classes: settings.classes, seeds: settings.seeds,
      frames: settings.frames)
  }

  /// Samples the graft of a run by itself.
  private func startPreview(
    _ generation: Int, of id: String, _ settings: PreviewSettings
  ) -> [Action] {
    do {
      guard let source = store.run(id) else {
        throw FileError("the run \(id) is no longer in \(root)")
      }
      let plan = try read(source.planPath)
      var request = previewRequest(settings, of: plan)
      (request.skipsTeacher, request.weights) = (true, [try source.trainedWeights()])
      let run = try start(.preview(request), name: plan.name, plan: plan)
      previews[run.id] = generation
      return [.previewStarted(generation: generation, runID: run.id)]
    } catch {
      return [.previewEnded(generation: generation, problem: "\(error)")]
    }
  }

  /// Steps of the checkpoints that a run keeps: the newest, and those of earlier steps.
  private func checkpoints(of run: RunDirectory) -> [Int] {
    Set(run.keptSteps + [store.summary(run.id)?.checkpoint?.step].compactMap(\.self)).sorted()
  }

  /// Writes pictures beside each other, unless the file is there already.
  private func save(_ images: [RGBImage], to path: String) -> Action {
    let expanded = Self.expand(path)
    guard !FileManager.default.fileExists(atPath: expanded) else {
      return .controlFailed("\(path): is there already; choose another name")
    }
    guard let first = images.first else { return .controlFailed("there are no pictures to save") }
    do {
      let same = images.filter { $0.width == first.width && $0.height == first.height }
      try RGBImage.grid(same, columns: same.count, gap: 2).write(to: expanded)
      return .picturesSaved(path: path)
    } catch {
      return .controlFailed("\(error)")
    }
  }

  /// Makes a run and starts its worker, or puts it into the queue.
  func start(
    _ job: Job, name: String, plan: GraftPlan?, queue: QueuePlace? = nil
  ) throws -> RunDirectory {
    let request = JobRequest(
      job: job, name: name, codeVersion: codeVersion, seed: plan?.seed ?? 0,
      modelHash: model.contentHash, queue: queue)
    let run = try launcher.launch(request, plan: plan)
    store.add(run)
    return run
  }

  private static func name(_ model: ModelReference) -> String {
    model.path.split(separator: "/").last.map(String.init) ?? model.path
  }

  /// Asks the workers of unfinished previews to stop.
  package func cancelPreviews() {
    for id in previews.keys { _ = try? store.run(id)?.requestCancellation() }
  }
}
