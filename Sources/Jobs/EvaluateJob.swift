import Checkpoints
import Evaluation
import Files
import Foundation
import Models
import Reports
import Runs
import Sampling
import TensorCore

/// Judges a set of images, features or a model; what is finished stays in files, so that a run that was stopped goes
/// on and ends in the same numbers.
struct EvaluateJob {
  let context: JobContext

  private var run: RunDirectory { context.run }

  func perform(_ request: EvaluateRequest) throws -> String {
    try context.emit(.started(pid: getpid(), totalSteps: 0))
    if request.subject == .statistics { return try writeStatistics(request) }
    let report: EvaluationReport
    if let known = try? AtomicFile.read(run.evaluationPath, limit: 16 << 20) {
      report = try JSONDecoder.snakeCase.decode(EvaluationReport.self, from: Data(known))
    } else {
      report = try evaluated(request)
      let bytes = try JSONEncoder.sorted(isPretty: true, snakeCase: true).encode(report)
      try context.whenRoom {
        try AtomicFile.write(bytes + Data("\n".utf8), to: run.evaluationPath, followingLinks: false)
      }
    }
    let table = try EvaluationTable([(try run.request().name, report)])
    for line in table.lines { try context.emit(.message(line)) }
    return EvaluationTable.numbers(report).prefix(3).map { "\($0.label) \($0.value)" }
      .joined(separator: ", ")
  }

  private func evaluated(_ request: EvaluateRequest) throws -> EvaluationReport {
    switch request.subject {
    case .features: return try ofFeatures(request)
    case .paired: return try paired(request)
    case .judged: return try judged(request)
    case .images, .statistics: return try ofImages(request)
    }
  }

  private func version() throws -> String { try run.request().codeVersion }

  /// Progress of one activity; stops or waits if the run is asked to.
  private func progress(_ label: String, of total: Int) -> (Int) throws -> Void {
    var throttle = Throttle()
    let begin = Throttle.uptime()
    var first: Int?
    return { done in
      try context.checkpoint(step: done)
      let start = first ?? done
      first = start
      guard throttle.isDue() || done == total else { return }
      let pace = (Throttle.uptime() - begin) / Double(max(1, done - start))
      try context.emit(
        .progress(
          done: done, total: total, label: label,
          secondsLeft: done > start ? pace * Double(total - done) : nil))
    }
  }

  /// Progress of steps with names.
  private func step(_ name: String) throws {
    try context.checkpoint(step: 0)
    try context.emit(.progress(done: 0, total: 1, label: name))
  }

  // MARK: - Sets

  private func ofFeatures(_ request: EvaluateRequest) throws -> EvaluationReport {
    let paths = [request.set ?? "", request.reference ?? ""]
    let sets = try paths.map { try FeatureSet(path: $0) }
    let sources = try zip(paths, sets).map { path, set in
      Provenance.Source(path: path, digest: try ContentHash.sha256(path: path), count: set.count)
    }
    return report(
      try SetEvaluation(
        samples: sets[0], reference: sets[1], statistics: nil, spatialStatistics: nil,
        resamplings: request.resamplings, progress: step),
      Provenance(
        samples: sources[0], reference: sources[1], network: "features of the files",
        version: try version()))
  }

  private func report(_ set: SetEvaluation, _ provenance: Provenance) -> EvaluationReport {
    var provenance = provenance
    provenance.notes = set.notes
    return EvaluationReport(.set(set), provenance)
  }

  /// Inception v3 with the digest of its weights.
  private func network(_ request: EvaluateRequest) throws -> (InceptionV3, String, String) {
    let path = request.inception ?? ""
    return (
      try InceptionV3(path: path), try ContentHash.sha256(path: path),
      "Inception v3 of 2015-12-05 (\(AtomicFile.name(of: path)))"
    )
  }

  private static let resize = "bilinear of TensorFlow 1 to 299 x 299, (x - 128) / 128"

  /// Features of a set, which are kept in the cache by the digests of the images and of the network.
  private func features(
    _ images: ImageSet, _ network: InceptionV3, _ networkDigest: String
  ) throws -> (FeatureSet, Provenance.Source) {
    let cache = try ModelFiles.cacheDirectory()
    let digest = try images.digest(
      cache: cache, progress: progress("reading images", of: images.count))
    let folder = "\(cache)/features/\(digest.prefix(16))-\(networkDigest.prefix(16))"
    let name = AtomicFile.name(of: images.path)
    let set = try context.whenRoom {
      try FeatureSet(
        images, network: network, keptIn: folder,
        progress: progress("features of \(name)", of: images.count))
    }
    return (
      set,
      Provenance.Source(
        path: images.path, digest: digest, count: images.count,
        description: SetDescription.read(beside: images.path))
    )
  }

  private func ofImages(_ request: EvaluateRequest) throws -> EvaluationReport {
    let (path, reference) = (request.set ?? "", request.reference ?? "")
    let (network, digest, name) = try network(request)
    let known = path == reference ? nil : try? ReferenceSet(path: reference)
    let (samples, source) = try features(try ImageSet(path: path), network, digest)
    var other: FeatureSet?
    var described: Provenance.Source
    if known == nil || known?.images != nil {
      (other, described) = try features(try ImageSet(path: reference), network, digest)
    } else {
      described = .init(path: reference, digest: try ContentHash.sha256(path: reference), count: 0)
    }
    return report(
      try SetEvaluation(
        samples: samples, reference: other, statistics: known?.pool,
        spatialStatistics: known?.spatial, resamplings: request.resamplings, progress: step),
      Provenance(
        samples: source, reference: described, network: name, networkDigest: digest,
        resize: Self.resize, version: try version()))
  }

  /// Writes statistics of a set in the format of ADM's reference files.
  private func writeStatistics(_ request: EvaluateRequest) throws -> String {
    let output = request.output ?? ""
    let images = try ImageSet(path: request.set ?? "")
    let (network, digest, _) = try network(request)
    let (set, _) = try features(images, network, digest)
    try step("statistics")
    try context.whenRoom { try ReferenceSet.write(set, of: images, to: output) }
    return "statistics of \(images.count) images in \(output)"
  }

  // MARK: - Models

  /// What a model's samples are drawn with.
  private func source(
    _ model: SourceModel, _ request: EvaluateRequest, _ precision: Precision
  ) throws -> Provenance.Source {
    var entries = try model.provenance().merging(try sampler(request).settings.provenance) { $1 }
    entries.merge(try model.stated(precision)) { $1 }
    return .init(
      path: model.files.modelPath, digest: entries.removeValue(forKey: "model_digest") ?? "",
      count: request.count, description: entries)
  }

  private func sampler(_ request: EvaluateRequest) throws -> LatentSampler {
    guard let settings = request.sampler else {
      throw FileError("\(run.requestPath): has no sampler; the run is damaged")
    }
    return try LatentSampler(settings)
  }

  private func model(_ source: ModelSource?) throws -> SourceModel {
    guard let source else {
      throw FileError("\(run.requestPath): has no model; the run is damaged")
    }
    return try SourceModel(source, in: run)
  }

  /// Refuses finished parts of other files.
  private func claim(_ provenance: Provenance) throws -> String {
    let folder = run.chunksPath
    try AtomicFile.makeDirectory(folder)
    AtomicFile.removeAbandoned(in: folder)
    let path = "\(folder)/set.json"
    let bytes = try JSONEncoder.sorted(isPretty: true, snakeCase: true).encode(provenance)
    if let known = try? AtomicFile.read(path, limit: 4 << 20) {
      guard known == Array(bytes) else {
        throw FileError(
          "\(path): the run has begun with other files or settings; restore them, or start a new run"
        )
      }
    } else {
      try context.whenRoom { try AtomicFile.write(bytes, to: path, followingLinks: false) }
    }
    return folder
  }

  private func judged(_ request: EvaluateRequest) throws -> EvaluationReport {
    let source = try model(request.model)
    let files = source.files
    let judge = try files.judge()
    let precision = try context.precision()
    var provenance = Provenance(
      samples: try self.source(source, request, precision),
      network: "judge of the procedural images",
      networkDigest: try files.judgePath.map { try ContentHash.sha256(path: $0) },
      version: try version())
    let folder = try claim(provenance)
    let sampler = try sampler(request)
    let log = sampler.cache.map { _ in StepReuseLog(keptIn: folder) }
    let numbers = try context.whenRoom {
      try Evaluation.run(
        try source.network(precision), autoencoder: try files.autoencoder(precision), judge: judge,
        sampler: sampler, samples: request.count, keptIn: folder, log: log,
        progress: progress("judging images", of: request.count))
    }
    provenance.samples.description?["step_cache_reused"] = StepReuseLog.text(in: folder)
    return EvaluationReport(.judged(numbers), provenance)
  }

  private func paired(_ request: EvaluateRequest) throws -> EvaluationReport {
    let (graft, teacher) = (try model(request.model), try model(request.teacher))
    // What it is compared with computes every step.
    var plain = request
    plain.sampler?.cache = nil
    plain.sampler?.forecastsCache = nil
    let files = graft.files
    let precision = try context.precision()
    let samplers = (graft: try sampler(request), teacher: try sampler(plain))
    let inception = try request.inception.map { _ in try network(request) }
    var judge: ShapeJudge?
    if inception == nil, files.judgePath != nil { judge = try files.judge() }
    var provenance = Provenance(
      samples: try source(graft, request, precision),
      reference: try source(teacher, plain, precision),
      network: inception?.2 ?? (judge == nil ? "none" : "judge of the procedural images"),
      networkDigest: try inception?.1 ?? files.judgePath.map { try ContentHash.sha256(path: $0) },
      resize: inception == nil ? nil : Self.resize, version: try version())
    if provenance.networkDigest == nil {
      provenance.notes.append(
        "there is no judge beside the model and --inception names no weights: no distance of features"
      )
    }
    let folder = try claim(provenance)
    let conditions = try files.exampleConditions(request.count, precision).conditions
    let autoencoder = try provenance.networkDigest.map { _ in try files.autoencoder(precision) }
    func features(_ latents: Tensor) -> Tensor {
      guard let autoencoder else { return latents }
      let images = AutoencoderKL.rgbImages(
        ofDecoded: autoencoder.decode(autoencoder.unscaled(latents)),
        .of(files.model.shape.family))
      if let judge { return judge(AutoencoderKL.tensor(images)).features }
      return inception?.0(images.map(InceptionV3.resized)).pool ?? latents
    }
    let models = (teacher: try teacher.network(precision), graft: try graft.network(precision))
    func drawn(
      _ model: any DiffusionTransformer, _ sampler: LatentSampler
    ) -> PairedDistance.Source {
      let log = sampler.cache.map { _ in StepReuseLog(keptIn: folder) }
      return { range in
        let latents = try sampler.sample(
          model, for: conditions.rows(range), first: range.lowerBound, reuse: log?.reuse,
          onStep: { _, _, _ in try context.checkpoint(step: range.lowerBound) })
        try log?.keep(partAt: range.lowerBound)
        return latents
      }
    }
    let numbers = try context.whenRoom {
      try PairedDistance.measure(
        teacher: drawn(models.teacher, samplers.teacher),
        graft: drawn(models.graft, samplers.graft), samples: request.count,
        features: autoencoder == nil ? nil : features, keptIn: folder,
        progress: progress("comparing pairs", of: request.count))
    }
    provenance.samples.description?["step_cache_reused"] = StepReuseLog.text(in: folder)
    return EvaluationReport(.paired(numbers), provenance)
  }
}
