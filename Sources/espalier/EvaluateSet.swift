import ArgumentParser
import Checkpoints
import Evaluation
import Files
import Foundation
import Models
import TensorCore

/// What `espalier evaluate` needs for a set of images.
struct SetOptions: ParsableArguments {
  @Option(
    help: .init(
      "What a set of images is compared with: a reference file of ADM (.npz with mu, sigma, mu_s, sigma_s, arr_0),"
        + " another set, or with --features a file of features."))
  var reference: String?

  @Option(
    help: .init(
      "Weights of Inception v3 for a set of images, pt_inception-2015-12-05-6726825d.pth as pytorch-fid or"
        + " weights-inception-2015-12-05-6726825d.pth as torch-fidelity fetches it (default: $ESPALIER_INCEPTION,"
        + " else either name in the folder `espalier` of $XDG_DATA_HOME)."))
  var inception: String?

  @Flag(help: "SET and reference are features (samples, width) of any network, .npy or .npz.")
  var features = false

  @Option(help: "Resampled sets for a 90 % interval of the Fréchet distance; 0 for none.")
  var bootstrap = 0

  func validate() throws {
    guard (0...1000).contains(bootstrap) else {
      throw ValidationError("--bootstrap is \(bootstrap); give 0 to 1000")
    }
  }

  /// Path of the network's weights.
  ///
  /// - Throws: `FileError` that says which file is missing and where it belongs.
  private func weights() throws -> String {
    if let inception { return inception }
    let named = ProcessInfo.processInfo.environment["ESPALIER_INCEPTION"]
    if let named, !named.isEmpty { return named }
    let names = [
      "pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth",
    ]
    let places = names.map { "\(UserDirectory.data.path())/\($0)" }
    if let found = places.first(where: FileManager.default.fileExists(atPath:)) { return found }
    throw FileError(
      "\(places[0]): the weights of Inception v3 are missing; fetch '\(names[0])' from the releases of pytorch-fid"
        + " or '\(names[1])' from those of torch-fidelity and put it there, or name it with --inception"
    )
  }

  /// Computes and prints the metrics of a set.
  func run(_ path: String, _ output: OutputOptions) throws {
    guard let reference else {
      throw ValidationError(
        "\(path) is a set of images; give --reference, a file of statistics or another set")
    }
    let console = ProgressLine()
    defer { console.finish() }
    let result =
      try features ? ofFeatures(path, reference, console) : ofImages(path, reference, console)
    console.finish()
    if output.json { return try output.printJSON(result) }
    print(lines: Self.table(result))
  }

  private func ofFeatures(
    _ path: String, _ reference: String, _ console: ProgressLine
  ) throws -> SetEvaluation {
    let sets = try [path, reference].map { try FeatureSet(path: $0) }
    let sources = try [path, reference].enumerated().map { index, path in
      SetEvaluation.Provenance.Source(
        path: path, digest: try ContentHash.sha256(path: path), count: sets[index].count)
    }
    return try SetEvaluation(
      samples: sets[0], reference: sets[1], statistics: nil, spatialStatistics: nil,
      provenance: .init(
        samples: sources[0], reference: sources[1], network: "features of the files",
        version: espalierVersion), resamplings: bootstrap, progress: { console.update($0) })
  }

  private func ofImages(
    _ path: String, _ reference: String, _ console: ProgressLine
  ) throws -> SetEvaluation {
    let weights = try weights()
    let network = try InceptionV3(path: weights)
    let networkDigest = try ContentHash.sha256(path: weights)
    let cache = try ModelFiles.cacheDirectory()
    func features(_ images: ImageSet) throws -> (FeatureSet, SetEvaluation.Provenance.Source) {
      let digest = try images.digest(cache: cache) {
        console.update("digests: \($0) of \(images.count)")
      }
      let folder = "\(cache)/features/\(digest.prefix(16))-\(networkDigest.prefix(16))"
      let set = try FeatureSet(images, network: network, keptIn: folder) { done in
        console.update("\(images.path): features of \(done) of \(images.count) images")
      }
      return (
        set,
        .init(
          path: images.path, digest: digest, count: images.count,
          description: SetDescription.read(beside: images.path))
      )
    }
    let known = path == reference ? nil : try? ReferenceSet(path: reference)
    let (samples, source) = try features(try ImageSet(path: path))
    var other: FeatureSet?
    var described: SetEvaluation.Provenance.Source
    if known == nil || known?.images != nil {
      (other, described) = try features(try ImageSet(path: reference))
    } else {
      described = .init(path: reference, digest: try ContentHash.sha256(path: reference), count: 0)
    }
    return try SetEvaluation(
      samples: samples, reference: other, statistics: known?.pool,
      spatialStatistics: known?.spatial,
      provenance: .init(
        samples: source, reference: described,
        network: "Inception v3 of 2015-12-05 (\(AtomicFile.name(of: weights)))",
        networkDigest: networkDigest,
        resize: "bilinear of TensorFlow 1 to 299 x 299, (x - 128) / 128",
        version: espalierVersion), resamplings: bootstrap, progress: { console.update($0) })
  }

  private static func table(_ result: SetEvaluation) -> String {
    let isInception = result.spatialFrechetDistance != nil || result.inceptionScore != nil
    var rows: [(String, String?)] = [
      (isInception ? "FID" : "Fréchet distance", short(result.frechetDistance)),
      (
        "  90 % interval",
        result.frechetInterval.map { "\(short($0[0])) to \(short($0[1]))" }
      ),
      ("sFID", result.spatialFrechetDistance.map(short)),
      ("inception score", result.inceptionScore.map(short)),
      ("precision", result.precision.map(percent)),
      ("recall", result.recall.map(percent)),
      (
        "KID",
        result.kernelDistance.map { "\(short($0)) ± \(short(result.kernelDistanceDeviation ?? 0))" }
      ),
      ("sliced Wasserstein", result.slicedWasserstein.map(short)),
    ]
    let provenance = result.provenance
    for (label, source) in [("samples", provenance.samples), ("reference", provenance.reference)] {
      let count = source.count > 0 ? "\(source.count) from " : ""
      rows.append((label, "\(count)\(source.path), sha256 \(source.digest.prefix(12))"))
      for (key, value) in (source.description ?? [:]).sorted(by: { $0.key < $1.key }) {
        rows.append(("  \(key)", value))
      }
    }
    rows.append(("network", provenance.network))
    rows.append(("weights", provenance.networkDigest.map { "sha256 \($0.prefix(12))" }))
    rows.append(("resize", provenance.resize))
    let width = (rows.map(\.0.count).max() ?? 0) + 2
    let lines = rows.compactMap { label, value in
      value.map { label + String(repeating: " ", count: width - label.count) + $0 }
    }
    return (lines + provenance.notes.map { "note: \($0)" }).joined(separator: "\n")
  }
}

/// What `sample` writes beside an archive of images: how they were drawn.
enum SetDescription {
  static func path(beside images: String) -> String { "\(images).json" }

  /// Writes a description.
  static func write(_ entries: [String: String], beside images: String) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    try AtomicFile.write(try encoder.encode(entries) + Data("\n".utf8), to: path(beside: images))
  }

  /// Reads the description of images; nil if there is none.
  static func read(beside images: String) -> [String: String]? {
    guard let text = try? AtomicFile.read(path(beside: images), limit: 1 << 20) else { return nil }
    return try? JSONDecoder().decode([String: String].self, from: Data(text))
  }
}
