import Datasets
import Evaluation
import Grafting
import Library
import Models
import Plans
import Sampling
import Search
import TensorCore

/// Model, library and data of a search, and what it measures of a set of changes.
final class SearchStage {
  let teacher: any DiffusionTransformer
  let sampler: LatentSampler
  let timing: OperatorTiming
  private let plan: GraftPlan
  private let library: OperatorLibrary
  private let precision: Precision
  private let data: TrainingData
  /// Errors on the noise of every seed; the first one guides the search.
  private let errors: [GuidedError]
  private let pictures: Pictures?
  private var known: [Set<Change>: Estimate] = [:]
  private var paths: [Change: String] = [:]

  /// Images that are compared with the teacher's.
  struct Pictures {
    let conditions: LatentSampler.Conditions
    let judge: ShapeJudge?
    let autoencoder: AutoencoderKL?
    /// The teacher's latents (count, channels, size, size) by seed.
    var teacher: [Tensor] = []
  }

  /// What images tell of a model, by seed.
  typealias PictureMeasures = (distances: SeedValues, agreements: SeedValues?)

  init(
    _ plan: GraftPlan, teacher: any DiffusionTransformer, library: OperatorLibrary,
    precision: Precision, data: TrainingData, sampler: LatentSampler, errors: [GuidedError],
    timing: OperatorTiming, pictures: Pictures?, progress: () throws -> Void
  ) throws {
    (self.plan, self.teacher, self.library) = (plan, teacher, library)
    (self.precision, self.data, self.sampler) = (precision, data, sampler)
    (self.errors, self.timing) = (errors, timing)
    var pictures = pictures
    if let conditions = pictures?.conditions {
      pictures?.teacher = try errors.indices.map { seed in
        try Self.latents(sampler, seed, teacher, conditions, progress: progress)
      }
    }
    self.pictures = pictures
  }

  /// The plan of some changes.
  func plan(_ changes: [Change]) -> GraftPlan {
    var own = plan
    own.edits = [:]
    own.parallel = [:]
    for change in changes { change.apply(to: &own) }
    return own
  }

  private func graft(_ changes: [Change], of own: GraftPlan? = nil) throws -> Graft {
    let own = own ?? plan(changes)
    let missing = changes.filter { paths[$0] == nil }
    if !missing.isEmpty {
      for (slot, path) in library.checkpoints(for: plan(missing)) {
        if let change = missing.first(where: { $0.slots.contains(slot) }) { paths[change] = path }
      }
    }
    let graft = try Graft(
      plan: own, teacher: teacher, checkpoints: changes.compactMap { paths[$0] }.sorted())
    graft.use(precision)
    return graft
  }

  /// Error with all changes at once, on the noise of the first seed.
  func whole(_ changes: [Change]) throws -> Estimate {
    if let found = known[Set(changes)] { return found }
    let found = errors[0](try graft(changes).model)
    known[Set(changes)] = found
    return found
  }

  /// Errors with all changes at once, by seed.
  func wholes(_ changes: [Change]) throws -> [Estimate] {
    guard errors.count > 1 else { return [try whole(changes)] }
    let model = try graft(changes).model
    return errors.map { $0(model) }
  }

  /// Errors of the teacher with step caching, by seed.
  func wholes(_ cache: StepCache, progress: () throws -> Void) throws -> [Estimate] {
    try errors.map { try $0(cache, progress: progress) }
  }

  /// Measured seconds of a forward pass of the teacher and of the plan, in turns.
  func seconds(_ changes: [Change]) throws -> (teacher: Double, model: Double) {
    let times = timing.seconds([try graft(changes).model])
    return (times.teacher, times.models[0])
  }

  /// Factors of the plan's rate of stage 2 that are tried one after another until the error falls: a few steps at
  /// a rate for operators that are far off move near ones away.
  private static let recoveryRates = [1, 0.1]

  /// What is measured after some steps of stage 2 with every seed; 0 steps leave the operators as they are.
  ///
  /// - Parameters:
  ///   - changes: The changes.
  ///   - before: Errors without stage 2, by seed.
  ///   - steps: Steps of stage 2.
  ///   - progress: Called with the steps done before every step; may throw to stop.
  /// - Returns: Errors by seed, the factors of the rate with which they fell (0 where they did with none and
  ///   the operators stay as they were), and what images tell.
  /// - Throws: `PlanError` or `FileError` of a graft, and errors of `progress`.
  func recovered(
    _ changes: [Change], from before: [Estimate], steps: Int, progress: (Int) throws -> Void
  ) throws -> (errors: [Estimate], rates: [Double], pictures: PictureMeasures?) {
    var (found, rates, latents): ([Estimate], [Double], [Tensor]) = ([], [], [])
    for (seed, error) in errors.enumerated() {
      var model = try graft(changes).model
      var (least, factor) = (before[seed], 0.0)
      for rate in Self.recoveryRates where steps > 0 && factor == 0 {
        var own = plan(changes)
        own.stage2.steps = steps
        own.stage2.learningRate *= rate
        own.seed &+= UInt64(seed)
        let finetuning = try Finetuning(
          graft: try graft(changes, of: own), dataset: data.training, heldOut: data.heldOut)
        while finetuning.step < steps {
          try progress(seed * steps + finetuning.step)
          _ = finetuning.trainStep()
        }
        let after = error(finetuning.model)
        if after.value < least.value { (model, least, factor) = (finetuning.model, after, rate) }
      }
      found.append(least)
      rates.append(factor)
      if let pictures {
        latents.append(
          try Self.latents(sampler, seed, model, pictures.conditions) {
            try progress((seed + 1) * steps)
          })
      }
    }
    return (found, rates, try measures(latents))
  }

  /// What images of the teacher with step caching tell.
  func pictures(
    _ cache: StepCache, progress: () throws -> Void
  ) throws -> PictureMeasures? {
    guard let pictures else { return nil }
    var cached = sampler
    cached.cache = cache
    return try measures(
      errors.indices.map {
        try Self.latents(cached, $0, teacher, pictures.conditions, progress: progress)
      })
  }

  /// The teacher's agreement with the judge, by seed.
  func teacherAgreements() -> SeedValues? {
    guard let pictures else { return nil }
    return agreements(pictures.teacher)
  }

  private func measures(_ latents: [Tensor]) throws -> PictureMeasures? {
    guard let pictures, !latents.isEmpty else { return nil }
    let distances = try zip(pictures.teacher, latents).map { teacher, own in
      try PairedDistance.measure(
        teacher: { teacher.rows($0) }, graft: { own.rows($0) }, samples: own.shape[0]
      ).latents.value
    }
    return (SeedValues(distances), agreements(latents))
  }

  /// Fractions of images that the judge assigns to their own class.
  private func agreements(_ latents: [Tensor]) -> SeedValues? {
    guard let pictures, let judge = pictures.judge, let autoencoder = pictures.autoencoder,
      case .labels(let labels) = pictures.conditions
    else { return nil }
    return SeedValues(
      latents.map { latents in
        let right = Self.parts(labels.count).reduce(0) { sum, range in
          let images = AutoencoderKL.tensor(autoencoder.rgbImages(ofScaled: latents.rows(range)))
          return sum + zip(judge(images).classes, labels[range]).count { $0 == $1 }
        }
        return Double(right) / Double(labels.count)
      })
  }

  /// Ranges of images that are drawn or judged at a time.
  private static func parts(_ count: Int) -> [Range<Int>] {
    stride(from: 0, to: count, by: 20).map { $0..<min(count, $0 + 20) }
  }

  private static func latents(
    _ sampler: LatentSampler, _ seed: Int, _ model: any DiffusionTransformer,
    _ conditions: LatentSampler.Conditions, progress: () throws -> Void
  ) throws -> Tensor {
    var own = sampler
    own.seed &+= UInt64(seed)
    let shape = model.shape
    let result = Tensor([
      conditions.count, shape.inChannels, shape.inputSize, shape.inputSize,
    ])
    for range in parts(conditions.count) {
      result.rows(range).assign(
        try own.sample(
          model, for: conditions.rows(range), first: range.lowerBound,
          onStep: { _, _, _ in try progress() }))
    }
    return result
  }
}
