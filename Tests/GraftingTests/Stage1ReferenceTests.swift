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

@MainActor @Suite("Activation distillation")
struct Stage1ReferenceTests {
  private let attention = SlotID(block: 1, slot: .attention)
  private let mlp = SlotID(block: 0, slot: .mlp)

  private func plan() -> GraftPlan {
    TinyModel.plan([attention: OperatorSpec("hyena_x"), mlp: OperatorSpec("mlp")])
  }

  private func distillation(_ plan: GraftPlan, teacher: DiT) throws -> ActivationDistillation {
    try ActivationDistillation(
      graft: try Graft(fresh: plan, teacher: teacher), dataset: TinyModel.latents(seed: 1),
      heldOut: TinyModel.latents(seed: 2))
  }

  /// One operator trained by the definition: whole batches, recorded activations, nothing streamed.
  private func trainByDefinition(
    _ id: SlotID, _ plan: GraftPlan, _ teacher: DiT, steps: Int
  ) throws -> (losses: [Double], norms: [Double], module: any GraftOperator) {
    let module = try #require(try Graft(fresh: plan, teacher: teacher).replacement(id))
    let optimizer = AdamW(module.parameters)
    let diffusion = try GaussianDiffusion(spacing: "")
    let dataset = TinyModel.latents(seed: 1)
    var (losses, norms): ([Double], [Double]) = ([], [])
    for step in 0..<steps {
      let batch = dataset.batch(
        0..<plan.stage1.batchSize, seed: plan.seed, name: "stage1/\(step)", nullClass: 3,
        labelDropout: 0.1)
      let noisy = diffusion.noisy(batch.latents, noise: batch.noise, steps: batch.steps)
      var input: Tensor?
      var target: Tensor?
      _ = teacher(
        Value(constant: noisy),
        DiT.Conditioning(timesteps: batch.steps.map(Float.init), labels: batch.labels),
        on: Tape(recording: false),
        observeBlock: { block, seen in
          guard block == id.block else { return }
          input = id.slot == .attention ? seen.attentionInput : seen.mlpInput
          target = id.slot == .attention ? seen.attentionOutput : seen.mlpOutput
        })
      let tape = Tape()
      let output = module(Value(constant: try #require(input)), on: tape)
      let objective = plan.stage1.objective(for: .slot(id))
      let (loss, gradient) = objective.lossAndGradient(output.tensor, try #require(target))
      losses.append(loss)
      tape.backward(output, gradient)
      let warm = min(1, Double(step + 1) / Double(plan.stage1.warmupSteps))
      let passed = plan.stage1.milestones.count { Double(step) >= $0 * Double(plan.stage1.steps) }
      let rate = plan.stage1.learningRate * warm * pow(plan.stage1.gamma, Double(passed))
      norms.append(optimizer.step(rate: Float(rate), clipNorm: Float(plan.stage1.clipNorm)))
    }
    return (losses, norms, module)
  }

  @Test func streamingEqualsTheDefinition() throws {
    let teacher = try TinyModel.make()
    let plan = plan()
    let streamed = try distillation(plan, teacher: teacher)
    var norms: [Double] = []
    let losses = (0..<14).map { _ in
      let losses = streamed.trainStep()
      norms.append(streamed.gradientNorm)
      return losses
    }
    #expect(streamed.samplesInStep == plan.stage1.batchSize)
    var squares = [Double](repeating: 0, count: 14)
    for id in [attention, mlp] {
      let (expected, norms, module) = try trainByDefinition(id, plan, teacher, steps: 14)
      for (step, norm) in norms.enumerated() { squares[step] += norm * norm }
      for (step, loss) in expected.enumerated() {
        let found = try #require(losses[step][.slot(id)])
        #expect(abs(found - loss) < 1e-4 * loss, "\(id) step \(step)")
      }
      let trained = try #require(streamed.graft.replacement(id))
      for (found, reference) in zip(trained.parameters, module.parameters) {
        let worst = zip(found.value.values, reference.value.values).map { abs($0 - $1) }.max() ?? 1
        // The sign of an L1 gradient may flip where prediction and target nearly agree.
        #expect(worst < 2e-4, "\(found.name)")
      }
    }
    for (found, square) in zip(norms, squares) {
      #expect(abs(found - square.squareRoot()) < 1e-3 * found)
    }
  }

  @Test func selfGraftsLearnTheirOriginal() throws {
    var plan = TinyModel.plan([mlp: OperatorSpec("mlp"), attention: OperatorSpec("mha")])
    plan.stage1.learningRate = 1e-2
    plan.stage1.steps = 150
    let run = try distillation(plan, teacher: try TinyModel.make())
    let before = run.heldOutLosses()
    for _ in 0..<150 { _ = run.trainStep() }
    let after = run.heldOutLosses()
    for id in [mlp, attention] {
      let (first, last) = (try #require(before[.slot(id)]), try #require(after[.slot(id)]))
      #expect(last < 0.5 * first, "\(id): \(first) to \(last)")
    }
    #expect(run.heldOutLosses() == after)
  }

  /// Every operator at once, those without parameters among them.
  @Test func mixedGraftsLearnAndSkippedSlotsAreMeasured() throws {
    let folder = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    let path = folder.appending(path: "checkpoint.safetensors").path
    let teacher = try TinyModel.make()
    let specs: [Slot: [OperatorSpec]] = [
      .attention: [
        OperatorSpec("skip"), OperatorSpec("hyena_se"), OperatorSpec("hyena_y"),
        OperatorSpec("mamba2", ["headdim": 8, "d_state": 6, "ngroups": 2, "chunk_size": 5]),
        OperatorSpec("linear_attention"), OperatorSpec("swa", ["num_heads": 2]),
      ],
      .mlp: [
        OperatorSpec("mlp_hyena_x"), OperatorSpec("linear"),
        OperatorSpec("mlp", ["expansion_ratio": 0.3]), OperatorSpec("mlp_hyena_x"),
        OperatorSpec("skip"), OperatorSpec("mlp"),
      ],
    ]
    for index in stride(from: 0, to: 6, by: 2) {
      var edits: [SlotID: OperatorSpec] = [:]
      for (slot, list) in specs {
        for block in 0..<2 { edits[SlotID(block: block, slot: slot)] = list[index + block] }
      }
      var plan = TinyModel.plan(edits)
      plan.stage1.learningRate = 3e-3
      try plan.validate()
      let run = try distillation(plan, teacher: teacher)
      let before = run.heldOutLosses()
      var losses: ActivationDistillation.Losses = [:]
      for _ in 0..<30 { losses = run.trainStep() }
      #expect(Set(losses.keys) == Set(edits.keys.map(GraftSite.slot)))
      let after = run.heldOutLosses()
      for (id, spec) in edits {
        let (first, last) = (try #require(before[.slot(id)]), try #require(after[.slot(id)]))
        #expect(spec.name == "skip" ? last == first && first > 0 : last < first, "\(id) \(spec)")
      }
      try run.saveCheckpoint(to: path)
      let resumed = try distillation(plan, teacher: teacher)
      try resumed.resume(from: path)
      #expect(resumed.trainStep() == run.trainStep())
      #expect(resumed.heldOutLosses() == run.heldOutLosses())
      try run.graft.saveOperators(to: path)
      let loaded = try Graft(plan: plan, teacher: teacher, checkpoints: [path])
      #expect(loaded.untrained.isEmpty)
      #expect(
        loaded.model.parameters.map(\.value.values)
          == run.graft.model.parameters.map(\.value.values))
    }
  }

  @Test func aGraftOfSkipsAloneRunsToItsEnd() throws {
    let folder = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    let path = folder.appending(path: "checkpoint.safetensors").path
    let plan = TinyModel.plan([attention: OperatorSpec("skip"), mlp: OperatorSpec("skip")])
    let run = try distillation(plan, teacher: try TinyModel.make())
    #expect(run.trainStep().count == 2)
    try run.saveCheckpoint(to: path)
    try run.resume(from: path)
    #expect(run.step == 1)
    try run.graft.saveOperators(to: path)
    #expect(try SafetensorsFile(path: path).names.isEmpty)
  }

  @Test func theTeacherIsNotTouched() throws {
    let teacher = try TinyModel.make()
    let kept = teacher.parameters.map(\.value.values)
    let run = try distillation(plan(), teacher: teacher)
    for _ in 0..<3 { _ = run.trainStep() }
    #expect(teacher.parameters.map(\.value.values) == kept)
    #expect(teacher.parameters.allSatisfy { $0.gradient == nil })
  }

  @Test func aCheckpointContinuesTheSameRun() throws {
    let folder = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    let path = folder.appending(path: "checkpoint.safetensors").path
    let teacher = try TinyModel.make()
    let whole = try distillation(plan(), teacher: teacher)
    for _ in 0..<3 { _ = whole.trainStep() }
    try whole.saveCheckpoint(to: path)
    let resumed = try distillation(plan(), teacher: teacher)
    try PretrainingTests.replaceGenerator(in: path, by: nil)
    let old = #expect(throws: FileError.self) { try resumed.resume(from: path) }
    #expect(old?.message.contains("no 'random_generator' in the metadata") == true)
    try PretrainingTests.replaceGenerator(in: path, by: "philox4x32-10")
    try resumed.resume(from: path)
    #expect(resumed.step == 3)
    for _ in 0..<3 { #expect(resumed.trainStep() == whole.trainStep()) }
    for id in [attention, mlp] {
      let (found, expected) = (resumed.graft.replacement(id), whole.graft.replacement(id))
      #expect(found?.parameters.map(\.value.values) == expected?.parameters.map(\.value.values))
    }
  }
}
