import Files
import Datasets
import Foundation
import Models
import Sampling
import TensorCore

/// Metrics of the demo model from the features of the judge network instead of Inception:
/// agreement, Fréchet distance, precision, recall and score.
package struct Evaluation: Codable, Sendable {
  /// Fraction of samples that the judge assigns to their own class.
  package let agreement: Double
  /// Agreement per class.
  package let agreementByClass: [Double]
  /// Squared Fréchet distance between the judge's features of samples and of fresh images.
  package let frechetDistance: Double
  /// Squared Fréchet distance between two sets of fresh images, the floor of the metric.
  package let frechetFloor: Double
  /// Fraction of samples inside the manifold of fresh images, in the judge's features (k = 3).
  package let precision: Double
  /// Fraction of fresh images inside the manifold of samples, in the judge's features (k = 3).
  package let recall: Double
  /// Inception score computed from the judge's class probabilities.
  package let judgeScore: Double
  /// The judge's accuracy on fresh images.
  package let judgeAccuracy: Double
  /// Number of samples.
  package let samples: Int

  /// Seeds of the procedural source for the two fresh sets.
  private static let (freshSeed, floorSeed): (UInt64, UInt64) = (1001, 1002)

  /// Samples a model with balanced classes and evaluates the decoded images with the judge.
  ///
  /// - Parameters:
  ///   - model: The network, grafted or not.
  ///   - autoencoder: Decoder of its latents.
  ///   - judge: The classifier.
  ///   - sampler: Method, steps, guidance and seed.
  ///   - samples: Number of images.
  ///   - batch: Number of images per batch.
  ///   - folder: Folder for the finished batches of this model and sampler alone; nil keeps none.
  ///   - log: Keeps the counts of step caching.
  ///   - progress: Called with the number of images done; may throw to stop.
  /// - Returns: All metrics.
  /// - Throws: `SamplingError`, `FeatureMetricError`, and errors of `progress`.
  package static func run(
    _ model: any DiffusionTransformer, autoencoder: AutoencoderKL, judge: ShapeJudge,
    sampler: LatentSampler,
    samples: Int, batch: Int = 20, keptIn folder: String? = nil, log: StepReuseLog? = nil,
    progress: (Int) throws -> Void
  ) throws -> Evaluation {
    let classes = model.shape.numClasses
    let labels = (0..<samples).map { $0 % classes }
    let parts = try TensorParts(keptIn: folder)
    var verdicts = Verdicts(classes: classes)
    for first in stride(from: 0, to: samples, by: batch) {
      let range = first..<min(samples, first + batch)
      let part = try parts.part("judged-\(first)", rows: range.count, ["features", "logits"]) {
        let latents = try sampler.sample(
          model, labels: Array(labels[range]), first: first, reuse: log?.reuse)
        try log?.keep(partAt: first)
        let verdict = judge(AutoencoderKL.tensor(autoencoder.rgbImages(ofScaled: latents)))
        return [verdict.features, verdict.logits]
      }
      verdicts.add(.init(features: part[0], logits: part[1]), labels: Array(labels[range]))
      try progress(range.upperBound)
    }
    let fresh = Self.fresh(freshSeed, count: samples, judge: judge, classes: classes)
    let floor = Self.fresh(floorSeed, count: samples, judge: judge, classes: classes)
    let (sampleFeatures, freshFeatures) = (verdicts.features, fresh.features)
    let reference = try FeatureStatistics(freshFeatures)
    return Evaluation(
      agreement: verdicts.accuracy, agreementByClass: verdicts.accuracyByClass,
      frechetDistance: try FrechetDistance.squared(
        try FeatureStatistics(sampleFeatures), reference),
      frechetFloor: try FrechetDistance.squared(try FeatureStatistics(floor.features), reference),
      precision: try FeatureManifold(freshFeatures).share(of: sampleFeatures),
      recall: try FeatureManifold(sampleFeatures).share(of: freshFeatures),
      judgeScore: try InceptionScore(probabilities: verdicts.probabilities).mean,
      judgeAccuracy: fresh.accuracy, samples: samples)
  }

  private static func fresh(_ seed: UInt64, count: Int, judge: ShapeJudge, classes: Int)
    -> Verdicts
  {
    let source = ShapeSource(seed: seed)
    var verdicts = Verdicts(classes: classes)
    for first in stride(from: 0, to: count, by: 50) {
      let range = first..<min(count, first + 50)
      let images = range.map { source.image(index: $0) }
      verdicts.add(
        judge(ShapeSource.tensor(images.map(\.pixels))), labels: images.map(\.label))
    }
    return verdicts
  }
}

/// Predictions and features of the judge for a set of images.
private struct Verdicts {
  private var featureRows: [Tensor] = []
  private var probabilityRows: [Tensor] = []
  private var right: [Int]
  private var total: [Int]

  init(classes: Int) {
    right = [Int](repeating: 0, count: classes)
    total = right
  }

  mutating func add(_ verdict: ShapeJudge.Verdict, labels: [Int]) {
    featureRows.append(verdict.features)
    probabilityRows.append(verdict.probabilities)
    for (row, label) in labels.enumerated() {
      total[label] += 1
      if verdict.classes[row] == label { right[label] += 1 }
    }
  }

  var accuracy: Double { Double(right.reduce(0, +)) / Double(max(1, total.reduce(0, +))) }
  var accuracyByClass: [Double] { zip(right, total).map { Double($0) / Double(max(1, $1)) } }

  var features: Tensor { TensorParts.stacked(featureRows) }
  var probabilities: Tensor { TensorParts.stacked(probabilityRows) }
}

extension ModelFiles {
  /// Loads the judge.
  ///
  /// - Throws: `FileError` if the model's folder has no judge, or the judge has other classes.
  package func judge() throws -> ShapeJudge {
    guard let judgePath else {
      throw FileError(
        "\(modelPath): no 'judge.safetensors' beside it; agreement and Fréchet distance need one")
    }
    try requireShapes()
    return try ShapeJudge(path: judgePath)
  }
}
