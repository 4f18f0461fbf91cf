import CKernels
import Datasets
import Grafting
import Models
import Nn
import Operators
import Plans
import TensorCore
import TestSupport
import Testing
import Training

/// The same bytes with any number of threads: whole steps of both stages, every operator, both precisions.
///
/// One batch is one part, so that threads divide the work of every operation; a second setting cuts the batch
/// into parts that run side by side.
@MainActor @Suite("Numbers of threads", .serialized)
struct ThreadCountTests {
  /// One block for each operator that is not a skip, in the slot that it fits.
  private struct Model {
    let config: ModelShape
    let plan: GraftPlan
    let teacher: DiT

    init(hiddenSize: Int) throws {
      OperatorRegistry.fillCatalog()
      let fitting = [Slot.attention, .mlp].flatMap { slot in
        OperatorCatalog.fitting(slot).filter { $0.name != "skip" }.map { (slot, $0.defaultSpec) }
      }
      config = ModelShape(
        depth: fitting.count + 2, hiddenSize: hiddenSize, numHeads: 3, patchSize: 1, inputSize: 16,
        inChannels: 2, numClasses: 3)
      teacher = try DiT(config: config, weights: TinyModel.Noise())
      var plan = GraftPlan(
        named: "threads",
        model: ModelReference(path: "threads.safetensors", shape: config, contentHash: "0"))
      for (block, (slot, spec)) in fitting.enumerated() {
        plan.edits[SlotID(block: block, slot: slot)] = spec
      }
      plan.parallel[BlockPair(first: fitting.count)] = .projection
      (plan.seed, plan.stage1.batchSize, plan.stage2.batchSize) = (11, 4, 5)
      (plan.stage1.steps, plan.stage1.heldOutSamples) = (2, 4)
      (plan.stage2.steps, plan.stage2.heldOutSamples, plan.stage2.recompute) = (2, 4, true)
      (plan.stage2.trained, plan.stage2.loraRank) = (.all, 3)
      self.plan = plan
    }

    func latents(seed: UInt64) -> LatentDataset {
      var random = RandomSequence(seed: seed)
      return LatentDataset(
        latents: random.normal([8, 2, 16, 16]), labels: (0..<8).map { $0 % 3 })
    }

    /// The trained parameters after two steps of both stages, and all losses, as bits.
    func trained(_ precision: Precision, microBatch: Int, lora: Bool = false) throws -> [String:
      [UInt64]]
    {
      var plan = plan
      plan.stage2.microBatch = microBatch
      if lora { (plan.stage2.trained, plan.stage2.loraTargets) = (.lora, LoRATarget.allCases) }
      let graft = try Graft(fresh: plan, teacher: teacher)
      graft.use(precision)
      var found: [String: [UInt64]] = [:]
      let (data, heldOut) = (latents(seed: 1), latents(seed: 2))
      let stage1 = try ActivationDistillation(graft: graft, dataset: data, heldOut: heldOut)
      for step in 0..<2 {
        for (site, loss) in stage1.trainStep() {
          found["stage 1 step \(step) \(site)"] = [loss.bitPattern]
        }
      }
      let stage2 = try Finetuning(graft: graft, dataset: data, heldOut: heldOut)
      for step in 0..<2 {
        let report = stage2.trainStep()
        found["stage 2 step \(step)"] = [report.loss.bitPattern, report.gradientNorm.bitPattern]
      }
      for parameter in stage2.model.parameters.flatMap({ [$0] + $0.trained }) {
        found[parameter.name] = parameter.value.values.map { Double($0).bitPattern }
      }
      return found
    }
  }

  private func withThreads<Result>(_ count: Int, _ body: () throws -> Result) rethrows -> Result {
    let former = Parallel.threads
    ck_pool_set_threads(Int32(count))
    defer { ck_pool_set_threads(Int32(former)) }
    return try body()
  }

  /// Small and large weights go through different kernels; only large ones are multiplied in bfloat16.
  @Test(arguments: [
    (48, Precision.float32, 5), (48, .float32, 2), (120, .float32, 5), (192, .bfloat16, 5),
  ])
  func trainingGivesTheSameBytes(hiddenSize: Int, precision: Precision, microBatch: Int) throws {
    let model = try Model(hiddenSize: hiddenSize)
    let wanted = try withThreads(1) { try model.trained(precision, microBatch: microBatch) }
    #expect(wanted.values.allSatisfy { $0.allSatisfy { Double(bitPattern: $0).isFinite } })
    for threads in [2, 3] {
      let found = try withThreads(threads) {
        try model.trained(precision, microBatch: microBatch)
      }
      #expect(differing(found, wanted) == [], "\(threads) threads")
    }
  }

  @Test func adaptersToo() throws {
    let model = try Model(hiddenSize: 120)
    let wanted = try withThreads(1) { try model.trained(.float32, microBatch: 5, lora: true) }
    let found = try withThreads(3) { try model.trained(.float32, microBatch: 5, lora: true) }
    #expect(differing(found, wanted) == [])
  }

  private func differing(_ found: [String: [UInt64]], _ wanted: [String: [UInt64]]) -> [String] {
    Set(found.keys).union(wanted.keys).filter { found[$0] != wanted[$0] }.sorted()
  }
}
