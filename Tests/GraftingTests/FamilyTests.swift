import Analysis
import Autograd
import Checkpoints
import Datasets
import Files
import Foundation
import Grafting
import Models
import Nn
import Operators
import Plans
import Sampling
import TensorCore
import TestSupport
import Testing

/// Tiny models of every family, with data of their kind.
@MainActor
enum TinyFamily {
  static func model(_ family: ModelFamily) throws -> any DiffusionTransformer {
    OperatorRegistry.fillCatalog()
    switch family {
    case .dit, .sit:
      var config = TinyModel.config
      config.family = family
      return try DiT(config: config, weights: TinyModel.Noise())
    case .lightningdit: return try DiT(config: lightning, weights: TinyModel.Noise())
    case .pixart: return try TinyPixArt.make()
    }
  }

  /// All parts of LightningDiT's blocks.
  static var lightning: ModelShape {
    var config = TinyModel.config
    config.family = .lightningdit
    config.learnSigma = false
    (config.rmsNorm, config.queryKeyNorm) = (true, true)
    (config.rotary, config.swiglu) = (true, true)
    return config
  }

  static func latents(_ family: ModelFamily, seed: UInt64) -> LatentDataset {
    family.condition == .captions
      ? TinyPixArt.latents(seed: seed) : TinyModel.latents(seed: seed)
  }

  static func conditions(_ family: ModelFamily, _ count: Int) -> LatentSampler.Conditions {
    guard family.condition == .captions else { return .labels((0..<count).map { $0 % 3 }) }
    let random = RandomStream(seed: 3, "shown")
    return .captions(
      Captions(embeddings: random.normal([count, 3, TinyPixArt.captionChannels])),
      null: Captions(embeddings: random.normal([1, 2, TinyPixArt.captionChannels], from: 5_000)))
  }

  static func plan(_ model: any DiffusionTransformer, _ edits: [SlotID: OperatorSpec]) -> GraftPlan
  {
    var plan = GraftPlan(
      named: "tiny",
      model: ModelReference(path: "tiny.safetensors", shape: model.shape, contentHash: "0"))
    plan.edits = edits
    plan.seed = 5
    (plan.stage1.batchSize, plan.stage1.steps, plan.stage1.warmupSteps) = (8, 12, 0)
    (plan.stage1.learningRate, plan.stage1.heldOutSamples) = (3e-3, 8)
    (plan.stage2.batchSize, plan.stage2.steps, plan.stage2.warmupSteps) = (4, 6, 0)
    (plan.stage2.heldOutSamples, plan.stage2.learningRate) = (8, 1e-3)
    return plan
  }

  static func metadata(_ model: any DiffusionTransformer) throws -> [String: String] {
    if let pixArt = model as? PixArt {
      let config = try JSONSerialization.data(withJSONObject: pixArt.config.diffusersForm)
      return ["config": String(decoding: config, as: UTF8.self)]
    }
    return try DiTFile.metadata(config: model.shape, classNames: [], name: "tiny")
  }
}

@MainActor @Suite("Families")
struct FamilyTests {
  struct Case: Sendable, CustomTestStringConvertible {
    let family: ModelFamily
    let slot: Slot
    let name: String
    var testDescription: String { "\(family) \(slot) \(name)" }
  }

  nonisolated static let cases: [Case] = {
    OperatorRegistry.fillCatalog()
    return ModelFamily.allCases.flatMap { family in
      Slot.allCases.flatMap { slot in
        OperatorCatalog.fitting(slot).map { Case(family: family, slot: slot, name: $0.name) }
      }
    }
  }()

  private func withFolder(_ body: (String) throws -> Void) throws {
    let scratch = try Scratch()
    try withExtendedLifetime(scratch) { try body(scratch.path) }
  }

  /// Every operator that fits a slot goes in every family through both stages, each stopped and resumed, a saved
  /// model, its analysis, sampling, and conversions.
  @Test(arguments: cases)
  func operatorInAFamily(_ item: Case) throws {
    let teacher = try TinyFamily.model(item.family)
    let id = SlotID(block: 1, slot: item.slot)
    let plan = TinyFamily.plan(teacher, [id: OperatorSpec(item.name)])
    try plan.validate()
    let (data, heldOut) = (
      TinyFamily.latents(item.family, seed: 1), TinyFamily.latents(item.family, seed: 2)
    )
    try withFolder { folder in
      // Stage 1, stopped half way and resumed, ends in the same weights as without a stop.
      func stage1() throws -> ActivationDistillation {
        try ActivationDistillation(
          graft: try Graft(fresh: plan, teacher: teacher), dataset: data, heldOut: heldOut)
      }
      let whole = try stage1()
      let before = whole.heldOutLosses()[.slot(id)] ?? .nan
      for _ in 0..<6 { _ = whole.trainStep() }
      try whole.saveCheckpoint(to: "\(folder)/half.safetensors")
      for _ in 0..<6 { _ = whole.trainStep() }
      let resumed = try stage1()
      try resumed.resume(from: "\(folder)/half.safetensors")
      for _ in 0..<6 { _ = resumed.trainStep() }
      let own = whole.graft.replacement(id)?.parameters ?? []
      for (one, other) in zip(own, resumed.graft.replacement(id)?.parameters ?? []) {
        #expect(one.value.values == other.value.values, "\(one.name)")
      }
      let after = whole.heldOutLosses()[.slot(id)] ?? .nan
      #expect(own.isEmpty || after < before, "loss \(before) -> \(after)")

      // Stage 2 lowers nothing to infinity, changes what it trains, and its model opens as a graft of the family.
      let tuning = try Finetuning(graft: whole.graft, dataset: data, heldOut: heldOut)
      for _ in 0..<3 { #expect(tuning.trainStep().gradientNorm > 0) }
      try tuning.saveCheckpoint(to: "\(folder)/stage2.safetensors")
      for _ in 0..<3 { #expect(tuning.trainStep().gradientNorm > 0) }
      #expect(tuning.heldOutLoss().isFinite && tuning.isSound())
      let again = try Finetuning(
        graft: try Graft(fresh: plan, teacher: teacher), dataset: data, heldOut: heldOut)
      try again.resume(from: "\(folder)/stage2.safetensors")
      for _ in 0..<3 { _ = again.trainStep() }
      #expect(again.heldOutLoss() == tuning.heldOutLoss())
      let path = "\(folder)/model.safetensors"
      try tuning.saveModel(to: path, teacherMetadata: try TinyFamily.metadata(teacher))
      let file = try ModelWeights(path: path).model()
      #expect(file.shape.family == item.family && file.plan == plan)
      let model = try file.network()

      let conditions = TinyFamily.conditions(item.family, 2)
      let analysis = try TeacherAnalysis(
        model, conditions, steps: 2, progress: { _, _ in })
      #expect(analysis.blocks.count == 2)
      for block in analysis.blocks {
        #expect(block.attention.count > 0 && block.attention.nonFinite + block.mlp.nonFinite == 0)
        #expect(block.mlp.count == block.attention.count)
      }

      // Sampling, and again after a conversion to a PyTorch archive and, where they exist, to diffusers' names.
      var sampler = LatentSampler.defaults(of: item.family)
      (sampler.steps, sampler.guidance) = (3, 2)
      let drawn = try sampler.sample(model, for: conditions).values
      #expect(drawn.allSatisfy { $0.isFinite })
      let converted = "\(folder)/converted.pt"
      _ = try ModelWriter.write(
        model, metadata: try file.metadata(), classNames: [], as: .init(), to: converted)
      let copy = try ModelWeights(path: converted).model().network()
      #expect(
        try sampler.sample(copy, for: conditions).values == drawn)
      func toDiffusers() throws {
        let path = "\(folder)/renamed.safetensors"
        _ = try ModelWriter.write(
          model, metadata: try file.metadata(), classNames: [], as: .init(naming: .diffusers),
          to: path)
        let copy = try ModelWeights(path: path).model().network()
        #expect(
          try sampler.sample(copy, for: conditions).values == drawn)
      }
      // PixArt's grafts keep their own names where diffusers has none, DiT's are refused.
      let isKnown = model.parameters.allSatisfy { DiTKeyMap.diffusersKeys($0.name) != nil }
      if item.family == .pixart || item.family == .dit && isKnown {
        try toDiffusers()
      } else {
        let error = #expect(throws: FileError.self) { try toDiffusers() }
        #expect(error?.message.contains("use the official naming") == true)
      }
    }
  }

  /// Pairs of parallel blocks are for families whose blocks are conditioned by one vector.
  @Test(arguments: ModelFamily.allCases)
  func parallelBlocks(_ family: ModelFamily) throws {
    var plan = TinyFamily.plan(try TinyFamily.model(family), [:])
    plan.parallel = [BlockPair(first: 0): .mean]
    guard family.hasParallelBlocks else {
      let error = #expect(throws: PlanError.self) { try plan.validate() }
      #expect(error?.description.contains("no parallel blocks") == true)
      return
    }
    try plan.validate()
    let graft = try Graft(fresh: plan, teacher: try TinyFamily.model(family))
    let training = try ActivationDistillation(
      graft: graft, dataset: TinyFamily.latents(family, seed: 1),
      heldOut: TinyFamily.latents(family, seed: 2))
    #expect(training.trainStep().values.allSatisfy { $0.isFinite })
  }

  /// A text-conditional model is finetuned by adapters of all its linear layers, which are merged when it is saved.
  @Test func adaptersOfATextConditionalModel() throws {
    let teacher = try TinyFamily.model(.pixart)
    let plan = TinyFamily.plan(
      teacher, [SlotID(block: 0, slot: .attention): OperatorSpec("hyena_x")])
    #expect(plan.stage2.trained == .lora && plan.stage2.loraRank == 24)
    let graft = try Graft(fresh: plan, teacher: teacher)
    let tuning = try Finetuning(
      graft: graft, dataset: TinyFamily.latents(.pixart, seed: 1),
      heldOut: TinyFamily.latents(.pixart, seed: 2))
    let adapted = graft.model.parameters.filter { $0.adapter != nil }.map(\.name)
    let cross = ["q_linear", "kv_linear", "proj"].map { "blocks.0.cross_attn.\($0).weight" }
    let mlp = ["fc1", "fc2"].map { "blocks.0.mlp.\($0).weight" }
    #expect(
      Set(adapted)
        == Set(
          cross + mlp + ["blocks.1.attn.qkv.weight", "blocks.1.attn.proj.weight"]
            + (cross + mlp).map { $0.replacing("blocks.0", with: "blocks.1") }))
    for _ in 0..<4 { _ = tuning.trainStep() }
    try withFolder { folder in
      let path = "\(folder)/model.safetensors"
      try tuning.saveModel(to: path, teacherMetadata: try TinyFamily.metadata(teacher))
      let model = try ModelWeights(path: path).model().network()
      let name = "blocks.1.cross_attn.kv_linear.weight"
      func weight(_ model: any DiffusionTransformer) -> [Float] {
        model.parameters.first { $0.name == name }?.value.values ?? []
      }
      #expect(weight(model) != weight(teacher) && !weight(model).isEmpty)
      // The null caption is a constant of the model and stays.
      let null = "y_embedder.y_embedding"
      #expect(
        model.parameters.first { $0.name == null }?.value.values
          == teacher.parameters.first { $0.name == null }?.value.values)
    }
  }

  /// Captions of a batch: dropped ones are the null caption, and every row has its own mask.
  @Test func captionsOfABatch() throws {
    let data = TinyFamily.latents(.pixart, seed: 1)
    let batch = data.batch(
      0..<32, seed: 1, name: "test", nullClass: nil, labelDropout: 0.5)
    let captions = try #require(batch.captions)
    let null = try #require(data.texts?.null)
    var dropped = 0
    for row in 0..<32 {
      let tokens = captions.tokens(of: row)
      let values = Array(
        captions.embeddings.values[(row * captions.length * 6)...].prefix(tokens * 6))
      if values == null.embeddings.values {
        dropped += 1
      } else {
        #expect(tokens == 2 + batch.samples[row] % 3)
      }
    }
    #expect((6...26).contains(dropped))
    let plain = data.batch(0..<32, seed: 1, name: "test", nullClass: nil, labelDropout: 0)
    #expect(plain.captions?.embeddings.values != captions.embeddings.values)
    // Without a null caption none is dropped.
    var bare = data
    bare.texts?.null = nil
    let kept = bare.batch(0..<32, seed: 1, name: "test", nullClass: nil, labelDropout: 0.5)
    #expect(kept.captions?.embeddings.values == plain.captions?.embeddings.values)
  }

  /// Stage 1 of a velocity model sees the teacher at x_t = t x_1 + (1 - t) x_0 and tells it t itself.
  @Test func velocityBatches() throws {
    let batch = TinyFamily.latents(.sit, seed: 1).batch(
      0..<5, seed: 2, name: "test", nullClass: 3, labelDropout: 0)
    let (noisy, conditioning) = batch.input(1..<4, of: try TrainingProcess(of: .sit))
    let width = batch.latents.count / 5
    for row in 0..<3 {
      let t = Float(batch.draws.times[row + 1])
      #expect((0..<1).contains(t) && conditioning.timesteps[row] == t)
      for index in 0..<width {
        let at = (row + 1) * width + index
        let expected = t * batch.latents[at] + (1 - t) * batch.noise[at]
        #expect(abs(noisy[row * width + index] - expected) < 1e-5)
      }
    }
    #expect(Set(batch.draws.times).count == 5)
  }

  /// A sampler of another process is refused by name.
  @Test func samplersOfAnotherProcess() throws {
    for (family, method) in [(ModelFamily.sit, LatentSampler.Method.ddim), (.dit, .heun)] {
      let error = #expect(throws: SamplingError.self) {
        try LatentSampler(method: method, steps: 2, guidance: 1, seed: 0)
          .sample(try TinyFamily.model(family), for: TinyFamily.conditions(family, 1))
      }
      #expect(error?.description.contains(method.rawValue) == true)
    }
  }
}
