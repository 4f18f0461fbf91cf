import Analysis
import TensorCore

/// Statistics of attention and activations, and the Fréchet distance (`analysis_ref`, `fid_ref`).
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

  /// Means, covariances and the Fréchet distance of two feature sets.
  static func frechetDistance(_ check: ParityCheck) throws {
    let fixture = check.fixture
    let real = try FeatureStatistics(try fixture.tensor("in.real", shape: [-1, -1]))
    let fake = try FeatureStatistics(
      try fixture.tensor("in.fake", shape: [-1, real.dimension]))
    for (name, statistics) in [("real", real), ("fake", fake)] {
      try check.forward("out.mean_\(name)", statistics.mean)
      try check.forward("out.cov_\(name)", statistics.covariance)
    }
    try check.forward("out.fid", [try FrechetDistance.squared(real, fake)])
    check.leaveOut(
      ["out.inception_score", "out.precision", "out.recall", "out.radii_"],
      "the inception score, precision and recall are not built yet")
  }
}
