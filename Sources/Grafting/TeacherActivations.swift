import Datasets
import Files
import Models
import Plans
import Sampling
import TensorCore
import Training

/// Inputs and targets of sites on fixed samples, for fits in closed form.
package protocol ActivationSource {
  /// Calls `visit` with the activations of a few samples at every site, and so on to the last sample.
  ///
  /// - Parameters:
  ///   - sites: Slots and pairs.
  ///   - progress: Called before a pass of some samples with the numbers of those done and of all; may
  ///     throw to stop.
  ///   - visit: Uses the activations.
  /// - Throws: errors of `progress`.
  func callAsFunction(
    _ sites: Set<GraftSite>, progress: (Int, Int) throws -> Void,
    _ visit: @escaping (SiteActivations) -> Void) throws
}

/// Activations of a teacher on fixed samples at timesteps drawn for each of them, for fits in closed
/// form: streamed, or kept in memory so that later fits need no teacher pass.
package final class TeacherActivations: ActivationSource {
  /// Number of samples.
  package let samples: Int
  private let teacher: any DiffusionTransformer
  private let dataset: LatentDataset
  private let batch: DiffusionBatch
  private let process: TrainingProcess
  /// Activations in memory, of each site in the order of the samples.
  private var kept: [GraftSite: [SiteActivations]] = [:]

  /// Draws the samples.
  ///
  /// - Parameters:
  ///   - teacher: The pretrained model.
  ///   - dataset: Normalised latents.
  ///   - samples: Number of samples.
  ///   - seed: Seed of samples, noise and timesteps.
  ///   - labelDropout: Fraction of labels replaced by the null class.
  /// - Throws: `FileError` for latents that are not finite.
  package init(
    teacher: any DiffusionTransformer, dataset: LatentDataset, samples: Int, seed: UInt64,
    labelDropout: Double
  ) throws {
    (self.teacher, self.dataset, self.samples) = (teacher, dataset, samples)
    process = try TrainingProcess(of: teacher.shape.family)
    batch = dataset.batch(
      0..<samples, seed: seed, name: "ridge", nullClass: teacher.shape.nullClass,
      labelDropout: labelDropout)
    if let fault = dataset.fault(in: batch) { throw FileError(fault) }
  }

  /// Keeps the activations of some sites in memory: 8 bytes for each sample, token and channel of a slot.
  ///
  /// - Throws: errors of `progress`.
  package func keep(
    _ sites: Set<GraftSite>, progress: (Int, Int) throws -> Void = { _, _ in }
  ) throws {
    var recorded: [GraftSite: [SiteActivations]] = [:]
    try callAsFunction(sites.subtracting(kept.keys), progress: progress) {
      recorded[$0.site, default: []].append($0)
    }
    kept.merge(recorded) { $1 }
  }

  /// Visits the activations; sites that are not in memory cost one teacher pass together.
  package func callAsFunction(
    _ sites: Set<GraftSite>, progress: (Int, Int) throws -> Void = { _, _ in },
    _ visit: @escaping (SiteActivations) -> Void
  ) throws {
    let known = sites.filter { kept[$0] != nil }.sorted()
    let pass = TeacherPass(
      teacher: teacher, sites: sites.subtracting(known), process: process)
    let parts = MicroBatches(rows: samples, size: ActivationDistillation.microBatch).ranges
    for (index, range) in parts.enumerated() {
      try progress(range.lowerBound, samples)
      for site in known { kept[site].map { visit($0[index]) } }
      if !pass.sites.isEmpty { pass(batch, range, visit) }
    }
  }
}
