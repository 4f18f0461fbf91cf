import Checkpoints
import Datasets
import Files
import Foundation
import Plans
import Sampling
import TensorCore
import Training

/// The activations of fixed samples in bfloat16, one memory-mapped file for each site.
///
/// As in the paper, where features are extracted once and every operator learns from them for many
/// epochs. The files are named by model, data, seed, number of samples and precision: a run of the
/// same finds them again, also for other replacements; anything else has files of its own.
package final class ActivationCache {
  /// Number of samples.
  package let samples: Int
  /// The folder of the files.
  package let path: String
  private let files: [GraftSite: SafetensorsFile]
  private let tokens, dim: Int

  /// Samples of one piece of the recording.
  private static let recordedTogether = 16

  /// Opens the recordings of a graft's sites, making those that are missing.
  ///
  /// - Parameters:
  ///   - graft: The teacher, the sites and the settings.
  ///   - dataset: Where the samples are drawn from.
  ///   - folder: The folder of caches.
  ///   - progress: Called with the number of samples recorded and of all; may throw to stop.
  /// - Throws: `PlanError` if the recordings exceed the budget, `FileError` if they cannot be
  ///   written, and what `progress` throws.
  package init(
    graft: Graft, dataset: LatentDataset, folder: String,
    progress: (Int, Int) throws -> Void = { _, _ in }
  ) throws {
    let (plan, settings) = (graft.plan, graft.plan.stage1)
    samples = settings.samples
    (tokens, dim) = (graft.teacher.config.tokens, graft.teacher.config.hiddenSize)
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
    // Which recordings were used last, for `makeRoom`.
    utimes(path, nil)
    var files: [GraftSite: SafetensorsFile] = [:]
    // A missing, damaged or foreign file is made anew.
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

  /// The names and shapes of a site's recording.
  private static func items(
    of site: GraftSite, samples: Int, tokens: Int, dim: Int
  ) -> [(name: String, shape: [Int])] {
    [
      ("input", [samples, tokens, dim]), ("target", [samples, tokens, dim]),
      (site.sideName, [samples, dim]),
    ]
  }

  /// A recording that is still as it was written, byte for byte; nil if anything about it is not.
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

  /// The file beside a recording that holds its SHA-256 digest.
  private static func digestFile(of path: String) -> String { "\(path).sha256" }

  /// Refuses recordings that take more room than the plan allows.
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

  /// Removes recordings of others, those used longest ago first, until new ones fit the budget too.
  ///
  /// Who has them open keeps them; ones that are being made or were just taken up are left. What a
  /// killed recording has left behind goes first.
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

  /// Runs the teacher over all samples and writes what the sites see and give.
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
      teacher: graft.teacher, sites: sites, diffusion: try GaussianDiffusion(spacing: ""))
    for start in stride(from: 0, to: samples, by: recordedTogether) {
      try progress(start, samples)
      let batch = dataset.batch(
        start..<min(samples, start + recordedTogether), seed: graft.plan.seed, name: "recording",
        nullClass: graft.teacher.config.nullClass,
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

  /// Which recording of some samples is not finite, with what to do about it; nil if none is.
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
