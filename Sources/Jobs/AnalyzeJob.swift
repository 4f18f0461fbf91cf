import Analysis
import Foundation
import Models
import Runs
import Sampling

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
    let result = try TeacherAnalysis(
      try files.model.load(), samples: samples, steps: Self.steps, progress: progress)
    let timesteps = try LatentSampler(
      steps: Self.steps, guidance: TeacherAnalysis.guidance, seed: 0
    ).timesteps()
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
