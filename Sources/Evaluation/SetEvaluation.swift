import Foundation
import TensorCore

/// Metrics of a set of samples against a reference.
package struct SetEvaluation: Codable, Sendable {
  /// Squared Fréchet distance of the features: the FID with pooled Inception features.
  package var frechetDistance: Double
  /// Squared Fréchet distance of the spatial features, the sFID.
  package var spatialFrechetDistance: Double?
  /// Mean inception score over consecutive blocks of 5,000 samples.
  package var inceptionScore: Double?
  /// Population standard deviation of the score over the blocks; nil for one block.
  package var inceptionScoreDeviation: Double?
  /// Share of samples inside the reference's manifold, and the other way round (k = 3).
  package var precision, recall: Double?
  /// Mean kernel inception distance over subsets of at most half the set, and its standard deviation.
  package var kernelDistance, kernelDistanceDeviation: Double?
  /// Maximum mean discrepancy of features from a file: the CMMD with embeddings of CLIP.
  package var clipDiscrepancy: Double?
  /// Squared sliced Wasserstein distance of the features.
  package var slicedWasserstein: Double?
  /// Standard error of its mean over the directions.
  package var slicedWassersteinError: Double?
  /// Fréchet distances of resampled sets: the 5th and the 95th percentile.
  package var frechetInterval: [Double]?
  /// Restrictions on the numbers, in sentences.
  package var notes: [String] = []

  /// Samples of an inception score's block.
  private static let scoreBlock = 5000
  /// Subsets of the kernel inception distance, as in torch-fidelity.
  private static let (subsets, subsetSize) = (100, 1000)
  /// Samples below which a Fréchet distance of Inception features is mostly bias.
  private static let fewSamples = 10_000

  /// Computes all metrics that the sets allow.
  ///
  /// - Parameters:
  ///   - samples: Features of the samples.
  ///   - reference: Features of reference images; nil with statistics alone.
  ///   - statistics: Statistics of the reference; nil computes them of `reference`.
  ///   - spatialStatistics: Statistics of its spatial features.
  ///   - resamplings: Number of bootstrap sets for the interval of the Fréchet distance; 0 for none.
  ///   - progress: Called with the name of every metric before it is computed; may throw to stop.
  /// - Throws: `FeatureMetricError` for sets that do not fit, and errors of `progress`.
  package init(
    samples: FeatureSet, reference: FeatureSet?, statistics: FeatureStatistics?,
    spatialStatistics: FeatureStatistics?, resamplings: Int = 0,
    progress: (String) throws -> Void = { _ in }
  ) throws {
    func known(_ given: FeatureStatistics?, _ features: Tensor?) throws -> FeatureStatistics? {
      try given ?? features.map { try FeatureStatistics($0) }
    }
    try progress("Fréchet distance")
    guard let known = try known(statistics, reference?.features) else {
      throw FeatureMetricError(
        description:
          "the reference has neither statistics nor samples; give a reference file or images")
    }
    frechetDistance = try FrechetDistance.squared(try FeatureStatistics(samples.features), known)
    if resamplings > 0 {
      var distances: [Double] = []
      for draw in 0..<resamplings {
        try progress("interval, set \(draw + 1) of \(resamplings)")
        let stream = RandomStream(seed: 0, "bootstrap/\(draw)")
        let rows = (0..<samples.count).map { stream.integer(below: samples.count, $0) }
        let drawn = Tensor(samples.features.shape)
        for (row, chosen) in rows.enumerated() {
          drawn.rows(row..<(row + 1)).assign(samples.features.rows(chosen..<(chosen + 1)))
        }
        distances.append(try FrechetDistance.squared(try FeatureStatistics(drawn), known))
      }
      distances.sort()
      let last = Double(distances.count - 1)
      frechetInterval = [0.05, 0.95].map { distances[Int(($0 * last).rounded())] }
    }
    if let spatial = samples.spatial {
      let other = try spatialStatistics ?? reference?.spatial.map { try FeatureStatistics($0) }
      if let other {
        try progress("sFID")
        spatialFrechetDistance = try FrechetDistance.squared(try FeatureStatistics(spatial), other)
      }
    }
    if let logits = samples.logits {
      try progress("inception score")
      let score = try InceptionScore(logits: logits, block: Self.scoreBlock)
      inceptionScore = score.mean
      if score.scores.count > 1 { inceptionScoreDeviation = score.standardDeviation }
    }
    if let reference {
      try progress("precision and recall")
      precision = try FeatureManifold(reference.features).share(of: samples.features)
      recall = try FeatureManifold(samples.features).share(of: reference.features)
      try progress("kernel distance")
      let kernel = try KernelDistances.kernelInceptionDistance(
        samples.features, reference.features, subsets: Self.subsets, size: Self.subsetSize,
        seed: 2020)
      (kernelDistance, kernelDistanceDeviation) = (kernel.mean, kernel.standardDeviation)
      if samples.spatial == nil {
        try progress("maximum mean discrepancy")
        clipDiscrepancy = try KernelDistances.clipDiscrepancy(
          samples.features, reference.features)
        notes.append(
          "the CMMD is that of the paper with embeddings of CLIP ViT-L/14 at 336 pixels; rows are scaled to length 1"
        )
      }
      try progress("sliced Wasserstein distance")
      let sliced = try SlicedWasserstein.squared(samples.features, reference.features)
      (slicedWasserstein, slicedWassersteinError) = (sliced.value, sliced.standardError)
    }
    if samples.count <= samples.features.shape[1] {
      notes.append(
        "\(samples.count) samples give a covariance of less than full rank for \(samples.features.shape[1]) features:"
          + " the Fréchet distance is mostly bias")
    } else if samples.count < Self.fewSamples, samples.spatial != nil {
      notes.append(
        "\(samples.count) samples are fewer than \(Self.fewSamples): the FID is biased upwards and compares with"
          + " FIDs of as many samples alone")
    }
    if reference == nil {
      notes.append(
        "the reference has statistics alone: no precision, recall, kernel or sliced Wasserstein distance"
      )
    }
  }
}
