import Analysis
import Foundation
import Models
import Runs
import Sampling
import TensorCore

/// Activation statistics and attention locality of a model, cached by the hash of its weights.
package struct AnalyzeJob {
  let context: JobContext

  /// DDIM steps of the trajectories.
  static let steps = 10

  func perform(_ request: AnalyzeRequest) throws -> String {
    let files = try ModelFiles(request.modelPath)
    let hash = try files.contentHash()
    try context.emit(.started(pid: getpid(), totalSteps: Self.steps))
    let analysis = try Self.analyze(
      files, modelHash: hash, samples: request.samples
    ) { done, total in
      try context.checkpoint(step: done)
      try context.emit(.progress(done: done, total: total, label: "analysing the teacher"))
    }
    let path = ModelAnalysis.cachePath(modelHash: hash)
    try analysis.save(to: path)
    return "analysis in \(path)"
  }

  /// Measures a model for `ModelAnalysis`.
  package static func analyze(
    _ files: ModelFiles, modelHash: String, samples: Int,
    progress: (Int, Int) throws -> Void
  ) throws -> ModelAnalysis {
    let conditions = try files.exampleConditions(samples, .fastest).conditions
    let result = try TeacherAnalysis(
      try files.model.network(), conditions, steps: Self.steps, progress: progress)
    let family = files.model.shape.family
    let times = try TeacherAnalysis.sampler(of: family, steps: Self.steps).modelTimes()
    // Times of a velocity process are listed in thousandths.
    let timesteps = times.map { Int((family.prediction == .velocity ? 1000 * $0 : $0).rounded()) }
      .sorted()
    return ModelAnalysis(
      modelHash: modelHash, bands: result.bands, samples: samples, timesteps: timesteps,
      blocks: result.blocks.map {
        BlockAnalysis(
          attention: ActivationSummary($0.attention), mlp: ActivationSummary($0.mlp),
          locality: $0.locality)
      })
  }
}

extension ActivationSummary {
  init(_ statistics: ActivationStatistics) {
    self.init(
      mean: statistics.mean, variance: statistics.variance, maxAbs: statistics.maximumMagnitude,
      kurtosis: statistics.kurtosis)
  }
}
