import Checkpoints
import Evaluation
import Files
import Foundation
import TensorCore

/// Metrics of generated images (`metrics`) and their feature network (`inception`).
enum MetricCases {
  private static func relative(_ fixture: Fixture) throws -> Double {
    try fixture.settings.table("tolerance").number("relative")
  }

  /// Fréchet, kernel and CLIP distances, scores, precision and recall of feature sets.
  static func features(_ check: ParityCheck) throws {
    let fixture = check.fixture
    let bound = try relative(fixture)
    func scalar(_ name: String, _ value: Double) throws {
      try check.forward("out.\(name)", [value], tolerance: bound)
    }
    let real = try fixture.tensor("in.real", shape: [-1, -1])
    let fake = try fixture.tensor("in.fake", shape: [-1, real.shape[1]])
    let spatialReal = try fixture.tensor("in.spatial_real", shape: [-1, -1])
    let spatialFake = try fixture.tensor("in.spatial_fake", shape: [-1, spatialReal.shape[1]])
    let sets = try [real, fake, spatialReal, spatialFake].map { try FeatureStatistics($0) }
    for (name, index) in [("real", 0), ("fake", 1)] {
      try check.forward("out.mean_\(name)", sets[index].mean, tolerance: bound)
      try check.forward("out.cov_\(name)", sets[index].covariance, tolerance: bound)
      try check.forward("out.mean_spatial_\(name)", sets[index + 2].mean, tolerance: bound)
    }
    try scalar("fid", try FrechetDistance.squared(sets[0], sets[1]))
    try scalar("sfid", try FrechetDistance.squared(sets[2], sets[3]))
    let score = try InceptionScore(
      logits: try fixture.tensor("in.logits", shape: [-1, -1]),
      block: try fixture.settings.integer("is_block", in: 1...1_000_000))
    try scalar("inception_score", score.mean)
    try check.forward("out.is_blocks", score.scores, tolerance: bound)

    let neighbor = try fixture.settings.integer("k", in: 1...1000)
    let (realManifold, fakeManifold) = (
      try FeatureManifold(real, neighbor: neighbor), try FeatureManifold(fake, neighbor: neighbor)
    )
    try check.forward("out.radii2_real", realManifold.radii.map { $0 * $0 }, tolerance: bound)
    try check.forward("out.radii2_fake", fakeManifold.radii.map { $0 * $0 }, tolerance: bound)
    try scalar("precision", try realManifold.share(of: fake))
    try scalar("recall", try fakeManifold.share(of: real))

    let shape = try fixture.shape("in.kid_indices_real")
    try fixture.require("in.kid_indices_fake", shape: shape)
    let realRows = try fixture.integers("in.kid_indices_real", in: 0..<real.shape[0])
    let fakeRows = try fixture.integers("in.kid_indices_fake", in: 0..<fake.shape[0])
    let size = shape.last ?? 1
    let subsets = try (0..<(realRows.count / max(1, size))).map { subset in
      let range = (subset * size)..<((subset + 1) * size)
      return try KernelDistances.kernelInceptionDistance(
        real, fake, rows: (Array(realRows[range]), Array(fakeRows[range])))
    }
    let mean = subsets.reduce(0, +) / Double(subsets.count)
    let variance = subsets.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(subsets.count)
    try check.forward("out.kid_subsets", subsets, tolerance: bound)
    try scalar("kid_mean", mean)
    try scalar("kid_std", variance.squareRoot())
    try scalar("kid_full", try KernelDistances.kernelInceptionDistance(real, fake))

    let embedded = try fixture.tensor("in.embed_a", shape: [-1, -1])
    let other = try fixture.tensor("in.embed_b", shape: [-1, embedded.shape[1]])
    try scalar("cmmd", try KernelDistances.clipDiscrepancy(embedded, other))
    try scalar(
      "cmmd_unnormalised", try KernelDistances.clipDiscrepancy(real, fake, normalizes: false))
  }

  /// Degenerate sets.
  static func edges(_ check: ParityCheck) throws {
    let fixture = check.fixture
    let tolerance = try fixture.settings.table("tolerance")
    let (relative, absolute) = (try tolerance.number("relative"), try tolerance.number("absolute"))
    func scalar(_ name: String, _ value: Double) throws {
      let expected = try fixture.doubles("out.\(name)").first ?? 0
      if abs(expected) < absolute / relative {
        try check.absolute("out.\(name)", [value], tolerance: absolute)
      } else {
        try check.forward("out.\(name)", [value], tolerance: relative)
      }
    }
    func set(_ name: String) throws -> Tensor { try fixture.tensor("in.\(name)", shape: [-1, -1]) }
    func distance(_ a: String, _ b: String) throws -> Double {
      try FrechetDistance.squared(
        try FeatureStatistics(try set(a)), try FeatureStatistics(try set(b)))
    }
    try scalar("fid_rank_deficient", try distance("rank_deficient_a", "rank_deficient_b"))
    try scalar("fid_one_dim", try distance("one_dim_a", "one_dim_b"))
    try scalar("fid_identical", try distance("rank_deficient_a", "rank_deficient_a"))
    try scalar("fid_constant_vs_a", try distance("constant", "rank_deficient_a"))
    func given(_ index: Int) throws -> FeatureStatistics {
      FeatureStatistics(
        count: 0, mean: try fixture.doubles("in.commuting_mu\(index)"),
        covariance: try fixture.doubles("in.commuting_sigma\(index)"))
    }
    try scalar("fid_commuting", try FrechetDistance.squared(try given(1), try given(2)))
    let (real, fake) = (
      try FeatureManifold(try set("repeated_real")), try FeatureManifold(try set("repeated_fake"))
    )
    for (name, set) in [("real", real), ("fake", fake)] {
      try check.forward(
        "out.radii2_repeated_\(name)", set.radii.map { $0 * $0 }, tolerance: relative)
    }
    try scalar("precision_repeated", try real.share(of: try set("repeated_fake")))
    try scalar("recall_repeated", try fake.share(of: try set("repeated_real")))
    let classes = 5
    try scalar(
      "inception_score_uniform",
      try InceptionScore(probabilities: .full([10, classes], 1 / Float(classes))).mean)
    let oneHot = Tensor.zeros([10, classes])
    for row in 0..<10 { oneHot[row * classes + row % classes] = 1 }
    try scalar("inception_score_one_hot_5", try InceptionScore(probabilities: oneHot).mean)
  }

  /// Reference files as ADM and NumPy write them.
  static func references(_ check: ParityCheck) throws {
    let fixture = check.fixture
    let bound = try relative(fixture)
    let small = try ReferenceSet(path: try fixture.path(inFolder: "adm_ref_small.npz"))
    let (fullA, fullB) = (
      try ReferenceSet(path: try fixture.path(inFolder: "adm_ref_full_a.npz")),
      try ReferenceSet(path: try fixture.path(inFolder: "adm_ref_full_b.npz"))
    )
    func distance(_ a: FeatureStatistics?, _ b: FeatureStatistics?) throws -> Double {
      guard let a, let b else {
        throw FileError(
          "\(fixture.path): a reference file has no statistics; copy the folder again")
      }
      return try FrechetDistance.squared(a, b)
    }
    func trace(_ set: FeatureStatistics?) -> Double {
      guard let set else { return .nan }
      return (0..<set.dimension).reduce(0) { $0 + set.covariance[$1 * (set.dimension + 1)] }
    }
    let pool = try FeatureStatistics(try fixture.tensor("in.pool", shape: [-1, -1]))
    let spatial = try FeatureStatistics(try fixture.tensor("in.spatial", shape: [-1, -1]))
    for (name, value) in [
      ("fid_vs_ref_small", try distance(pool, small.pool)),
      ("sfid_vs_ref_small", try distance(spatial, small.spatial)),
      ("fid_full_a_vs_b", try distance(fullA.pool, fullB.pool)),
      ("sfid_full_a_vs_b", try distance(fullA.spatial, fullB.spatial)),
      ("fid_full_trace_a", trace(fullA.pool)), ("sfid_full_trace_a", trace(fullA.spatial)),
    ] { try check.forward("out.\(name)", [value], tolerance: bound) }
    let samples = try ReferenceSet(path: try fixture.path(inFolder: "adm_samples.npz"))
    for (name, set) in [("ref", small), ("samples", samples)] {
      let count = set.images?.shape.first ?? 0
      try check.exact("out.\(name)_arr_0", try set.pixels(0..<count).map(Int.init))
    }
    let labels = try Checkpoint.open(samples.path).integers("arr_1")
    try check.exact("out.samples_arr_1", labels)

    // Headers of the published shapes without their data.
    let empty = try fixture.path(inFolder: "adm_headers_only.npz")
    do {
      _ = try ReferenceSet(path: empty).pixels(0..<1)
      throw FileError("\(empty): was read, although its arrays are missing")
    } catch is FileError {}
  }

  /// The network on deterministic weights, with its resizing.
  static func inception(_ check: ParityCheck) throws {
    let fixture = check.fixture
    let weights = try InceptionWeights(fixture)
    let network = try InceptionV3(weights)
    let probes = try fixture.settings.table("weight_probes")
    for name in probes.keys {
      let probe = try probes.table(name)
      let values = try weights.floats(name).map(Double.init)
      let expected = try probe.numbers("first4") + [try probe.number("last")]
      guard Array(values.prefix(4)) + values.suffix(1) == expected else {
        throw FileError(
          "\(fixture.path): the weights by formula differ from the file's at '\(name)'")
      }
    }
    let tolerance = try fixture.settings.table("tolerance")
    let (resize, features) = (try tolerance.number("resize"), try tolerance.number("features"))
    let count = fixture.names("in.image").count
    let side = InceptionV3.side
    let images = try (0..<count).map { index in
      let shape = try fixture.shape("in.image\(index)")
      let planes = try fixture.integers("in.image\(index)", in: 0..<256)
      let area = shape[1] * shape[2]
      let pixels = (0..<(3 * area)).map { UInt8(planes[$0 % 3 * area + $0 / 3]) }
      let image = pixels.withUnsafeBufferPointer {
        InceptionV3.resized($0, height: shape[1], width: shape[2])
      }
      func value(_ channel: Int, _ row: Int, _ column: Int) -> Float {
        image[(row * side + column) * 3 + channel]
      }
      let crop = (0..<3).flatMap { channel in
        (120..<144).flatMap { row in (200..<224).map { value(channel, row, $0) } }
      }
      try check.absolute(
        "out.resized_crop\(index)", Tensor(crop, shape: [3, 24, 24]), tolerance: resize)
      let last = (0..<3).flatMap { channel in (0..<side).map { value(channel, side - 1, $0) } }
      try check.absolute(
        "out.resized_last\(index)", Tensor(last, shape: [3, side]), tolerance: resize)
      var sums = [0.0, 0.0, 0.0]
      for place in 0..<(3 * side * side) {
        let x = Double(value(place / (side * side), place / side % side, place % side))
        sums[0] += x
        sums[1] += x * x
        sums[2] += Double(place) * x / Double(3 * side * side)
      }
      try check.absolute("out.resized_sums\(index)", sums, tolerance: 0.05)
      return image
    }
    let found = network(images)
    for (name, tensor) in [
      ("pool3", found.pool), ("spatial", found.spatial), ("logits_no_bias", found.logits),
      ("probs", found.probabilities),
    ] {
      try check.forward("out.\(name)", tensor, tolerance: features)
    }
    // What differs between images, without the part that all have in common.
    for (name, tensor) in [("pool3", found.pool), ("spatial", found.spatial)] {
      let expected = try fixture.doubles("out.\(name)")
      func centered(_ values: [Double]) -> [Double] {
        let width = values.count / count
        let means = (0..<width).map { column in
          (0..<count).reduce(0) { $0 + values[$1 * width + column] } / Double(count)
        }
        return values.indices.map { values[$0] - means[$0 % width] }
      }
      let (a, b) = (centered(tensor.values.map(Double.init)), centered(expected))
      let largest = b.reduce(0) { max($0, abs($1)) }
      check.add(
        "out.\(name) (centred)", zip(a, b).reduce(0) { max($0, abs($1.0 - $1.1)) } / largest,
        tolerance: 1e-3)
    }
  }
}

/// Weights of the network by the formula of the reference files.
private final class InceptionWeights: TensorFile, @unchecked Sendable {
  let path: String
  let format = "weights by formula"
  let names: [String]
  private var entries: [String: TensorEntry] = [:]
  private var indices: [String: Int] = [:]
  private let seed: UInt64

  private struct Keys: Decodable {
    let tensors: [Tensor]
    struct Tensor: Decodable {
      let name: String
      let shape: [Int]
      init(from decoder: any Decoder) throws {
        var list = try decoder.unkeyedContainer()
        name = try list.decode(String.self)
        shape = try list.decode([Int].self)
      }
    }
  }

  init(_ fixture: Fixture) throws {
    path = fixture.path
    let keys: Keys = try Fixture.json(try fixture.path(inFolder: "keys.json"))
    names = keys.tensors.map(\.name)
    for (index, tensor) in keys.tensors.enumerated() {
      entries[tensor.name] = TensorEntry(
        virtual: tensor.name, dtype: .f32, shape: tensor.shape)
      indices[tensor.name] = index
    }
    guard let seed = UInt64(try fixture.settings.text("seed").dropFirst(2), radix: 16) else {
      throw FileError(
        "\(fixture.path): config key 'seed' is no hexadecimal number; copy the file again")
    }
    self.seed = seed
  }

  func entry(_ name: String) -> TensorEntry? { entries[name] }

  func isMapped(_ entry: TensorEntry) -> Bool { false }

  func withBytes<Result>(
    of entry: TensorEntry, _ body: (UnsafeRawBufferPointer) -> Result
  ) throws(FileError) -> Result {
    let index = UInt64(indices[entry.name] ?? 0)
    let (base, amplitude) = Self.range(entry)
    let values = (0..<UInt64(entry.count)).map { element in
      let hash = Self.mix(seed &+ 0x9E37_79B9_7F4A_7C15 &* (index << 32 &+ element &+ 1))
      let place = 2 * (Double(hash >> 40) / 0x1p24) - 1
      let product = amplitude * Float(place)
      return base + product
    }
    return values.withUnsafeBytes(body)
  }

  private static func mix(_ x: UInt64) -> UInt64 {
    var x = x
    x ^= x >> 30
    x &*= 0xBF58_476D_1CE4_E5B9
    x ^= x >> 27
    x &*= 0x94D0_49BB_1331_11EB
    return x ^ (x >> 31)
  }

  private static func range(_ entry: TensorEntry) -> (Float, Float) {
    let kinds: [(String, Float, Double)] = [
      ("fc.weight", 0, (3.0 / 2048).squareRoot()), ("fc.bias", 0, 0.5),
      ("bn.weight", 1, 0.25), ("bn.bias", -0.125, 0.5), ("bn.running_mean", 0, 0.25),
      ("bn.running_var", 1, 0.5),
    ]
    if let kind = kinds.first(where: { entry.name.hasSuffix($0.0) }) {
      return (kind.1, Float(kind.2))
    }
    return (0, Float((6 / Double(entry.shape.dropFirst().reduce(1, *))).squareRoot()))
  }
}

/// Folders and scores of GenEval (`geneval`).
enum GenEvalCases {
  private struct Layout: Decodable { let files: [String: String] }

  private struct Detections: Decodable {
    let images: [GenEval.Detection]
    let task_scores: [String: Double]
    let overall, correct_images, correct_prompts: Double
  }

  private struct Verdicts: Decodable {
    struct Image: Decodable { let correct: Bool }
    let images: [Image]
  }

  /// Compares the files of the layout, every image's verdict and all scores, exactly.
  static func run(_ name: String, _ folder: String) -> ParityResult {
    ParityResult(name) { comparisons in
      let benchmark = try GenEval(path: "\(folder)/evaluation_metadata.jsonl")
      let layout: Layout = try Fixture.json("\(folder)/layout.json")
      var files: [String: String] = [:]
      for index in benchmark.prompts.indices {
        let (file, text) = benchmark.description(of: index)
        files["\(GenEval.folder(index))/\(file)"] = text
        for image in 0..<4 {
          files["\(GenEval.folder(index))/\(GenEval.image(image))"] = "PNG image"
        }
      }
      comparisons.compare("files", files, layout.files)
      let detections: Detections = try Fixture.json("\(folder)/detections.json")
      let verdicts: Verdicts = try Fixture.json("\(folder)/detections.json")
      let scores = try benchmark.scores(detections.images)
      for (index, verdict) in verdicts.images.enumerated() {
        comparisons.compare(
          "\(detections.images[index].filename)", scores.correct[index], verdict.correct)
      }
      func near(_ name: String, _ found: Double, _ expected: Double) {
        comparisons.append(
          Comparison(tensor: name, kind: .forward, error: abs(found - expected), tolerance: 1e-12))
      }
      comparisons.compare("tasks", Set(scores.tasks.keys), Set(detections.task_scores.keys))
      for (task, score) in detections.task_scores {
        near(task, scores.tasks[task] ?? .infinity, score)
      }
      near("overall", scores.overall, detections.overall)
      near("correct images", scores.images, detections.correct_images)
      near("correct prompts", scores.prompts, detections.correct_prompts)
    }
  }
}
