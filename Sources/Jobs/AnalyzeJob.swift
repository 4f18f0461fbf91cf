import Analysis
import Files
import Foundation
import Models
import Pictures
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
    let path = ModelAnalysis.cachePath(modelHash: hash)
    let analysis = try Self.analyze(
      files, modelHash: hash, samples: request.samples, mapsBeside: path
    ) { done, total in
      try context.checkpoint(step: done)
      try context.emit(.progress(done: done, total: total, label: "analysing the teacher"))
    }
    try analysis.save(to: path)
    return "analysis in \(path)"
  }

  /// Writes the mean attention maps of a model beside its cache file at `path`; see
  /// `ModelAnalysis.mapPath`.
  private static func save(_ blocks: [TeacherAnalysis.Block], beside path: String) throws {
    for (block, map) in blocks.map(\.map).enumerated() where map.heads > 0 {
      let file = ModelAnalysis.mapPath(beside: path, block: block)
      try AtomicFile.makeDirectory(AtomicFile.directory(of: file))
      let pixels = (0..<map.heads).flatMap { head -> [UInt8] in
        let weights = map.mean(ofHead: head)
        let largest = max(weights.max() ?? 0, .leastNormalMagnitude)
        return weights.flatMap { weight -> [UInt8] in
          let level = UInt8((255 * (max(0, weight) / largest).squareRoot()).rounded())
          return [level, level, level]
        }
      }
      try RGBImage(width: map.side, height: map.heads * map.side, pixels: pixels).write(to: file)
    }
  }

  /// Measures a model for `ModelAnalysis`, and writes the mean attention maps beside the cache file
  /// at a path, if one is given.
  package static func analyze(
    _ files: ModelFiles, modelHash: String, samples: Int, mapsBeside path: String?,
    progress: (Int, Int) throws -> Void
  ) throws -> ModelAnalysis {
    let result = try TeacherAnalysis(
      try files.model.load(), samples: samples, steps: Self.steps, progress: progress)
    if let path { try save(result.blocks, beside: path) }
    let timesteps = try LatentSampler(
      steps: Self.steps, guidance: TeacherAnalysis.guidance, seed: 0
    ).timesteps()
    return ModelAnalysis(
      modelHash: modelHash, bands: result.bands, samples: samples, timesteps: timesteps,
      blocks: result.blocks.map {
        BlockAnalysis(
          attention: ActivationSummary($0.attention, $0.attentionChannels),
          mlp: ActivationSummary($0.mlp, $0.mlpChannels),
          locality: $0.locality.samples > 0 ? $0.locality.overall : [],
          localityPerHead: $0.locality.perHead, within: $0.locality.within)
      })
  }
}

extension ActivationSummary {
  init(_ statistics: ActivationStatistics, _ channels: ChannelStatistics) {
    self.init(
      mean: statistics.mean, variance: statistics.variance, maxAbs: statistics.maximumMagnitude,
      kurtosis: statistics.kurtosis,
      histogram: statistics.histogram.bins.map {
        HistogramBin(
          low: $0.low, high: $0.high, share: Double($0.count) / Double(max(1, statistics.count)))
      },
      channels: ChannelSummary(
        rms: channels.rms, maxAbs: channels.maximumMagnitude, medianRMS: channels.medianRMS))
  }
}
