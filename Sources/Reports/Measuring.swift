import Evaluation
import Files
import Foundation
import Grafting
import Models
import Pictures
import Plans
import Runs
import Sampling
import TensorCore

/// Computes the measurements of a report and stores them in the run.
package struct Measuring {
  /// Computed parts of a report.
  package enum Part: CaseIterable, Sendable {
    /// Metrics from the judge.
    case judged
    /// Forward pass times.
    case speed
    /// Sample grids.
    case grids
  }

  private let facts: RunFacts
  private let parts: Set<Part>
  private let images: Int
  private let progress: Progress

  /// Callback with the current activity and its progress; may throw to stop.
  package typealias Progress = (_ label: String, _ done: Int, _ total: Int) throws -> Void

  /// Prepares the measurement of a run.
  ///
  /// - Parameters:
  ///   - facts: The run.
  ///   - parts: The parts to compute.
  ///   - images: Number of images per grid, at most one per class.
  ///   - progress: Called as the measurement proceeds.
  package init(
    _ facts: RunFacts, parts: Set<Part>, images: Int = 10, progress: @escaping Progress
  ) {
    (self.facts, self.parts, self.images, self.progress) = (facts, parts, images, progress)
  }

  /// Computes the missing parts and saves after each.
  ///
  /// - Parameters:
  ///   - samples: Number of judged images; nil selects that of earlier measurements, otherwise 100.
  ///   - steps: Number of denoising steps; nil selects that of earlier measurements, otherwise that
  ///     of `espalier sample`.
  /// - Returns: All measurements; nil for a run without a checkpoint.
  /// - Throws: `FileError` and `PlanError` for an unusable model or weights.
  package func measure(samples: Int?, steps: Int?) throws -> Measurements? {
    guard let weights = try Measurements.weightsStamp(of: facts.run) else { return nil }
    let earlier = try Measurements.cached(facts.run)
    var settings = earlier?.settings ?? DrawingSettings(family: facts.plan.model.shape.family)
    settings.samples = samples ?? settings.samples
    settings.steps = steps ?? settings.steps
    var result = Measurements(weights: weights, settings: settings)
    result.speed = earlier?.speed
    if let earlier, earlier.settings == settings { result = earlier }
    let files = try ModelFiles(facts.plan.model.path)
    result.judgedNote = files.reasonAgainstJudging
    let missing = parts.filter { part in
      switch part {
      case .judged: result.judged == nil && result.judgedNote == nil
      case .speed: result.speed == nil
      case .grids: result.grids == nil && files.autoencoderPath != nil && images > 0
      }
    }
    if result.grids == nil {
      result.gridsNote =
        files.autoencoderPath == nil
        ? "the folder of the model has no autoencoder" : images > 0 ? nil : "none were asked for"
    }
    guard !missing.isEmpty else { return result }

    try facts.plan.check(against: try files.reference())
    let teacher = try files.model.network()
    let graft = try Graft(
      plan: facts.plan, teacher: teacher, checkpoints: [try facts.run.trainedWeights()])
    var known: [TensorBoardRecord.Value] = []
    if missing.contains(.speed) {
      result.speed = PairedSpeed(graft: graft.model, teacher: teacher) { done, pairs in
        // A request to stop is noticed by the next activity.
        try? progress("timing a forward pass", done, pairs)
      }
      try result.save(to: facts.run)
    }
    if missing.contains(.grids) {
      try drawGrids(graft, files, settings, into: &result)
      try result.save(to: facts.run)
      for grid in result.grids ?? [] {
        known.append(
          try TensorBoardLog.image(
            tag: "samples/\(grid.role.rawValue)", path: facts.run.resolve(grid.path)))
      }
    }
    if missing.contains(.judged) {
      try judge(graft, files, settings, into: &result)
      try result.save(to: facts.run)
      if let graft = result.judged?.graft {
        known += [
          .scalar(tag: "judge/agreement", graft.agreement),
          .scalar(tag: "judge/frechet_distance", graft.frechetDistance),
        ]
      }
    }
    // TensorBoard would ignore further records of a running worker after a newer file.
    if !known.isEmpty, !facts.isAlive {
      // Optional, because the report has all values.
      try? TensorBoardLog(run: facts.run).add(known, step: facts.summary.step)
    }
    return result
  }

  private func judge(
    _ graft: Graft, _ files: ModelFiles, _ settings: DrawingSettings,
    into result: inout Measurements
  ) throws {
    let (judge, autoencoder) = (try files.judge(), try files.autoencoder(.float32))
    func evaluate(_ model: any DiffusionTransformer, _ name: String) throws -> Evaluation {
      try Evaluation.run(
        model, autoencoder: autoencoder, judge: judge,
        sampler: settings.sampler(of: facts.plan.model.shape.family),
        samples: settings.samples
      ) { try progress("judging the \(name)", $0, settings.samples) }
    }
    let teacher = try TeacherEvaluations(files: files, plan: facts.plan, settings: settings)
      .value { try evaluate(graft.teacher, "teacher") }
    result.judged = JudgedPair(graft: try evaluate(graft.model, "graft"), teacher: teacher)
  }

  private func drawGrids(
    _ graft: Graft, _ files: ModelFiles, _ settings: DrawingSettings,
    into result: inout Measurements
  ) throws {
    let autoencoder = try files.autoencoder(.float32)
    let family = graft.teacher.shape.family
    let (conditions, names) = try files.exampleConditions(
      family.condition == .classes ? min(images, graft.teacher.shape.numClasses) : min(images, 4),
      .fastest)
    func draw(_ model: any DiffusionTransformer, _ name: String) throws -> [RGBImage] {
      let latents = try settings.sampler(of: family).sample(
        model, for: conditions,
        onStep: { step, steps, _ in try progress("drawing the \(name), step", step, steps) })
      return AutoencoderKL.rgbImages(
        ofDecoded: autoencoder.decode(autoencoder.unscaled(latents), tiling: .auto), .of(family))
    }
    try facts.run.requirePlainFiles()
    var grids: [SampleGrid] = []
    func write(_ images: [RGBImage], _ role: SampleGrid.Role) throws {
      let path = "samples/report-\(role.rawValue).png"
      try RGBImage.grid(images, columns: min(5, names.count), gap: 2).write(
        to: facts.run.resolve(path))
      grids.append(SampleGrid(role: role, path: path))
    }
    let teacher = try draw(graft.teacher, "teacher")
    try write(teacher, .teacher)
    let gone = facts.startWeights.filter { !FileManager.default.fileExists(atPath: $0) }
    if let first = gone.first {
      result.gridsNote = "the weights that it began with, \(first), are gone"
    } else {
      let start = try Graft(
        plan: facts.plan, teacher: graft.teacher, checkpoints: facts.startWeights)
      try write(try draw(start.model, "graft before"), .before)
    }
    let after = try draw(graft.model, "graft")
    try write(after, .after)
    try write(zip(teacher, after).map { $0.absoluteDifference(to: $1) }, .difference)
    result.gridLabels = names
    result.grids = grids
  }
}

extension ModelFiles {
  /// Reason why the model cannot be judged, found without loading it; nil if it can.
  fileprivate var reasonAgainstJudging: String? {
    switch (judgePath, autoencoderPath) {
    case (nil, _): "there is no judge beside the model"
    case (_, nil): "the folder of the model has no autoencoder"
    default: nil
    }
  }
}

/// Cache of evaluations of teachers, shared by runs.
private struct TeacherEvaluations {
  private let path: String
  private let identity: String

  private struct Entry: Codable {
    let identity: String
    let evaluation: Evaluation
  }

  init(files: ModelFiles, plan: GraftPlan, settings: DrawingSettings) throws {
    var parts = [plan.model.contentHash]
    for path in [files.judgePath, files.autoencoderPath].compactMap(\.self) {
      parts.append(
        try ContentHash.sha256(
          paths: path == files.judgePath ? [path] : AutoencoderKL.files(of: path)))
    }
    parts.append("\(settings)")
    identity = parts.joined(separator: " ")
    let name = ContentHash.sha256(Data(identity.utf8)).prefix(24)
    path = try ModelFiles.cacheDirectory() + "/judged-\(name).json"
  }

  /// Returns the cached evaluation, or computes and caches it.
  func value(_ compute: () throws -> Evaluation) throws -> Evaluation {
    // A damaged cache file is replaced.
    if let bytes = try? AtomicFile.read(path, limit: 1 << 20),
      let entry = try? JSONDecoder().decode(Entry.self, from: Data(bytes)),
      entry.identity == identity
    {
      return entry.evaluation
    }
    let evaluation = try compute()
    try AtomicFile.write(
      JSONEncoder().encode(Entry(identity: identity, evaluation: evaluation)), to: path)
    return evaluation
  }
}
