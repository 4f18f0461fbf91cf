import Autograd
import Checkpoints
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
import Training

@MainActor @Suite("Depth to width")
struct DepthToWidthTests {
  private let pair = BlockPair(first: 0)
  private let mlp = SlotID(block: 1, slot: .mlp)
  private let path: String

  init() {
    path = NSTemporaryDirectory() + "depth-to-width-\(UUID().uuidString).safetensors"
  }

  private func plan(
    _ merge: ParallelMerge = .projection, edits: [SlotID: OperatorSpec] = [:]
  ) -> GraftPlan {
    var plan = TinyModel.plan(edits)
    plan.parallel = [pair: merge]
    plan.stage1.learningRate = 3e-3
    return plan
  }

  private func distillation(_ plan: GraftPlan, teacher: any DiffusionTransformer) throws
    -> ActivationDistillation
  {
    try ActivationDistillation(
      graft: try Graft(fresh: plan, teacher: teacher), dataset: TinyModel.latents(seed: 1),
      heldOut: TinyModel.latents(seed: 2))
  }

  private func values(_ model: any DiffusionTransformer) -> [String: [Float]] {
    Dictionary(uniqueKeysWithValues: model.parameters.map { ($0.name, $0.value.values) })
  }

  @Test func blocksStartFromTheTeacher() throws {
    let teacher = try TinyModel.make()
    let graft = try Graft(fresh: plan(edits: [mlp: OperatorSpec("mlp")]), teacher: teacher)
    let (old, new) = (values(teacher), values(graft.model))
    for (name, value) in new where !name.contains(".merge.") {
      #expect((value == old[name]) != name.hasPrefix("blocks.1.mlp."), "\(name)")
    }
    #expect(new["blocks.0.merge.bias"]?.allSatisfy { $0 == 0 } == true)
    #expect(new["blocks.0.merge.weight"]?.filter { $0 == 0.5 }.count == 48)
    #expect(graft.untrained == [.pair(pair)])
  }

  /// The pair trained by the definition: whole batches, recorded activations, nothing streamed.
  @Test(arguments: ParallelMerge.allCases)
  func streamingEqualsTheDefinition(merge: ParallelMerge) throws {
    let teacher = try TinyModel.make()
    let plan = plan(merge, edits: [mlp: OperatorSpec("mlp", ["expansion_ratio": 3])])
    let streamed = try distillation(plan, teacher: teacher)
    let found = (0..<8).map { _ in streamed.trainStep() }

    let model = try Graft(fresh: plan, teacher: teacher).model
    let optimizer = AdamW(model.parameters(of: pair))
    let diffusion = try GaussianDiffusion(spacing: "")
    let dataset = TinyModel.latents(seed: 1)
    for step in 0..<8 {
      let batch = dataset.batch(
        0..<plan.stage1.batchSize, seed: plan.seed, name: "stage1/\(step)", nullClass: 3,
        labelDropout: 0.1)
      let noisy = diffusion.noisy(batch.latents, noise: batch.noise, steps: batch.steps)
      let conditioning = Conditioning(
        timesteps: batch.steps.map(Float.init), labels: batch.labels)
      var seen: [String: Tensor] = [:]
      _ = teacher(
        Value(constant: noisy), conditioning, on: Tape(recording: false),
        observe: { seen[$0] = $1.tensor })
      let tape = Tape()
      let output = model.output(
        of: pair, Value(constant: try #require(seen["blocks.0.in"])),
        teacher.condition(conditioning, on: Tape(recording: false)), on: tape)
      let (loss, gradient) = RegressionObjective.l1.lossAndGradient(
        output.tensor, try #require(seen["blocks.1.out"]))
      tape.backward(output, gradient)
      let warm = min(1, Double(step + 1) / Double(plan.stage1.warmupSteps))
      optimizer.step(
        rate: Float(plan.stage1.learningRate * warm), clipNorm: Float(plan.stage1.clipNorm))
      #expect(Set(found[step].keys) == [.pair(pair)])
      let streamedLoss = try #require(found[step][.pair(pair)])
      #expect(abs(streamedLoss - loss) < 1e-3 * loss, "step \(step): \(streamedLoss), \(loss)")
    }
  }

  @Test(arguments: ParallelMerge.allCases)
  func theHeldOutLossFalls(merge: ParallelMerge) throws {
    var plan = plan(merge)
    plan.stage1.steps = 120
    let run = try distillation(plan, teacher: try TinyModel.make())
    let before = try #require(run.heldOutLosses()[.pair(pair)])
    for _ in 0..<120 { _ = run.trainStep() }
    let after = try #require(run.heldOutLosses()[.pair(pair)])
    #expect(after < 0.6 * before, "\(before) to \(after)")
  }

  @Test func theTeacherIsNotTouched() throws {
    let teacher = try TinyModel.make()
    let kept = values(teacher)
    let run = try distillation(plan(), teacher: teacher)
    for _ in 0..<3 { _ = run.trainStep() }
    #expect(values(teacher) == kept)
    #expect(teacher.parameters.allSatisfy { $0.gradient == nil })
    let trained = values(run.graft.model)
    for (name, value) in kept { #expect((trained[name] != value) == name.hasPrefix("blocks.")) }
  }

  @Test func aCheckpointContinuesTheSameRun() throws {
    defer { try? FileManager.default.removeItem(atPath: path) }
    let teacher = try TinyModel.make()
    let plan = plan(edits: [mlp: OperatorSpec("mlp_hyena_x")])
    let whole = try distillation(plan, teacher: teacher)
    for _ in 0..<3 { _ = whole.trainStep() }
    try whole.saveCheckpoint(to: path)
    let resumed = try distillation(plan, teacher: teacher)
    try resumed.resume(from: path)
    for _ in 0..<3 { #expect(resumed.trainStep() == whole.trainStep()) }
    #expect(resumed.heldOutLosses() == whole.heldOutLosses())
    #expect(values(resumed.graft.model) == values(whole.graft.model))
    let other = try distillation(self.plan(.mean), teacher: teacher)
    #expect(throws: FileError.self) { try other.resume(from: path) }
  }

  /// A pair takes the weights of a run that trained the same pair, and of no other.
  @Test func weightsOfARunAreFound() throws {
    defer { try? FileManager.default.removeItem(atPath: path) }
    let teacher = try TinyModel.make()
    let edits = [mlp: OperatorSpec("mlp", ["expansion_ratio": 2])]
    let plan = plan(edits: edits)
    let run = try distillation(plan, teacher: teacher)
    for _ in 0..<2 { _ = run.trainStep() }
    let trained = values(run.graft.model)
    for save in [run.saveCheckpoint, run.graft.saveOperators] {
      try save(path)
      let found = try Graft(plan: plan, teacher: teacher, checkpoints: [path])
      #expect(found.untrained.isEmpty && values(found.model) == trained)
      for other in [self.plan(.mean, edits: edits), self.plan(), TinyModel.plan(edits)] {
        let untrained = try Graft(plan: other, teacher: teacher, checkpoints: [path])
        #expect(untrained.untrained == other.sites)
        #expect(values(untrained.model) == values(try Graft(fresh: other, teacher: teacher).model))
      }
    }
    #expect(try SafetensorsFile(path: path).names.allSatisfy { $0.hasPrefix("blocks.") })
  }

  /// Saved with its plan inside, loaded again: the same forward to the last bit.
  @Test(arguments: ParallelMerge.allCases)
  func aSavedModelIsTheSameModel(merge: ParallelMerge) throws {
    defer { try? FileManager.default.removeItem(atPath: path) }
    let plan = plan(merge, edits: [mlp: OperatorSpec("mlp", ["expansion_ratio": 2])])
    let run = try distillation(plan, teacher: try TinyModel.make())
    for _ in 0..<2 { _ = run.trainStep() }
    try run.graft.saveModel(
      to: path,
      teacherMetadata: DiTFile.metadata(config: TinyModel.config, classNames: [], name: "tiny"))
    let file = try DiTFile(path: path)
    #expect(file.plan == plan)
    let loaded = try file.load()
    #expect(loaded.merges.keys.map(\.self) == [pair])
    var random = RandomSequence(seed: 5)
    let x = random.normal([3, 2, 4, 4])
    let conditioning = Conditioning(timesteps: [1, 500, 999], labels: [0, 3, 2])
    let expected = run.graft.model.predict(x, conditioning).values
    #expect(loaded.predict(x, conditioning).values == expected)
    #expect(run.graft.teacher.predict(x, conditioning).values != expected)
    let error = #expect(throws: PlanError.self) { try Graft(fresh: plan, teacher: loaded) }
    #expect(error?.message.contains("parallel blocks") == true)
  }

  /// End to end: every parameter of the restructured model gets a gradient from the model's own loss.
  @Test func theWholeModelTrains() throws {
    let graft = try Graft(fresh: plan(), teacher: try TinyModel.make())
    let trainer = DiffusionTrainer(
      model: graft.model, process: .noise(try GaussianDiffusion(spacing: "")), emaDecay: 0.99)
    let dataset = TinyModel.latents(seed: 1)
    let before = values(graft.model)
    for step in 0..<2 {
      let batch = dataset.batch(
        0..<8, seed: 4, name: "\(step)", nullClass: 3, labelDropout: 0.1)
      _ = trainer.step(batch, microBatch: 4, rate: 1e-3, clipNorm: 1)
    }
    let after = values(graft.model)
    for (name, value) in after where name != "pos_embed" {
      #expect(value != before[name], "\(name)")
    }
  }
}
