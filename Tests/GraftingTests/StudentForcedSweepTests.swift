import Autograd
import Datasets
import Grafting
import Models
import Operators
import Plans
import Sampling
import TensorCore
import TestSupport
import Testing

/// Fits from front to back on the graft's own activations.
@MainActor @Suite("Student-forced sweep", .serialized)
struct StudentForcedSweepTests {
  private let mlp = SlotID(block: 0, slot: .mlp)
  private let attention = SlotID(block: 1, slot: .attention)

  private func plan(_ edits: [SlotID: OperatorSpec]) -> GraftPlan {
    var plan = TinyModel.plan(edits)
    plan.stage1.ridgeSamples = 60
    plan.stage1.ridgeLambda = 1e-4
    plan.stage1.sweeps = true
    return plan
  }

  private func distillation(_ plan: GraftPlan) throws -> ActivationDistillation {
    try ActivationDistillation(
      graft: try Graft(fresh: plan.fitted(), teacher: try TinyModel.make()),
      dataset: TinyModel.latents(seed: 1), heldOut: TinyModel.latents(seed: 2))
  }

  private func batch(_ count: Int, _ plan: GraftPlan, _ name: String) -> DiffusionBatch {
    TinyModel.latents(seed: 1).batch(
      0..<count, seed: plan.seed, name: name, nullClass: 3, labelDropout: 0.1)
  }

  /// Each layer against a regression over all rows at once, the second one behind the first one's new weights.
  @Test func equalsTheDefinition() throws {
    let plan = plan([mlp: OperatorSpec("linear"), attention: OperatorSpec("linear")])
    let teacher = try TinyModel.make()
    let (graft, other) = (
      try Graft(fresh: plan, teacher: teacher), try Graft(fresh: plan, teacher: teacher)
    )
    let batch = batch(20, plan, "sweep")
    try StudentForcedSweep(graft, on: batch)([.slot(mlp), .slot(attention)])
    let diffusion = try GaussianDiffusion(spacing: "")
    let noisy = diffusion.noisy(batch.latents, noise: batch.noise, steps: batch.steps)
    let conditioning = Conditioning(timesteps: batch.steps.map(Float.init), labels: batch.labels)
    func blocks(of model: any DiffusionTransformer) -> [AdaLNBlock.Activations] {
      var seen: [AdaLNBlock.Activations] = []
      _ = model(
        Value(constant: noisy), conditioning, on: Tape(recording: false),
        observeBlock: { seen.append($1) })
      return seen
    }
    let wanted = blocks(of: teacher)
    for id in [mlp, attention] {
      let found = blocks(of: other.model)[id.block]
      let (chunk, dim) = (id.slot == .attention ? 2 : 5, 24)
      let (features, own) = found.activations(of: id.slot)
      var (h, y, w): ([[Double]], [[Double]], [Double]) = ([], [], [])
      for (row, feature) in features.doubleRows.enumerated() {
        let sample = row / 16
        func gate(_ seen: AdaLNBlock.Activations, _ channel: Int) -> Double {
          Double(seen.modulation[(sample * 6 + chunk) * dim + channel])
        }
        /// The stream behind the slot.
        func stream(_ seen: AdaLNBlock.Activations, _ channel: Int) -> Double {
          let place = row * dim + channel
          if id.slot == .mlp { return Double(seen.output[place]) }
          return Double(seen.input[place])
            + gate(seen, channel) * Double(seen.attentionOutput[place])
        }
        let square = (0..<dim).reduce(0) { $0 + gate(found, $1) * gate(found, $1) } / Double(dim)
        h.append(feature)
        w.append(square)
        y.append(
          (0..<dim).map { channel in
            let g = gate(found, channel)
            let error = stream(wanted[id.block], channel) - stream(found, channel)
            return Double(own[row * dim + channel]) + error * g / (g * g + 0.1 * square)
          })
      }
      let solution = RidgeDefinition.solve(h, y, weights: w, lambda: 1e-4)
      func layer(_ graft: Graft) throws -> OutputLayer {
        try #require((graft.replacement(id) as? any LinearOutput)?.outputLayer)
      }
      let (fitted, mine) = (try layer(graft), try layer(other))
      let expected = solution.weight.flatMap(\.self) + solution.bias
      let given = try #require(fitted.weight).value.values + #require(fitted.bias).value.values
      let error = zip(given, expected).map { abs(Double($0) - $1) }.max() ?? .infinity
      #expect(error < 2e-4, "\(id)")
      mine.weight?.assign(try #require(fitted.weight).value)
      mine.bias?.assign(try #require(fitted.bias).value)
    }
  }

  /// Four matrices in the place of all operators of random weights: fits on the teacher's activations are
  /// better, and stay.
  @Test func whatDoesNotHelpIsUndone() throws {
    let edits = Dictionary(
      uniqueKeysWithValues: (0..<2).flatMap { block in
        Slot.allCases.map { (SlotID(block: block, slot: $0), OperatorSpec("linear")) }
      })
    let run = try distillation(plan(edits))
    try RidgeFit(run.graft)(
      run.graft.plan.sites,
      on: TeacherActivations(
        teacher: run.graft.teacher, dataset: TinyModel.latents(seed: 1), samples: 60, seed: 11,
        labelDropout: 0.1))
    let kept = run.graft.model.parameters.map(\.value.values)
    let result = try #require(try run.sweep())
    #expect(result.sites == 4 && result.after > result.before, "\(result)")
    #expect(run.graft.model.parameters.map(\.value.values) == kept)
  }

  /// A pair's projection is fitted to the second block's output.
  @Test func aPairComesCloser() throws {
    var plan = plan([:])
    plan.parallel = [BlockPair(first: 0): .projection]
    let run = try distillation(plan)
    let start = run.graft.model.parameters.map(\.value.values)
    let result = try #require(try run.sweep())
    #expect(result.sites == 1 && result.after < result.before)
    #expect(run.graft.model.parameters.map(\.value.values) != start)
    plan.stage1.overrides[.pair(BlockPair(first: 0)), default: SiteOverride()].sweeps = false
    #expect(try distillation(plan).sweep() == nil)
  }
}
