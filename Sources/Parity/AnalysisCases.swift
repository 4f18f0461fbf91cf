import Analysis
import Evaluation
import Files
import TensorCore

/// Statistics of attention and activations, and feature metrics (`analysis_ref`, `fid_ref`).
enum AnalysisCases {
  /// Attention locality per map, per head and overall; moments of activations.
  static func statistics(_ check: ParityCheck) throws {
    let fixture = check.fixture
    let bands = try fixture.integers("out.bands", in: 0..<1_000_000)
    try check.exact("out.bands", try fixture.settings.integers("bands"))
    let maps = try fixture.tensor("in.attn", shape: [-1, -1, -1, -1])
    try fixture.require(
      "in.attn", shape: [maps.shape[0], maps.shape[1], maps.shape[2], maps.shape[2]])
    var locality = AttentionLocality(bands: bands)
    try check.forward("out.locality_per_map", locality.perMap(maps))
    locality.add(maps)
    try check.forward("out.locality_per_head", locality.perHead.flatMap { $0 })
    try check.forward("out.locality", locality.overall)
    for name in try fixture.settings.texts("activations") {
      let shape = try fixture.shape("in.act.\(name)")
      let found = ActivationStatistics(try fixture.tensor("in.act.\(name)", shape: shape))
      let count = Double(found.count)
      let values = [
        "mean": found.mean, "variance": found.variance,
        "variance_unbiased": found.variance * count / (count - 1), "std": found.standardDeviation,
        "min": found.minimum, "max": found.maximum, "max_abs": found.maximumMagnitude,
        "kurtosis": found.kurtosis, "kurtosis_excess": found.kurtosis - 3,
      ]
      for (statistic, value) in values.sorted(by: { $0.key < $1.key }) {
        try check.forward("out.stat.\(name).\(statistic)", [value])
      }
    }
  }

  /// Fréchet distance, precision and recall of two feature sets, and the Inception score of class
  /// probabilities.
  static func featureMetrics(_ check: ParityCheck) throws {
    let fixture = check.fixture
    let realFeatures = try fixture.tensor("in.real", shape: [-1, -1])
    let fakeFeatures = try fixture.tensor("in.fake", shape: [-1, realFeatures.shape[1]])
    let real = try FeatureStatistics(realFeatures)
    let fake = try FeatureStatistics(fakeFeatures)
    for (name, statistics) in [("real", real), ("fake", fake)] {
      try check.forward("out.mean_\(name)", statistics.mean)
      try check.forward("out.cov_\(name)", statistics.covariance)
    }
    try check.forward("out.fid", [try FrechetDistance.squared(real, fake)])

    let neighbor = try fixture.settings.integer("k", in: 1...1000)
    let realManifold = try FeatureManifold(realFeatures, neighbor: neighbor)
    let fakeManifold = try FeatureManifold(fakeFeatures, neighbor: neighbor)
    try check.forward("out.radii_real", realManifold.radii)
    try check.forward("out.radii_fake", fakeManifold.radii)
    try check.forward("out.precision", [try realManifold.share(of: fakeFeatures)])
    try check.forward("out.recall", [try fakeManifold.share(of: realFeatures)])

    let probabilities = try fixture.tensor("in.probs", shape: [-1, -1])
    for splits in try fixture.settings.integers("is_splits") {
      guard (1...probabilities.shape[0]).contains(splits) else {
        throw FileError(
          "\(fixture.path): config key 'is_splits' holds \(splits), expected 1 to"
            + " \(probabilities.shape[0]); the file is damaged, copy it again")
      }
      let score = try InceptionScore(probabilities: probabilities, splits: splits)
      if splits == 1 {
        try check.forward("out.inception_score", [score.mean])
      } else {
        try check.forward("out.inception_score_\(splits)_mean", [score.mean])
        try check.forward("out.inception_score_\(splits)_std", [score.standardDeviation])
      }
    }
  }
}
