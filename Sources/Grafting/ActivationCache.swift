import Checkpoints
import Datasets
import Files
import Foundation
import Plans
import Sampling
import TensorCore
import Training

/// Recorded activations of fixed samples in bfloat16, one memory-mapped file per site.
///
/// As in the paper, features are extracted once and used for many epochs. The cache key is model,
/// data, seed, number of samples and precision, so runs with other replacement operators share the
/// files.
package final class ActivationCache {
  /// Number of samples.
  package let samples: Int
  /// The folder of the files.
  package let path: String
  private let files: [GraftSite: SafetensorsFile]
  private let tokens, dim: Int

  /// Number of samples per recorded chunk.
  private static let recordedTogether = 16

  /// Opens the recordings of the sites of a graft and makes missing ones.
  ///
  /// - Parameters:
  ///   - graft: The teacher, the sites and the settings.
  ///   - dataset: Source of the samples.
  ///   - folder: The folder of caches.
  ///   - progress: Called with the numbers of recorded and of all samples; may throw to stop.
  /// - Throws: `PlanError` if the recordings exceed the budget, `FileError` if they cannot be
  ///   written, and errors of `progress`.
  package init(
    graft: Graft, dataset: LatentDataset, folder: String,
    progress: (Int, Int) throws -> Void = { _, _ in }
  ) throws {
    let (plan, settings) = (graft.plan, graft.plan.stage1)
    samples = settings.samples
    (tokens, dim) = (graft.teacher.shape.tokens, graft.teacher.shape.hiddenSize)
    let bytesOfSite = 2 * Double(samples) * Double(2 * tokens * dim + dim)
    let sites = graft.plan.sites
    try Self.require(budget: settings, Double(sites.count) * bytesOfSite, sites.count)
    var description = [
      "activations 2", RandomStream.generator, plan.model.contentHash, dataset.identity,
      "\(plan.seed)", "\(samples)",
      "\(settings.labelDropout)",
    ]
    if graft.precision != .float32 { description.append(graft.precision.rawValue) }
    let identity = ContentHash.sha256(Data(description.joined(separator: "\n").utf8))
    path = "\(folder)/activations-\(identity.prefix(24))"
    try AtomicFile.makeDirectory(path)
    // Records the time of use for `makeRoom`.
    utimes(path, nil)
    var files: [GraftSite: SafetensorsFile] = [:]
    // A missing, damaged or different file is recorded again.
    for site in graft.plan.sites {
      let items = Self.items(of: site, samples: samples, tokens: tokens, dim: dim)
      files[site] = Self.intact(Self.file(of: site, in: path), items, identity, digestsIn: folder)
    }
    let missing = Set(graft.plan.sites).subtracting(files.keys)
    if !missing.isEmpty {
      Self.makeRoom(
        in: folder, for: Double(missing.count) * bytesOfSite, budget: settings.cacheGB * 1e9, path)
      try Self.record(
        missing, graft, dataset, identity: identity, tokens: tokens, dim: dim, path,
        digestsIn: folder, progress: progress)
      for site in missing { files[site] = try SafetensorsFile(path: Self.file(of: site, in: path)) }
    }
    self.files = files
  }

  private static func file(of site: GraftSite, in path: String) -> String {
    "\(path)/\(site).safetensors"
  }

  /// Names and shapes of the tensors recorded for a site.
  private static func items(
    of site: GraftSite, samples: Int, tokens: Int, dim: Int
  ) -> [(name: String, shape: [Int])] {
    [
      ("input", [samples, tokens, dim]), ("target", [samples, tokens, dim]),
      (site.sideName, [samples, dim]),
    ]
  }

  /// Opens a recording whose digest matches its content; nil otherwise.
  private static func intact(
    _ path: String, _ items: [(name: String, shape: [Int])], _ identity: String,
    digestsIn folder: String
  ) -> SafetensorsFile? {
    guard let file = try? SafetensorsFile(path: path), file.metadata["identity"] == identity,
      items.allSatisfy({
        file.entry($0.name)?.shape == $0.shape && file.entry($0.name)?.dtype == .bf16
      }),
      let expected = try? AtomicFile.read(digestFile(of: path), limit: 64),
      let found = try? ContentHash.sha256(paths: [path], keptIn: folder),
      Array(found.utf8) == expected
    else { return nil }
    return file
  }

  /// Path of the file with the SHA-256 digest of a recording.
  private static func digestFile(of path: String) -> String { "\(path).sha256" }

  /// Throws if the recordings exceed the disk budget of the plan.
  private static func require(
    budget settings: Stage1Settings, _ bytes: Double, _ sites: Int
  ) throws(PlanError) {
    guard bytes > settings.cacheGB * 1e9 else { return }
    throw PlanError(
      key: "stage1.cache_gb",
      "the activations of \(sites) sites and \(settings.samples) samples take"
        + String(format: " %.3g GB, the budget is %.3g GB;", bytes / 1e9, settings.cacheGB)
        + " raise it, lower \"samples\", or set \"mode\" to \"streaming\"")
  }

  /// Evicts other recordings, least recently used first, until the new ones fit the budget.
  ///
  /// Open recordings stay readable by their processes; recordings in progress or recently used are
  /// not removed. Remains of killed recordings are removed first.
  private static func makeRoom(
    in folder: String, for bytes: Double, budget: Double, _ own: String
  ) {
    let manager = FileManager.default
    func names(_ path: String) -> [String] {
      (try? manager.contentsOfDirectory(atPath: path)) ?? []
    }
    let all = names(folder).filter { $0.hasPrefix("activations-") }.map { name in
      let path = "\(folder)/\(name)"
      var status = stat()
      let usedAt = stat(path, &status) == 0 ? status.st_mtim.tv_sec : 0
      AtomicFile.removeAbandoned(in: path)
      let size = names(path).reduce(0.0) { sum, file in
        stat("\(path)/\(file)", &status) == 0 ? sum + Double(status.st_size) : sum
      }
      return (path: path, usedAt: usedAt, size: size)
    }
    var total = all.reduce(bytes) { $0 + $1.size }
    for old in all.sorted(by: { $0.usedAt < $1.usedAt }) where old.path != own {
      if total <= budget { return }
      let isNew = old.usedAt > time(nil) - 60
      if isNew || names(old.path).contains(where: AtomicFile.isTemporary) { continue }
      if (try? manager.removeItem(atPath: old.path)) != nil { total -= old.size }
    }
  }

  /// Runs the teacher over all samples and writes inputs and outputs of the sites.
  private static func record(
    _ sites: Set<GraftSite>, _ graft: Graft, _ dataset: LatentDataset, identity: String,
    tokens: Int, dim: Int, _ path: String, digestsIn folder: String,
    progress: (Int, Int) throws -> Void
  ) throws {
    let samples = graft.plan.stage1.samples
    var drafts: [GraftSite: SafetensorsDraft] = [:]
    for site in sites {
      drafts[site] = try SafetensorsDraft(
        path: file(of: site, in: path),
        items: items(of: site, samples: samples, tokens: tokens, dim: dim),
        metadata: ["identity": identity])
    }
    let pass = TeacherPass(
      teacher: graft.teacher, sites: sites,
      process: try TrainingProcess(of: graft.plan.model.shape.family))
    for start in stride(from: 0, to: samples, by: recordedTogether) {
      try progress(start, samples)
      let batch = dataset.batch(
        start..<min(samples, start + recordedTogether), seed: graft.plan.seed, name: "recording",
        nullClass: graft.teacher.shape.nullClass,
        labelDropout: graft.plan.stage1.labelDropout)
      if let fault = dataset.fault(in: batch) { throw FileError(fault) }
      let parts = MicroBatches(
        rows: batch.steps.count, size: ActivationDistillation.microBatch)
      _ = parts.map { range in
        pass(batch, range) { [drafts] seen in
          let row = start + range.lowerBound
          for (name, tensor) in [
            ("input", seen.input), ("target", seen.target), (seen.site.sideName, seen.side),
          ] {
            let width = tensor.count / range.count
            drafts[seen.site]?.write(
              UnsafeBufferPointer(start: tensor.pointer, count: tensor.count), to: name,
              at: row * width)
          }
        }
      }
    }
    for (site, draft) in drafts {
      try draft.finish()
      let file = file(of: site, in: path)
      let digest = try ContentHash.sha256(paths: [file], keptIn: folder)
      try AtomicFile.write(Data(digest.utf8), to: digestFile(of: file))
    }
  }

  /// Returns a sentence naming the first recording with non-finite values for some samples; nil if
  /// none.
  func fault(in rows: ArraySlice<Int>) -> String? {
    var fault: String?
    self(rows) { [path] seen in
      if fault == nil, ![seen.input, seen.target, seen.side].allSatisfy(\.isFinite) {
        fault =
          "\(Self.file(of: seen.site, in: path)): holds values that are not finite; remove it, it is"
          + " made anew when the run is taken up again"
      }
    }
    return fault
  }

  /// Calls `visit` with the activations of some samples for every site in order.
  func callAsFunction(_ rows: ArraySlice<Int>, _ visit: (SiteActivations) -> Void) {
    for (site, file) in files.sorted(by: { $0.key < $1.key }) {
      func gather(_ name: String, _ shape: [Int]) -> Tensor {
        let result = Tensor([rows.count] + shape)
        let width = shape.reduce(1, *)
        for (place, row) in rows.enumerated() {
          file.readRow(
            row, of: name,
            into: UnsafeMutableBufferPointer(start: result.pointer + place * width, count: width))
        }
        return result
      }
      visit(
        SiteActivations(
          site: site, input: gather("input", [tokens, dim]),
          target: gather("target", [tokens, dim]), side: gather(site.sideName, [dim])))
    }
  }
}
