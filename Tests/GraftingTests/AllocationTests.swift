import Grafting
import Plans
import Sampling
import TensorCore
import TestSupport
import Testing
import Training

@MainActor @Suite("Memory of training loops")
struct AllocationTests {
  @Test func pretrainingAllocatesNothingAfterItsFirstStep() throws {
    let trainer = DiffusionTrainer(
      model: try TinyModel.make(), process: .noise(try GaussianDiffusion(spacing: "")),
      emaDecay: 0.99)
    let dataset = TinyModel.latents(seed: 1)
    var (drawn, microBatch) = (0, 10)
    func step() {
      let batch = dataset.batch(
        0..<10, seed: 4, name: "\(drawn)", nullClass: 3, labelDropout: 0.1)
      drawn += 1
      _ = trainer.step(batch, microBatch: microBatch, rate: 1e-3, clipNorm: 1)
    }
    BufferPool.trim()
    let start = BufferPool.allocations
    microBatch = 10
    step()
    let first = BufferPool.allocations
    #expect(first > start, "the count does not move")
    for _ in 0..<4 { step() }
    #expect(BufferPool.allocations == first)

    // Parts that run side by side need at most as much again for each of them.
    microBatch = 4
    for _ in 0..<12 { step() }
    #expect(BufferPool.allocations - first <= 3 * (first - start))
  }

  @Test func partsAddUpToTheWholeBatch() throws {
    let dataset = TinyModel.latents(seed: 1)
    func trained(microBatch: Int) throws -> (TrainingStepReport, [Float]) {
      let model = try TinyModel.make()
      let trainer = DiffusionTrainer(
        model: model, process: .noise(try GaussianDiffusion(spacing: "")), emaDecay: 0.99)
      let batch = dataset.batch(
        0..<10, seed: 9, name: "test", nullClass: 3, labelDropout: 0.1)
      let report = trainer.step(batch, microBatch: microBatch, rate: 1e-3, clipNorm: 1)
      return (report, model.parameters.flatMap(\.value.values))
    }
    let (whole, _) = try trained(microBatch: 10)
    for microBatch in [1, 3, 4] {
      let (parts, values) = try trained(microBatch: microBatch)
      #expect(abs(parts.loss - whole.loss) < 1e-5 * abs(whole.loss))
      #expect(abs(parts.gradientNorm - whole.gradientNorm) < 1e-4 * whole.gradientNorm)
      let (_, again) = try trained(microBatch: microBatch)
      #expect(values == again, "the timing of the threads must not matter")
    }
  }

  @Test func distillationStopsAllocating() throws {
    let plan = TinyModel.plan([
      SlotID(block: 0, slot: .attention): OperatorSpec("hyena_x"),
      SlotID(block: 1, slot: .attention): OperatorSpec("swa"),
      SlotID(block: 1, slot: .mlp): OperatorSpec("mlp", ["expansion_ratio": 3]),
    ])
    let run = try ActivationDistillation(
      graft: try Graft(fresh: plan, teacher: try TinyModel.make()),
      dataset: TinyModel.latents(seed: 1), heldOut: TinyModel.latents(seed: 2))
    BufferPool.trim()
    let start = BufferPool.allocations
    _ = run.trainStep()
    _ = run.heldOutLosses()
    let first = BufferPool.allocations
    #expect(first > start, "the count does not move")
    // How many parts run at once, and where each of them stands, differs from step to step: the pool
    // may still grow, but to no more than every part needs by itself.
    for _ in 0..<20 {
      _ = run.trainStep()
      _ = run.heldOutLosses()
    }
    #expect(BufferPool.allocations - first <= first - start)
  }
}
