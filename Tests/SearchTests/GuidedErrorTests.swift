import Datasets
import Foundation
import Grafting
import Library
import Models
import Operators
import Plans
import Sampling
import Search
import TensorCore
import TestSupport
import Testing

@MainActor @Suite("Errors of guided predictions")
struct GuidedErrorTests {
  private let sampler = LatentSampler(steps: 5, guidance: 2, seed: 0)

  private func plan(_ edits: [SlotID: OperatorSpec]) -> GraftPlan {
    var plan = GraftPlan(named: "search", model: TinyModel.reference)
    plan.edits = edits
    return plan
  }

  /// A teacher of every kind of prediction and condition, with data and a sampler for it.
  private func subject(_ family: ModelFamily) throws -> (
    teacher: any DiffusionTransformer, data: LatentDataset, sampler: LatentSampler
  ) {
    var sampler = LatentSampler.defaults(of: family)
    (sampler.steps, sampler.guidance) = (5, 2)
    if family.condition == .captions {
      return (try TinyPixArt.make(), TinyPixArt.latents(seed: 1), sampler)
    }
    return (try TinyModel.make(family.prediction), TinyModel.latents(seed: 1), sampler)
  }

  @Test(arguments: [ModelFamily.dit, .sit, .pixart])
  func aChangeFromItsBlockOnIsThatOfTheWholeModel(family: ModelFamily) throws {
    let (teacher, data, sampler) = try subject(family)
    let error = try GuidedError(
      teacher: teacher, dataset: data, samples: 11, sampler: sampler, seed: 4)
    #expect(error(teacher).value == 0)
    for slot in Slot.allCases {
      for block in 0..<teacher.shape.depth {
        let id = SlotID(block: block, slot: slot)
        let name = slot == .attention ? "hyena_x" : "mlp"
        let spec = OperatorSpec(name, slot == .mlp ? ["expansion_ratio": 2] : [:])
        let graft = try Graft(fresh: plan([id: spec]), teacher: teacher)
        let replacement = try #require(graft.replacement(id))
        let (single, whole) = (error(id, replacement), error(graft.model))
        #expect(single.value > 0 && abs(single.value - whole.value) < 1e-5 * whole.value)
        #expect(error(graft.model, from: block) == single)
      }
    }
    #expect(
      OperatorTiming(teacher, batch: 2).saving(
        SlotID(block: 0, slot: .attention), teacher.replaceable(SlotID(block: 1, slot: .attention)),
        rounds: 1
      ).isFinite)
  }

  /// The error by its definition: guided predictions of a graft and of the teacher, noise or velocity, on the noisy
  /// latents of the batch at the sampler's times, conditional beside unconditional.
  @Test(arguments: [ModelFamily.dit, .sit, .pixart])
  func theErrorIsThatOfGuidedPredictions(family: ModelFamily) throws {
    let (teacher, data, sampler) = try subject(family)
    let samples = 5
    let id = SlotID(block: 0, slot: .attention)
    let graft = try Graft(fresh: plan([id: OperatorSpec("skip")]), teacher: teacher).model
    let found = try GuidedError(
      teacher: teacher, dataset: data, samples: samples, sampler: sampler, seed: 4)(graft)
    let batch = data.batch(
      0..<samples, seed: 4, name: "search", nullClass: teacher.shape.nullClass, labelDropout: 0)
    let process = try TrainingProcess(of: family)
    let draws = try sampler.trainingDraws()
    var (error, square) = (0.0, 0.0)
    for row in 0..<samples {
      // As many samples as steps: one at each, from the last one on.
      let own = draws[[samples - 1 - row]]
      let range = row..<(row + 1)
      let noisy = process.noisy(
        batch.latents.rows(range), noise: batch.noise.rows(range), own)
      func prediction(_ model: any DiffusionTransformer, _ isConditional: Bool) throws -> Tensor {
        let times = process.modelTimes(own)
        guard let captions = batch.captions else {
          return model.predict(
            noisy,
            Conditioning(
              timesteps: times, labels: [isConditional ? batch.labels[row] : 3]))
        }
        let null = try #require(data.texts?.null)
        return model.predict(
          noisy,
          Conditioning(
            timesteps: times,
            captions: isConditional ? captions.selecting([row], length: captions.length) : null))
      }
      func guided(_ model: any DiffusionTransformer) throws -> [Double] {
        let (with, without) = (try prediction(model, true), try prediction(model, false))
        return (0..<noisy.count).map {
          Double(without[$0]) + 2 * (Double(with[$0]) - Double(without[$0]))
        }
      }
      for (own, target) in zip(try guided(graft), try guided(teacher)) {
        error += (own - target) * (own - target)
        square += target * target
      }
    }
    #expect(abs(found.value - error / square) < 1e-4 * found.value)
  }

  /// With threshold 0 step caching makes no error; the more steps it reuses, the larger the error.
  @Test(arguments: [ModelFamily.dit, .sit, .pixart])
  func stepCachingIsMeasuredAtTheSamePoints(family: ModelFamily) throws {
    let (teacher, data, sampler) = try subject(family)
    let error = try GuidedError(
      teacher: teacher, dataset: data, samples: 11, sampler: sampler, seed: 4)
    let (none, all) = (StepReuse(), StepReuse())
    #expect(try error(StepCache(threshold: 0), reuse: none).value < 1e-10)
    #expect(try error(StepCache(threshold: 1e9), reuse: all).value > 1e-6 && none.reused == 0)
    // All steps but the first, of 22 rows.
    #expect(all.evaluations == 5 * 22 && all.reused == 4 * 22)

    // The chosen threshold meets the time, and half of it does not.
    let conditions: LatentSampler.Conditions =
      data.texts.map { _ in
        let random = RandomStream(seed: 3, "shown")
        let channels = TinyPixArt.captionChannels
        return .captions(
          Captions(embeddings: random.normal([3, 3, channels])),
          null: Captions(embeddings: random.normal([1, 2, channels], from: 5_000)))
      } ?? .labels([0, 1, 2])
    let rival = CachedTeacher(teacher, sampler, for: conditions, reusedTime: 0.25)
    let found = try #require(try rival.cache(reaching: 0.75, forecasts: false))
    #expect(1 - found.reused * 0.75 <= 0.75)
    #expect(try rival.reuse(found.cache) == found.reused)
    let half = StepCache(threshold: found.cache.threshold / 2)
    #expect(try rival.reuse(half) < found.reused)
    #expect(try rival.cache(reaching: 0.2, forecasts: false) == nil)
  }

  @Test func anotherPairOfBlocksCountsFromItsFirst() throws {
    let teacher = try TinyModel.make()
    let error = try GuidedError(
      teacher: teacher, dataset: TinyModel.latents(seed: 1), samples: 6, sampler: sampler, seed: 4)
    var plan = plan([:])
    plan.parallel = [BlockPair(first: 0): .mean]
    let graft = try Graft(fresh: plan, teacher: teacher)
    let (single, whole) = (error(graft.model, from: 0), error(graft.model))
    #expect(single.value > 0 && abs(single.value - whole.value) < 1e-5 * whole.value)
  }

  @Test func guidanceScalesWhatDiffers() throws {
    // The error counts the guided prediction: with more guidance, differences between labels weigh more.
    let teacher = try TinyModel.make()
    let id = SlotID(block: 0, slot: .attention)
    let graft = try Graft(fresh: plan([id: OperatorSpec("skip")]), teacher: teacher)
    let replacement = try #require(graft.replacement(id))
    let values = try [Float(1), 2, 6].map { guidance in
      try GuidedError(
        teacher: teacher, dataset: TinyModel.latents(seed: 1), samples: 8,
        sampler: LatentSampler(steps: 5, guidance: guidance, seed: 0), seed: 4)(id, replacement)
        .value
    }
    #expect(Set(values).count == 3)
  }

  @Test func aLibraryGivesWhatItWasGiven() throws {
    let scratch = try Scratch()
    let teacher = try TinyModel.make()
    let id = SlotID(block: 1, slot: .attention)
    let spec = OperatorSpec("hyena_x").normalized(for: TinyModel.config)
    let graft = try Graft(fresh: plan([id: spec]), teacher: teacher)
    let library = OperatorLibrary(modelHash: "0123456789abcdef0123", root: scratch.path)
    let recipe = OperatorLibrary.Recipe(
      steps: 5, batchSize: 2, learningRate: 1e-3, ridgeSamples: 8, seed: 0, data: "d")
    let key = library.key(id, spec, recipe)
    #expect(!library.has(key) && library.entries().isEmpty)
    var entry = OperatorLibrary.Entry(slot: id, spec: spec, recipe: recipe)
    try library.add(entry, of: graft, key: key)
    #expect(library.has(key) && library.entries().map(\.entry) == [entry])

    // A plan takes the weights; one with other settings does not.
    let paths = library.checkpoints(for: plan([id: spec]))
    let path = try #require(paths[id])
    let other = try Graft(plan: plan([id: spec]), teacher: teacher, checkpoints: [path])
    #expect(other.untrained.isEmpty)
    #expect(
      other.parameters(of: .slot(id)).map(\.value.values)
        == graft.parameters(of: .slot(id)).map(\.value.values))
    #expect(
      library.checkpoints(for: plan([id: OperatorSpec("hyena_x", ["short_filter_order": 5])]))
        .isEmpty)

    // Only scored and timed operators are candidates.
    let conditions = OperatorLibrary.TimingConditions(batch: 2, precision: .float32)
    #expect(library.candidates(timedIn: conditions, shape: TinyModel.config).isEmpty)
    entry.score = .init(
      Estimate(value: 0.5, standardError: 0.1), samples: 4, guidance: 2,
      sampler: "ddim",
      seed: 0)
    entry.timing = .init(saving: 0.25, conditions: conditions)
    try library.update(entry, key: key)
    let candidates = library.candidates(timedIn: conditions, shape: TinyModel.config)
    #expect(candidates.map(\.loss) == [0.5] && candidates.map(\.saving.time) == [0.25])
    #expect(
      library.candidates(
        timedIn: OperatorLibrary.TimingConditions(batch: 3, precision: .float32),
        shape: TinyModel.config
      ).isEmpty)
    // What another program may have left there is passed over.
    let odd: [(String, [String: Double], steps: Int, batch: Int)] = [
      ("of_tomorrow", [:], 5, 2), ("hyena_x", ["short_filter_order": 1e300], 5, 2),
      ("hyena_x", ["unknown": 1], 5, 2), ("mlp", [:], 5, 2), ("hyena_x", [:], -1, 2),
      ("hyena_x", [:], 5, .min),
    ]
    for (name, config, steps, batch) in odd {
      let recipe = OperatorLibrary.Recipe(
        steps: steps, batchSize: 2, learningRate: 1e-3, ridgeSamples: 8, seed: 1, data: "d")
      var other = OperatorLibrary.Entry(slot: id, spec: .init(name, config), recipe: recipe)
      other.score = entry.score
      other.timing = .init(
        saving: 0.5, conditions: .init(processor: "p", threads: 1, batch: batch, precision: "fp32"))
      let key = library.key(id, other.spec, recipe)
      try library.update(other, key: key)
      try Self.weights.write(to: URL(filePath: library.path(key)))
      #expect(library.entries().map(\.entry) == [entry], "\(name) \(config)")
      #expect(library.costs(for: TinyModel.config, on: "p").count == 1)
      try FileManager.default.removeItem(atPath: library.path(key))
      try FileManager.default.removeItem(atPath: "\(library.folder)/\(key).json")
    }
    // So are numbers that nothing measures, and weights that are cut off.
    for (error, deviation, saving, teacher) in [
      (1e300, 0.0, 0.5, 1.0), (-1, 0, 0.5, 1), (1, -1, 0.5, 1), (1, 0, 1e300, 1), (1, 0, 0.5, 0),
    ] {
      var other = entry
      other.score = .init(
        Estimate(value: error, standardError: deviation), samples: 4, guidance: 2, sampler: "ddim",
        seed: 0)
      other.timing = .init(
        saving: saving, teacher: teacher,
        conditions: .init(processor: "p", threads: 1, batch: 2, precision: "fp32"))
      try library.update(other, key: key)
      #expect(library.entries().isEmpty, "\(error) \(deviation) \(saving) \(teacher)")
    }
    try library.update(entry, key: key)
    let whole = try Data(contentsOf: URL(filePath: library.path(key)))
    try whole.dropLast().write(to: URL(filePath: library.path(key)))
    #expect(library.entries().isEmpty && !library.has(key))
    try whole.write(to: URL(filePath: library.path(key)))
    #expect(library.entries().count == 1 && library.has(key))
    // Savings are shares of the teacher's time when they were measured.
    #expect(library.teacherSeconds(timedIn: conditions) == nil)
    entry.timing = .init(saving: 0.25, teacher: 4, conditions: conditions)
    try library.update(entry, key: key)
    #expect(library.teacherSeconds(timedIn: conditions) == 4)
    func savings(_ teacher: Double?) -> [Double] {
      library.candidates(
        timedIn: conditions, shape: TinyModel.config, teacherSeconds: teacher
      ).map(\.saving.time)
    }
    #expect(savings(2) == [0.125] && savings(nil) == [0.25])
    #expect(library.prune(to: 0) == 1 && library.bytes == 0)
  }

  /// A file of one tensor.
  private static let weights = {
    let header = #"{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}"#
    return Data([UInt8(header.utf8.count)] + [UInt8](repeating: 0, count: 7)) + Data(header.utf8)
      + Data(count: 4)
  }()

  /// Times are those of one machine under one set of conditions: those that most operators were timed with.
  @Test func costsAreThoseOfThisMachine() throws {
    let scratch = try Scratch()
    let library = OperatorLibrary(modelHash: "0123456789abcdef0123", root: scratch.path)
    #expect(library.costs(for: TinyModel.config) == ReplacementCosts([]))
    try FileManager.default.createDirectory(
      atPath: library.folder, withIntermediateDirectories: true)
    func add(
      _ slot: SlotID, _ name: String, error: Double, saving: Double, processor: String, batch: Int,
      teacher: Double?, steps: Int = 5
    ) throws {
      let spec = OperatorSpec(name).normalized(for: TinyModel.config)
      let recipe = OperatorLibrary.Recipe(
        steps: steps, batchSize: 2, learningRate: 1e-3, ridgeSamples: 8, seed: 0, data: "d")
      var entry = OperatorLibrary.Entry(slot: slot, spec: spec, recipe: recipe)
      entry.score = .init(
        Estimate(value: error, standardError: 0), samples: 4, guidance: 2, sampler: "ddim", seed: 0)
      entry.timing = .init(
        saving: saving, teacher: teacher,
        conditions: .init(
          processor: processor, threads: 2, batch: batch, precision: "fp32"))
      let key = library.key(slot, spec, recipe)
      try library.update(entry, key: key)
      try Self.weights.write(to: URL(filePath: library.path(key)))
    }
    let (first, second) = (
      SlotID(block: 0, slot: .attention), SlotID(block: 1, slot: .attention)
    )
    try add(first, "hyena_x", error: 0.5, saving: 2, processor: "here", batch: 2, teacher: 8)
    try add(first, "linear", error: 0.5, saving: 4, processor: "here", batch: 2, teacher: 8)
    try add(first, "skip", error: 9, saving: -1, processor: "here", batch: 2, teacher: nil)
    try add(second, "skip", error: 1, saving: 1, processor: "here", batch: 4, teacher: 99)
    try add(second, "linear", error: 1, saving: 1, processor: "elsewhere", batch: 2, teacher: 77)
    let costs = library.costs(for: TinyModel.config, on: "here")
    #expect(costs.conditions?.batch == 2 && costs.teacherSeconds == 8)
    #expect(costs.count == 5 && costs.elsewhere == 1 && costs.trained.count == 5)
    // The cheapest comes first, what saves nothing last.
    #expect(
      costs.candidates(of: first).map(\.change.operatorName) == ["linear", "hyena_x", "skip"])
    #expect(costs.candidates(of: first).map(\.price) == [0.125, 0.25, .infinity])
    #expect(costs.candidates(of: second).isEmpty)
    #expect(costs.operators(of: .attention).map(\.name) == ["linear", "hyena_x", "skip"])
    let other = library.costs(for: TinyModel.config, on: "third")
    #expect(other.candidates.isEmpty && other.elsewhere == 5 && other.conditions == nil)
    // A plan's settings need not be written out.
    var plan = GraftPlan(named: "p", model: TinyModel.reference)
    plan.edits = [first: OperatorSpec("hyena_x"), second: OperatorSpec("swa")]
    #expect(costs.trained(for: plan) == [first: 5])
    #expect(library.checkpoints(for: plan).count == 1)
  }

  @Test func defaultCandidatesFitTheirSlots() {
    TinyModel.config.slots.forEach { id in
      let specs = DefaultCandidates.specs(id.slot, for: TinyModel.config)
      #expect(specs.count >= (id.slot == .attention ? 8 : 5), "\(id)")
      #expect(Set(specs).count == specs.count)
    }
  }
}

extension OperatorLibrary {
  fileprivate func candidates(
    timedIn conditions: TimingConditions, shape: ModelShape, teacherSeconds: Double? = nil
  ) -> [Candidate] {
    Self.candidates(
      entries().map(\.entry), timedIn: conditions, shape: shape, teacherSeconds: teacherSeconds)
  }

  fileprivate func teacherSeconds(timedIn conditions: TimingConditions) -> Double? {
    Self.teacherSeconds(entries().map(\.entry), timedIn: conditions)
  }
}
