import Autograd
import Checkpoints
import Datasets
import Files
import Foundation
import Grafting
import Nn
import Operators
import Plans
import TensorCore
import TestSupport
import Testing

/// Stage 1 from recorded activations, and settings of single slots.
@MainActor @Suite("Cached activation distillation")
final class CachedDistillationTests {
  private let attention = SlotID(block: 1, slot: .attention)
  private let mlp = SlotID(block: 0, slot: .mlp)
  private let folder = NSTemporaryDirectory() + "/espalier-cache-" + UUID().uuidString

  init() throws {
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
  }

  deinit { try? FileManager.default.removeItem(atPath: folder) }

  private func plan(samples: Int = 30, epochs: Int = 4) -> GraftPlan {
    var plan = TinyModel.plan([attention: OperatorSpec("hyena_x"), mlp: OperatorSpec("mlp")])
    plan.stage1.mode = .cached
    (plan.stage1.samples, plan.stage1.epochs, plan.stage1.batchSize) = (samples, epochs, 7)
    plan.stage1.learningRate = 4e-3
    return plan
  }

  private func data(_ seed: UInt64 = 1) -> LatentDataset {
    let latents = TinyModel.latents(seed: seed)
    return latents.subset(Array(0..<latents.count), identity: "seed \(seed)")
  }

  private func distillation(_ plan: GraftPlan, data seed: UInt64 = 1) throws
    -> ActivationDistillation
  {
    let graft = try Graft(fresh: plan, teacher: try TinyModel.make())
    let cache =
      plan.stage1.mode == .cached
      ? try ActivationCache(graft: graft, dataset: data(seed), folder: folder) : nil
    return try ActivationDistillation(
      graft: graft, dataset: data(seed), heldOut: TinyModel.latents(seed: 2), cache: cache)
  }

  /// With all labels dropped, in training, held-out samples and recordings, labels make no difference;
  /// with none dropped they do.
  @Test(arguments: [Stage1Mode.streaming, .cached])
  func labelDropoutIsASetting(mode: Stage1Mode) throws {
    func losses(dropout: Double, shift: Int) throws -> [ActivationDistillation.Losses] {
      var plan = plan()
      (plan.stage1.mode, plan.stage1.labelDropout) = (mode, dropout)
      func shifted(_ seed: UInt64) -> LatentDataset {
        let source = TinyModel.latents(seed: seed)
        return LatentDataset(
          latents: source.latents(0..<source.count),
          labels: source.labels.map { ($0 + shift) % 3 }, identity: "\(mode) \(seed) \(shift)")
      }
      let graft = try Graft(fresh: plan, teacher: try TinyModel.make())
      let cache =
        mode == .cached
        ? try ActivationCache(graft: graft, dataset: shifted(1), folder: folder) : nil
      let run = try ActivationDistillation(
        graft: graft, dataset: shifted(1), heldOut: shifted(2), cache: cache)
      return [run.heldOutLosses(), run.trainStep()]
    }
    #expect(try losses(dropout: 1, shift: 0) == losses(dropout: 1, shift: 1))
    let (own, others) = (try losses(dropout: 0, shift: 0), try losses(dropout: 0, shift: 1))
    #expect(own[0] != others[0] && own[1] != others[1])
    // Recordings are those of their own dropout.
    #expect(try losses(dropout: 1, shift: 0)[1] != own[1])
  }

  @Test func aSiteMayStopEarlier() throws {
    var plan = plan()
    plan.stage1.mode = .streaming
    plan.stage1.steps = 6
    var own = SiteOverride()
    (own.steps, own.keepsBest, own.gamma, own.milestones) = (3, true, 0.25, [0.5])
    plan.stage1.overrides[.slot(mlp)] = own
    let run = try distillation(plan)
    func values(_ id: SlotID) -> [[Float]] {
      run.graft.parameters(of: .slot(id)).map(\.value.values)
    }
    for _ in 0..<3 { _ = run.trainStep() }
    let rate = try #require(run.learningRates[.slot(mlp)])
    #expect(abs(rate / (run.learningRates[.slot(attention)] ?? 0) - 0.25) < 0.3)
    let before = (values(mlp), values(attention))
    let losses = run.trainStep()
    #expect(values(mlp) == before.0 && values(attention) != before.1)
    #expect(losses[.slot(mlp)]?.isFinite == true && run.learningRates[.slot(mlp)] == 0)
    _ = run.validate()
    #expect(Array(run.restoreBest().keys) == [.slot(mlp)])
    own.steps = 7
    plan.stage1.overrides[.slot(mlp)] = own
    let error = #expect(throws: PlanError.self) { try plan.validate() }
    #expect(error?.key == "stage1.overrides.0.mlp.steps")
  }

  @Test func recordingsOfOthersMakeRoom() throws {
    var plan = plan()
    // A recording takes 95 kB.
    plan.stage1.cacheGB = 1.5e-4
    _ = try distillation(plan)
    let first = try recordings()
    // Just used, so it stays beside the next; then it goes, and so does what a killed one left.
    _ = try distillation(plan, data: 3)
    #expect(try recordings().count == 4)
    for name in try FileManager.default.contentsOfDirectory(atPath: folder) {
      let path = "\(folder)/\(name)"
      try Data().write(to: URL(filePath: "\(path)/.0.mlp.safetensors.4194303.x1.tmp"))
      try FileManager.default.setAttributes(
        [.modificationDate: Date.distantPast], ofItemAtPath: path)
    }
    _ = try distillation(plan, data: 2)
    let second = try recordings()
    #expect(first.count == 2 && second.count == 2)
    #expect(Set(first.keys).isDisjoint(with: second.keys))
    plan.stage1.cacheGB = 1
    _ = try distillation(plan)
    #expect(try recordings().count == 4)
  }

  @Test func changedHeldOutSamplesAreNoticed() throws {
    let run = try distillation(plan())
    let path = "\(folder)/checkpoint.safetensors"
    try run.saveCheckpoint(to: path)
    try distillation(plan()).resume(from: path)
    let other = TinyModel.latents(seed: 2)
    let changed = try ActivationDistillation(
      graft: run.graft, dataset: data(),
      heldOut: other.subset(Array(0..<other.count), identity: "other"),
      cache: try ActivationCache(graft: run.graft, dataset: data(), folder: folder))
    let error = #expect(throws: FileError.self) { try changed.resume(from: path) }
    #expect(error?.message.contains("the training data have changed since \(path)") == true)
  }

  @Test func faultySamplesAndRecordingsAreNamed() throws {
    let good = TinyModel.latents(seed: 1)
    let broken = good.latents(0..<good.count)
    let width = broken.count / good.count
    for element in 0..<broken.count where element / width % 2 == 1 { broken[element] = .nan }
    let run = try distillation(plan())
    _ = run.trainStep()
    #expect(run.faultInData() == nil && run.isSound())
    var plan = plan()
    plan.stage1.mode = .streaming
    let bad = LatentDataset(latents: broken, labels: good.labels)
    let odd = bad.subset(Array(stride(from: 1, to: bad.count, by: 2)), identity: "")
    let streaming = try ActivationDistillation(
      graft: try Graft(fresh: plan, teacher: try TinyModel.make()), dataset: odd, heldOut: odd)
    #expect(streaming.trainStep().values.contains { !$0.isFinite })
    let fault = try #require(streaming.faultInData())
    let sample = fault.split(separator: " ").lazy.compactMap { Int($0) }.first
    #expect(sample.map { $0 % 2 } == 1 && fault.contains("correct or remove it"))
    #expect(!streaming.isSound())

    let refusal = #expect(throws: FileError.self) {
      try ActivationCache(graft: run.graft, dataset: odd, folder: folder)
    }
    #expect(refusal?.message.contains("of the training data holds values that are not") == true)
    let held = try ActivationDistillation(
      graft: try Graft(fresh: plan, teacher: try TinyModel.make()), dataset: good, heldOut: odd)
    _ = held.trainStep()
    #expect(!held.isSound())
    #expect(held.faultInData()?.contains("of the held-out data holds values that are not") == true)

    // A recording that is damaged while it is open.
    let name = try #require(try recordings().keys.first { $0.hasSuffix("0.mlp.safetensors") })
    let path = "\(folder)/\(name)"
    let damaged = try distillation(self.plan())
    let size = try #require(try recordings()[name]?.count)
    let handle = try #require(FileHandle(forUpdatingAtPath: path))
    try handle.seek(toOffset: UInt64(size / 4))
    try handle.write(contentsOf: Data(repeating: 0xff, count: size - size / 4))
    try handle.close()
    _ = damaged.trainStep()
    #expect(damaged.faultInData()?.hasPrefix("\(path): holds values that are not") == true)
  }

  private func parameters(_ run: ActivationDistillation) -> [[Float]] {
    run.graft.plan.sites.flatMap(run.graft.parameters).map(\.value.values)
  }

  private func recordings() throws -> [String: Data] {
    var files: [String: Data] = [:]
    for name in try FileManager.default.subpathsOfDirectory(atPath: folder)
    where name.hasSuffix(".safetensors") && name.contains("activations-") {
      files[name] = try Data(contentsOf: URL(filePath: "\(folder)/\(name)"))
    }
    return files
  }

  @Test func learnsAndCountsItsSteps() throws {
    let run = try distillation(plan(epochs: 30))
    let total = run.graft.plan.stage1.totalSteps
    #expect(total == 30 * 5)
    let before = run.heldOutLosses()
    for _ in 0..<total { _ = run.trainStep() }
    let after = run.heldOutLosses()
    for id in [attention, mlp] {
      #expect(try #require(after[.slot(id)]) < (try #require(before[.slot(id)])), "\(id)")
    }
  }

  /// The loss of the first epoch is that of the definition on the recorded tensors.
  @Test func aStepUsesTheRecordedRows() throws {
    var plan = plan(samples: 7, epochs: 1)
    plan.edits[attention] = nil
    let run = try distillation(plan)
    let module = try #require(run.graft.replacement(mlp))
    let name = try #require(try recordings().keys.first { $0.hasSuffix("0.mlp.safetensors") })
    let file = try SafetensorsFile(path: "\(folder)/\(name)")
    func tensor(_ name: String) throws -> Tensor {
      Tensor(try file.floats(name), shape: file.entry(name)?.shape ?? [])
    }
    #expect(file.entry("input")?.dtype == .bf16 && file.entry("input")?.shape == [7, 16, 24])
    #expect(file.entry("gate")?.shape == [7, 24])
    let output = module(Value(constant: try tensor("input")), on: Tape(recording: false)).tensor
    let expected = RegressionObjective.l2.loss(output, try tensor("target"))
    let found = try #require(run.trainStep()[.slot(mlp)])
    #expect(abs(found - expected) < 1e-5 * expected)
  }

  @Test func recordingsAreReusedByTheSameRunAlone() throws {
    _ = try distillation(plan())
    let first = try recordings()
    #expect(first.count == 2)
    // Another operator and other settings of training: the same activations.
    var other = plan(epochs: 9)
    other.edits[attention] = OperatorSpec("swa")
    other.stage1.learningRate = 1e-3
    _ = try distillation(other)
    #expect(try recordings() == first)
    // One more slot is recorded on the same samples.
    other.edits[SlotID(block: 1, slot: .mlp)] = OperatorSpec("mlp")
    _ = try distillation(other)
    #expect(try recordings().count == 3)
    // Another seed, data set, number of samples or model is something else.
    var seeded = plan()
    seeded.seed = 12
    _ = try distillation(seeded)
    _ = try distillation(plan(), data: 3)
    _ = try distillation(plan(samples: 31))
    var model = plan()
    model.model.contentHash = "1"
    _ = try distillation(model)
    let all = try recordings()
    #expect(all.count == 3 + 4 * 2)
    #expect(first.allSatisfy { all[$0.key] == $0.value })
    // A damaged file is made anew, byte for byte.
    let name = try #require(first.keys.sorted().first)
    try Data("x".utf8).write(to: URL(filePath: "\(folder)/\(name)"))
    _ = try distillation(plan())
    #expect(try recordings() == all)
  }

  /// A recording under the right name that is not as it was written, by a byte, a type or a size, is made anew.
  @Test(arguments: ["a byte", "the type", "the size", "the digest", "nothing left"])
  func damagedRecordingsAreMadeAnew(damage: String) throws {
    _ = try distillation(plan())
    let good = try recordings()
    let name = try #require(good.keys.first { $0.hasSuffix("0.mlp.safetensors") })
    let path = "\(folder)/\(name)"
    let file = try SafetensorsFile(path: path)
    func rewrite(_ dtype: DType, samples: Int) throws {
      let items = try file.names.map { name in
        let shape = [samples] + (file.entry(name)?.shape.dropFirst() ?? [])
        let floats = try file.floats(name)[..<shape.reduce(1, *)]
        return TensorItem(name: name, shape: shape, dtype: dtype, floats: Array(floats))
      }
      try SafetensorsWriter.write(items, metadata: file.metadata, to: path)
    }
    switch damage {
    case "a byte":
      var bytes = try #require(good[name])
      bytes[bytes.count - 100] ^= 1
      try bytes.write(to: URL(filePath: path))
    case "the type": try rewrite(.f32, samples: 30)
    case "the size": try rewrite(.bf16, samples: 29)
    case "the digest": try Data("0".utf8).write(to: URL(filePath: path + ".sha256"))
    default: try Data().write(to: URL(filePath: path))
    }
    let losses = try distillation(plan()).trainStep()
    #expect(losses.values.allSatisfy { $0.isFinite })
    #expect(try recordings() == good)
  }

  @Test func theBudgetIsKept() throws {
    var plan = plan()
    plan.stage1.samples = 1_000_000
    // 2 slots, 10^6 samples, 2 x 16 tokens and a gate of 24 channels in 2 bytes.
    plan.stage1.cacheGB = 3.1
    let tight = try Graft(fresh: plan, teacher: try TinyModel.make())
    let refusal = #expect(throws: PlanError.self) {
      try ActivationCache(graft: tight, dataset: data(), folder: folder)
    }
    #expect(refusal?.key == "stage1.cache_gb")
    #expect(refusal?.message.contains("take 3.17 GB, the budget is 3.1 GB") == true)
    #expect(try recordings().isEmpty)
  }

  @Test func aStoppedRecordingLeavesNothing() throws {
    struct Stop: Error {}
    let graft = try Graft(fresh: plan(), teacher: try TinyModel.make())
    #expect(throws: Stop.self) {
      try ActivationCache(graft: graft, dataset: data(), folder: folder) { done, _ in
        if done > 0 { throw Stop() }
      }
    }
    let left = try FileManager.default.subpathsOfDirectory(atPath: folder)
    #expect(left.allSatisfy { !$0.contains(".") }, "\(left)")
  }

  /// Interrupted at several steps, with every kind of state: bit for bit the undisturbed run.
  @Test(arguments: [Stage1Mode.cached, .streaming])
  func resumesExactly(mode: Stage1Mode) throws {
    var plan = plan()
    (plan.stage1.mode, plan.stage1.steps, plan.stage1.keepsBest) = (mode, 20, true)
    var own = SiteOverride()
    (own.decay, own.isGateScaled) = (.plateau, true)
    plan.stage1.overrides[.slot(attention)] = own
    own = SiteOverride()
    (own.decay, own.minimumRate, own.loss) = (.exponential, 1e-4, .huber)
    plan.stage1.overrides[.slot(mlp)] = own
    try plan.validate()
    #expect(plan.stage1.totalSteps == 20)
    func advance(_ run: ActivationDistillation) -> [ActivationDistillation.Losses] {
      var losses = [run.trainStep()]
      if run.step % 3 == 0 { losses.append(run.validate()) }
      return losses
    }
    let whole = try distillation(plan)
    var expected: [[ActivationDistillation.Losses]] = []
    while whole.step < 20 { expected.append(advance(whole)) }
    let path = "\(folder)/checkpoint.safetensors"
    var run = try distillation(plan)
    for step in 0..<20 {
      // In the middle of an epoch, at its end, before and after a validation.
      if [1, 4, 5, 6, 9, 13, 19].contains(step) {
        try run.saveCheckpoint(to: path)
        run = try distillation(plan)
        try run.resume(from: path)
        #expect(run.step == step)
      }
      #expect(advance(run) == expected[step], "step \(step)")
    }
    #expect(parameters(run) == parameters(whole))
    #expect(run.restoreBest() == whole.restoreBest())
    #expect(parameters(run) == parameters(whole))
  }

  @Test func theBestWeightsComeBack() throws {
    var plan = plan()
    plan.stage1.keepsBest = true
    let run = try distillation(plan)
    for _ in 0..<15 { _ = run.trainStep() }
    let good = run.validate()
    let kept = parameters(run)
    for id in run.graft.plan.edits.keys.sorted() {
      for parameter in run.graft.replacement(id)?.parameters ?? [] {
        parameter.update { $0.fill(3) }
      }
    }
    let bad = run.validate()
    #expect(bad.allSatisfy { $0.value > (good[$0.key] ?? .infinity) })
    #expect(run.restoreBest() == good && parameters(run) == kept)
    #expect(run.heldOutLosses() == good)
  }

  @Test func aGateScaledLossIsThatBehindTheGate() throws {
    var plan = plan(samples: 7, epochs: 1)
    plan.edits[attention] = nil
    plan.stage1.isGateScaled = true
    let run = try distillation(plan)
    let module = try #require(run.graft.replacement(mlp))
    let name = try #require(try recordings().keys.first { $0.hasSuffix("0.mlp.safetensors") })
    let file = try SafetensorsFile(path: "\(folder)/\(name)")
    let input = Tensor(try file.floats("input"), shape: [7, 16, 24])
    let output = module(Value(constant: input), on: Tape(recording: false)).tensor
    let (target, gate) = (try file.floats("target"), try file.floats("gate"))
    var sum = 0.0
    for index in 0..<output.count {
      let factor = gate[index / (16 * 24) * 24 + index % 24]
      let difference = Double(factor * (output[index] - target[index]))
      sum += difference * difference
    }
    let expected = sum / Double(output.count)
    let found = try #require(run.trainStep()[.slot(mlp)])
    #expect(abs(found - expected) < 1e-4 * expected)
  }
}
