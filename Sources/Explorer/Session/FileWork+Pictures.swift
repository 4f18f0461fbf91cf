import Files
import Foundation
import Pictures
import Plans
import Runs
import TerminalUI

/// Pictures of the teacher's attention, of other runs and of earlier checkpoints; saving them.
extension FileWork {
  /// Does one piece of that work.
  func show(_ effect: Effect) -> [Action] {
    switch effect {
    case .readAttentionMaps(let block):
      [.attentionMapsRead(block: block, attentionMaps(block))]
    case .startRunPreview(let generation, let runID, let settings):
      startPreview(generation, of: runID, settings)
    case .readCheckpoints(let id):
      store.run(id).map { [.checkpointsRead(id: id, steps: checkpoints(of: $0))] } ?? []
    case .savePictures(let images, let path): [save(images, to: path)]
    case .readSet(let id): store.run(id).map { [readSet($0)] } ?? []
    default: []
    }
  }

  /// How far a set is, how it is drawn, and small pictures of it.
  private func readSet(_ run: RunDirectory) -> Action {
    var lines: [String] = []
    if let summary = store.summary(run.id) {
      let left = summary.secondsLeft.map { ", ~\(Format.clock($0)) left" } ?? ""
      lines.append("\(summary.stateText), \(summary.progressText)\(left)")
      if let text = summary.end?.text { lines.append(text) }
    }
    if let job = try? run.request().job, case .sample(let request) = job {
      let sampler = request.sampler
      lines.append(
        "\(Format.count(request.count, "image")), \(sampler.method) \(sampler.steps) steps, guidance"
          + " \(Format.plain(sampler.guidance)), seed \(sampler.seed), labels \(request.labels.rawValue)"
      )
      lines.append(request.model.path)
    }
    // Of a finished set: the digests too.
    if let bytes = try? AtomicFile.read(run.setPath, limit: 1 << 20),
      let entries = try? JSONDecoder().decode([String: String].self, from: Data(bytes))
    {
      lines += entries.sorted { $0.key < $1.key }.map { "\($0.key): \($0.value)" }
    }
    return .setRead(
      id: run.id, lines: lines,
      sheet: try? RGBImage.read(path: run.resolve(RunDirectory.sheet)))
  }

  /// The mean attention map of a block's heads and then that of each in colours; empty without a readable picture of
  /// them.
  private func attentionMaps(_ block: Int) -> [RGBImage] {
    let cache = ModelAnalysis.cachePath(modelHash: model.contentHash)
    let path = ModelAnalysis.mapPath(beside: cache, block: block)
    guard let sheet = try? RGBImage.read(path: path), sheet.height % sheet.width == 0 else {
      return []
    }
    let size = sheet.width * sheet.width
    let heads = (0..<(sheet.height / sheet.width)).map { head in
      (0..<size).map { Double(sheet.pixels[3 * (head * size + $0)]) / 255 }
    }
    return ([Self.meanMap(heads)] + heads).map { levels in
      let pixels = levels.flatMap { level -> [UInt8] in
        let (red, green, blue) = HeatMap.components(level)
        return [red, green, blue]
      }
      return RGBImage(width: sheet.width, height: sheet.width, pixels: pixels)
    }
  }

  /// The mean of the maps of heads, whose levels are square roots of weights relative to the head's largest.
  ///
  /// The weights of every head have the same sum, which gives each its scale.
  package static func meanMap(_ heads: [[Double]]) -> [Double] {
    guard let first = heads.first else { return [] }
    var mean = [Double](repeating: 0, count: first.count)
    for levels in heads {
      let sum = levels.reduce(0) { $0 + $1 * $1 }
      guard sum > 0 else { continue }
      for (index, level) in levels.enumerated() { mean[index] += level * level / sum }
    }
    let largest = max(mean.max() ?? 0, .leastNormalMagnitude)
    return mean.map { ($0 / largest).squareRoot() }
  }

  /// The request for a preview with some settings; operators without weights are fitted.
  func previewRequest(_ settings: PreviewSettings, of plan: GraftPlan?) -> PreviewRequest {
    var request = PreviewRequest(
      modelPath: model.path, planPath: plan.map { _ in "plan.json" },
      classLabel: settings.classLabel, prompts: settings.prompts, sampler: settings.sampler,
      seed: settings.seed, steps: settings.steps, guidance: settings.guidance,
      classes: settings.rows, seeds: settings.seeds,
      frames: settings.frames, fits: true)
    request.cache = settings.cache > 0 ? settings.cache : nil
    return request
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
}
