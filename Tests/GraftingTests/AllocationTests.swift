import Grafting
import Models
import Plans
import Sampling
import TensorCore
import Testing

@MainActor @Suite("Memory of training loops")
struct AllocationTests {
  @Test func pretrainingAllocatesNothingAfterItsFirstStep() throws {
    let trainer = DiffusionTrainer(
      model: try TinyModel.make(), diffusion: try GaussianDiffusion(spacing: ""), emaDecay: 0.99)
    let dataset = TinyModel.latents(seed: 1)
    var random = RandomStream(seed: 4)
    func step() {
      let batch = dataset.batch(
        10, random: &random, nullClass: 3, labelDropout: 0.1)
      _ = trainer.step(batch, microBatch: 4, rate: 1e-3, clipNorm: 1)
    }
    BufferPool.trim()
    let start = BufferPool.allocations
    step()
    let first = BufferPool.allocations
    #expect(first > start, "the count does not move")
    for _ in 0..<4 { step() }
    #expect(BufferPool.allocations == first)
  }

  @Test func distillationAllocatesNothingAfterItsFirstStep() throws {
    let plan = TinyModel.plan([
      SlotID(block: 0, slot: .attention): OperatorSpec("hyena_x"),
      SlotID(block: 1, slot: .attention): OperatorSpec("swa"),
      SlotID(block: 1, slot: .mlp): OperatorSpec("mlp", ["expansion_ratio": 3]),
    ])
    let run = try ActivationDistillation(
      graft: try Graft(fresh: plan, teacher: try TinyModel.make()),
      dataset: TinyModel.latents(seed: 1), heldOut: TinyModel.latents(seed: 2))
    _ = run.trainStep()
    _ = run.heldOutLosses()
    let first = BufferPool.allocations
    for _ in 0..<3 {
      _ = run.trainStep()
      _ = run.heldOutLosses()
    }
    #expect(BufferPool.allocations == first)
  }
}
