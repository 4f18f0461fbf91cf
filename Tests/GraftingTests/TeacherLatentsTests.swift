import Autograd
import Datasets
import Grafting
import Models
import Plans
import Sampling
import TensorCore
import TestSupport
import Testing

/// Training on samples that the teacher draws itself.
@MainActor @Suite("Data of the teacher's own")
struct TeacherLatentsTests {
  private func settings(pool: Int = 8, steps: Int = 3) -> DataSettings {
    var settings = DataSettings(path: DataSettings.own)
    (settings.pool, settings.poolSteps, settings.guidance) = (pool, steps, 1.7)
    return settings
  }

  private func source(_ teacher: DiT, pool: Int = 8) throws -> TeacherLatents {
    try TeacherLatents(teacher: teacher, settings: settings(pool: pool))
  }

  private func values(_ batch: DiffusionBatch) -> [[Float]] {
    [batch.latents.values, batch.noise.values, batch.steps.map(Float.init)]
      + [batch.labels.map(Float.init), batch.draws.times.map { Float($0) }]
  }

  /// Any step of a new source is that of one that has gone there step by step.
  @Test(arguments: [ModelFamily.Prediction.noise, .velocity])
  func aStepFollowsFromItsNumber(prediction: ModelFamily.Prediction) throws {
    let teacher = try TinyModel.make(prediction)
    func step(_ source: TeacherLatents, _ step: Int, dropout: Double = 0.3) -> [[Float]] {
      values(
        source.batch(
          rows: 4, seed: 5, stage: "stage2", step: step, nullClass: 3, labelDropout: dropout))
    }
    let whole = try source(teacher)
    let steps = (0..<14).map { step(whole, $0) }
    for number in [0, 1, 2, 7, 13] {
      let other = try source(teacher)
      #expect(step(other, number) == steps[number])
      #expect(step(other, number) == steps[number], "asked twice")
      let null = step(other, number, dropout: 1)
      #expect(null[0] == steps[number][0] && Set(null[3]) == [3])
    }
    #expect(Set(steps.map { $0[0] }).count == 14)
  }

  /// A trajectory by the definition: guided predictions and deterministic steps, from noise to the end.
  @Test func aTrajectoryByTheDefinition() throws {
    let teacher = try TinyModel.make()
    let diffusion = try GaussianDiffusion(spacing: "")
    let source = try source(teacher, pool: 1)
    var latents: Tensor?
    for step in 0..<7 {
      let batch = source.batch(
        rows: 1, seed: 5, stage: "stage1", step: step, nullClass: 3, labelDropout: 0)
      let trajectory = step / 3
      if step % 3 == 0 {
        latents = RandomStream(seed: 5, "stage1/self/noise").normal(
          [1, 2, 4, 4], from: trajectory * 32)
      }
      let shift = RandomStream(seed: 5, "stage1/self/timestep").uniform(trajectory)
      let t = min(999, Int(1000 * (1 - (Double(step % 3) + shift) / 3)))
      #expect(batch.steps == [t])
      let label = RandomStream(seed: 5, "stage1/self/label").integer(below: 3, trajectory)
      #expect(batch.labels == [label])
      let x = try #require(latents)
      if step % 3 > 0 {
        let again = diffusion.noisy(batch.latents, noise: batch.noise, steps: [t])
        #expect(zip(again.values, x.values).allSatisfy { abs($0 - $1) < 1e-3 })
      }
      let outputs = [label, 3].map {
        teacher.predict(x, Conditioning(timesteps: [Float(t)], labels: [$0]))
      }
      let (alpha, sigma) = (
        diffusion.schedule.sqrtAlphasCumprod[t], diffusion.schedule.sqrtOneMinusAlphasCumprod[t]
      )
      let next = min(999, Int(1000 * (1 - (Double(step % 3 + 1) + shift) / 3)))
      let following = Tensor(x.shape)
      for k in 0..<32 {
        let (c, u) = (Double(outputs[0][k]), Double(outputs[1][k]))
        let noise = u + 1.7 * (c - u)
        let start = (Double(x[k]) - sigma * noise) / alpha
        #expect(abs(Double(batch.noise[k]) - noise) < 1e-4)
        #expect(abs(Double(batch.latents[k]) - start) < 1e-3 * max(1, abs(start)), "\(step)")
        if step % 3 < 2 {
          following[k] = Float(
            diffusion.schedule.sqrtAlphasCumprod[next] * start
              + diffusion.schedule.sqrtOneMinusAlphasCumprod[next] * noise)
        }
      }
      latents = following
    }
  }

  /// The members of a batch are spread over the steps, and every one begins anew after its last.
  @Test func aPoolIsSpreadOverTheSteps() throws {
    let source = try TeacherLatents(
      teacher: try TinyModel.make(), settings: settings(pool: 8, steps: 4))
    for step in 0..<12 {
      let steps = source.batch(
        rows: 4, seed: 1, stage: "stage1", step: step, nullClass: 3, labelDropout: 0
      ).steps
      #expect(Set(steps.map { $0 / 250 }).count == 4, "\(steps)")
    }
  }

  /// Both stages train on it, and go on from a checkpoint with the same bytes.
  @Test func bothStagesTrainOnIt() throws {
    var plan = TinyModel.plan([SlotID(block: 1, slot: .attention): OperatorSpec("hyena_x")])
    plan.data = settings(pool: 12)
    (plan.stage1.batchSize, plan.stage1.heldOutSamples) = (4, 8)
    (plan.stage2.steps, plan.stage2.batchSize, plan.stage2.learningRate) = (12, 4, 1e-3)
    (plan.stage2.diffusionWeight, plan.stage2.distillationWeight) = (0, 1)
    (plan.stage2.distillsNull, plan.stage2.heldOutSamples) = (true, 8)
    let teacher = try TinyModel.make()
    func data() throws -> (LatentDataset, LatentDataset) {
      let source = try source(teacher, pool: 12)
      return (
        source.dataset(count: 20, seed: 1, modelHash: "0", isPool: true),
        source.dataset(count: 8, seed: 2, modelHash: "0", isPool: false)
      )
    }
    func stage1() throws -> ActivationDistillation {
      let (dataset, heldOut) = try data()
      return try ActivationDistillation(
        graft: try Graft(fresh: plan, teacher: teacher), dataset: dataset, heldOut: heldOut)
    }
    let scratch = try Scratch()
    let folder = scratch.path
    let first = try stage1()
    let start = first.heldOutLosses().values.reduce(0, +)
    for _ in 0..<5 { _ = first.trainStep() }
    try first.saveCheckpoint(to: "\(folder)/1")
    for _ in 0..<15 { _ = first.trainStep() }
    #expect(first.heldOutLosses().values.reduce(0, +) < start)
    let resumed = try stage1()
    try resumed.resume(from: "\(folder)/1")
    for _ in 0..<15 { _ = resumed.trainStep() }
    func values(_ graft: Graft) -> [[Float]] { graft.model.parameters.map(\.value.values) }
    #expect(values(resumed.graft) == values(first.graft))

    func stage2() throws -> Finetuning {
      let (dataset, heldOut) = try data()
      return try Finetuning(
        graft: try Graft(fresh: plan, teacher: teacher), dataset: dataset, heldOut: heldOut)
    }
    let second = try stage2()
    let before = second.heldOutLoss()
    for _ in 0..<5 { _ = second.trainStep() }
    try second.saveCheckpoint(to: "\(folder)/2")
    for _ in 0..<7 { _ = second.trainStep() }
    #expect(second.heldOutLoss() < before)
    let again = try stage2()
    try again.resume(from: "\(folder)/2")
    for _ in 0..<7 { _ = again.trainStep() }
    #expect(
      again.model.parameters.map(\.value.values) == second.model.parameters.map(\.value.values))
    #expect(again.heldOutLoss() == second.heldOutLoss())
  }
}
