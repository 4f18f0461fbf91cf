import Autograd
import CKernels
import Foundation
import Grafting
import Models
import Operators
import Plans
import TensorCore
import TestSupport
import Testing

/// Output layers that are fitted in closed form.
@MainActor @Suite("Ridge fits", .serialized)
struct RidgeFitTests {
  private let attention = SlotID(block: 1, slot: .attention)
  private let mlp = SlotID(block: 0, slot: .mlp)
  private let pair = BlockPair(first: 0)

  private func plan(
    _ edits: [SlotID: OperatorSpec], _ start: Initialization = .ridge, lambda: Double = 1e-6
  ) -> GraftPlan {
    var plan = TinyModel.plan(edits)
    for id in edits.keys {
      plan.stage1.overrides[.slot(id), default: SiteOverride()].initialization = start
    }
    plan.stage1.ridgeLambda = lambda
    plan.stage1.ridgeSamples = 30
    return plan
  }

  private func activations(_ teacher: DiT, samples: Int = 30) throws -> TeacherActivations {
    try TeacherActivations(
      teacher: teacher, dataset: TinyModel.latents(seed: 1), samples: samples, seed: 11,
      labelDropout: 0.1)
  }

  private func fitted(_ plan: GraftPlan, teacher: DiT) throws -> (
    graft: Graft, unexplained: RidgeFit.Unexplained
  ) {
    try plan.validate()
    let graft = try Graft(fresh: plan, teacher: teacher)
    let fit = RidgeFit(graft)
    return (graft, try fit(fit.initialTargets(plan.sites), on: activations(teacher)))
  }

  private func heldOut(_ graft: Graft) throws -> [GraftSite: Double] {
    try ActivationDistillation(
      graft: graft, dataset: TinyModel.latents(seed: 1), heldOut: TinyModel.latents(seed: 2)
    ).heldOutLosses()
  }

  private func bits(_ graft: Graft) -> [String: [UInt32]] {
    Dictionary(
      uniqueKeysWithValues: graft.model.parameters.map {
        ($0.name, $0.value.values.map(\.bitPattern))
      })
  }

  /// What is linear in the features of the teacher itself is found again.
  @Test(arguments: [
    (OperatorSpec("mha"), Slot.attention), (OperatorSpec("mlp"), .mlp),
    (OperatorSpec("swa", ["window_left": 15, "window_right": 15]), .attention),
  ])
  func theTeachersOwnLayerIsFound(spec: OperatorSpec, slot: Slot) throws {
    let id = SlotID(block: 1, slot: slot)
    let teacher = try TinyModel.make()
    let (graft, unexplained) = try fitted(
      plan([id: spec], .transferredRidge, lambda: 1e-10), teacher: teacher)
    #expect(try #require(unexplained[.slot(id)]) < 1e-6)
    let (found, wanted) = (
      try #require((graft.replacement(id) as? any LinearOutput)?.outputLayer),
      try #require(
        ((slot == .attention ? teacher.blocks[1].sequenceMixer : teacher.blocks[1].channelMixer)
          as? any LinearOutput)?.outputLayer)
    )
    let pairs = zip(
      (found.weight?.value.values ?? []) + (found.bias?.value.values ?? []),
      (wanted.weight?.value.values ?? []) + (wanted.bias?.value.values ?? []))
    #expect((pairs.map { abs($0 - $1) }.max() ?? .infinity) < 2e-2)
  }

  /// Both weightings against a regression over all rows at once.
  @Test(arguments: [false, true])
  func equalTheDefinition(isGateScaled: Bool) throws {
    let teacher = try TinyModel.make()
    var plan = plan([mlp: OperatorSpec("linear"), attention: OperatorSpec("linear")], lambda: 1e-3)
    plan.stage1.isGateScaled = isGateScaled
    let (graft, _) = try fitted(plan, teacher: teacher)
    var rows: [GraftSite: (h: [[Double]], y: [[Double]], w: [Double])] = [:]
    try activations(teacher)(Set(plan.sites)) { seen in
      let known = rows[seen.site] ?? ([], [], [])
      let weights = seen.side.doubleRows.flatMap { gate in
        let square = gate.reduce(0) { $0 + $1 * $1 } / Double(gate.count)
        return [Double](repeating: isGateScaled ? square : 1, count: 16)
      }
      rows[seen.site] = (
        known.h + seen.input.doubleRows, known.y + seen.target.doubleRows, known.w + weights
      )
    }
    for id in [mlp, attention] {
      let (h, y, w) = try #require(rows[.slot(id)])
      #expect(h.count == 30 * 16)
      let wanted = RidgeDefinition.solve(h, y, weights: w, lambda: 1e-3)
      let layer = try #require((graft.replacement(id) as? any LinearOutput)?.outputLayer)
      let found = try #require(layer.weight).value.values + (try #require(layer.bias).value.values)
      let error =
        zip(found, wanted.weight.flatMap(\.self) + wanted.bias)
        .map { abs(Double($0) - $1) }.max() ?? .infinity
      #expect(error < 1e-5, "\(id)")
    }
  }

  @Test func aConstantIsTheMean() throws {
    let teacher = try TinyModel.make()
    let (graft, _) = try fitted(
      plan([mlp: OperatorSpec("skip", ["constant": 1])]), teacher: teacher)
    var (sum, count) = ([Double](repeating: 0, count: 24), 0.0)
    try activations(teacher)([.slot(mlp)]) { seen in
      for row in seen.target.doubleRows {
        for (channel, value) in row.enumerated() { sum[channel] += value }
        count += 1
      }
    }
    let found = try #require(graft.replacement(mlp)?.parameters.first).value.values
    for (value, total) in zip(found, sum) { #expect(abs(Double(value) - total / count) < 1e-5) }
  }

  /// Better than the start on samples that the fit has not seen, for every operator with an output layer.
  @Test(arguments: Slot.allCases)
  func everyOperatorStartsBetter(slot: Slot) throws {
    let teacher = try TinyModel.make()
    let id = SlotID(block: 1, slot: slot)
    for descriptor in OperatorCatalog.fitting(slot) where descriptor.name != "skip" {
      var spec = descriptor.defaultSpec
      if spec.name == "mamba2" { spec.config["headdim"] = 4 }
      var plan = plan([id: spec], lambda: 1e-4)
      (plan.stage1.attentionLoss, plan.stage1.mlpLoss) = (.l2, .l2)
      let start = try heldOut(try Graft(fresh: plan, teacher: teacher))
      let fitted = try heldOut(try fitted(plan, teacher: teacher).graft)
      let losses = (try #require(fitted[.slot(id)]), try #require(start[.slot(id)]))
      #expect(losses.0 < 0.95 * losses.1, "\(spec.name): \(losses)")
    }
  }

  /// The strongest units of a narrower MLP, with an output layer that makes up for the others.
  @Test func aNarrowerMLPIsRefitted() throws {
    let teacher = try TinyModel.make()
    let spec = OperatorSpec("mlp", ["expansion_ratio": 1])
    let kept = try heldOut(
      try Graft(fresh: plan([mlp: spec], .transferred), teacher: teacher))
    let refitted = try heldOut(
      try fitted(plan([mlp: spec], .transferredRidge), teacher: teacher).graft)
    let losses = (try #require(refitted[.slot(mlp)]), try #require(kept[.slot(mlp)]))
    #expect(losses.0 < 0.8 * losses.1, "\(losses)")
  }

  @Test func theProjectionOfAPairIsFitted() throws {
    let teacher = try TinyModel.make()
    var plan = plan([mlp: OperatorSpec("mlp", ["expansion_ratio": 2])], .transferredRidge)
    plan.parallel = [pair: .projection]
    let mean = try #require(try heldOut(try Graft(fresh: plan, teacher: teacher))[.pair(pair)])
    plan.stage1.overrides[.pair(pair), default: SiteOverride()].initialization = .ridge
    let (graft, unexplained) = try fitted(plan, teacher: teacher)
    #expect(Set(unexplained.keys) == [.slot(mlp), .pair(pair)])
    let loss = try #require(try heldOut(graft)[.pair(pair)])
    #expect(loss < mean, "\(loss), \(mean)")
    // The definition, over all rows at once, with the fitted MLP inside.
    var (h, y): ([[Double]], [[Double]]) = ([], [])
    try activations(teacher)([.pair(pair)]) { seen in
      h +=
        graft.model.mergeFeatures(
          of: pair, Value(constant: seen.input), Value(constant: seen.side),
          on: Tape(recording: false)
        ).tensor.doubleRows
      y += seen.target.doubleRows
    }
    let wanted = RidgeDefinition.solve(
      h, y, weights: [Double](repeating: 1, count: h.count), lambda: 1e-6)
    let layer = try #require(graft.model.merges[pair]?.outputLayer)
    let error =
      zip(try #require(layer.weight).value.values, wanted.weight.flatMap(\.self))
      .map { abs(Double($0) - $1) }.max() ?? .infinity
    #expect(error < 1e-4)
  }

  @Test func activationsInMemoryGiveTheSameBytes() throws {
    let teacher = try TinyModel.make()
    let plan = plan([mlp: OperatorSpec("linear"), attention: OperatorSpec("hyena_x")])
    let streamed = bits(try fitted(plan, teacher: teacher).graft)
    let kept = try activations(teacher)
    try kept.keep(
      Set(
        Slot.allCases.flatMap { slot in
          (0..<2).map { GraftSite.slot(SlotID(block: $0, slot: slot)) }
        }))
    let graft = try Graft(fresh: plan, teacher: teacher)
    try RidgeFit(graft)([.slot(mlp)], on: kept)
    try RidgeFit(graft)([.slot(attention)], on: kept)
    #expect(bits(graft) == streamed)
  }

  @Test func theSameBytesWithAnyNumberOfThreads() throws {
    let teacher = try TinyModel.make()
    var plan = plan([mlp: OperatorSpec("mlp"), attention: OperatorSpec("swa")], .transferredRidge)
    plan.parallel = [pair: .projection]
    plan.stage1.overrides[.pair(pair), default: SiteOverride()].initialization = .ridge
    let former = Parallel.threads
    defer { ck_pool_set_threads(Int32(former)) }
    let found = try [1, 2, 3].map { threads in
      ck_pool_set_threads(Int32(threads))
      return bits(try fitted(plan, teacher: teacher).graft)
    }
    #expect(found[0] == found[1] && found[0] == found[2])
  }

  @Test func aFinishNeverRaisesTheHeldOutLoss() throws {
    let teacher = try TinyModel.make()
    var plan = TinyModel.plan([mlp: OperatorSpec("mlp"), attention: OperatorSpec("hyena_x")])
    plan.stage1.ridgeFinish = true
    plan.stage1.ridgeSamples = 40
    let run = try ActivationDistillation(
      graft: try Graft(fresh: plan, teacher: teacher), dataset: TinyModel.latents(seed: 1),
      heldOut: TinyModel.latents(seed: 2))
    for _ in 0..<10 { _ = run.trainStep() }
    let before = run.heldOutLosses()
    let (tried, improved) = try run.ridgeFinish()
    let after = run.heldOutLosses()
    #expect(tried == plan.sites && improved == tried)
    for site in tried { #expect(after[site] ?? 1 < before[site] ?? 0, "\(site)") }
    // A second fit on the same features changes nothing, so the layers stay.
    let kept = bits(run.graft)
    #expect(try run.ridgeFinish().improved == [])
    #expect(bits(run.graft) == kept)
    plan.stage1.overrides[.slot(mlp), default: SiteOverride()].ridgeFinish = false
    let other = try ActivationDistillation(
      graft: try Graft(fresh: plan, teacher: teacher), dataset: TinyModel.latents(seed: 1),
      heldOut: TinyModel.latents(seed: 2))
    #expect(try other.ridgeFinish().tried == [.slot(attention)])
  }

  @Test func aFitWithoutASolutionIsRefused() throws {
    let teacher = try TinyModel.make()
    let graft = try Graft(fresh: plan([mlp: OperatorSpec("mlp")]), teacher: teacher)
    graft.replacement(mlp)?.parameters[0].update { $0.fill(.nan) }
    #expect {
      try RidgeFit(graft)([.slot(self.mlp)], on: try self.activations(teacher))
    } throws: {
      "\($0)".contains("the fit of slot 0.mlp has no solution")
    }
  }

  @Test func aStopLeavesTheWeights() throws {
    let teacher = try TinyModel.make()
    let graft = try Graft(fresh: plan([mlp: OperatorSpec("mlp")]), teacher: teacher)
    let before = bits(graft)
    struct Stop: Error {}
    #expect(throws: Stop.self) {
      try RidgeFit(graft)([.slot(self.mlp)], on: try self.activations(teacher)) { done, total in
        #expect(total == 30)
        if done >= 8 { throw Stop() }
      }
    }
    #expect(bits(graft) == before)
  }
}
