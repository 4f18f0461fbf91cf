import Operators
import Plans
import Testing

/// DiT-XL/2 at 256 px, the paper's model.
let ditXL2 = {
  OperatorRegistry.fillCatalog()
  return ModelShape(
    depth: 28, hiddenSize: 1152, numHeads: 16, patchSize: 2, inputSize: 32, inChannels: 4,
    numClasses: 1000)
}()

/// Costs against the paper's Table 4 and the official parameter counts.
@Suite struct CostTests {
  init() { OperatorRegistry.fillCatalog() }

  private func plan(_ spec: OperatorSpec, blocks: some Sequence<Int>) throws -> GraftPlan {
    let slot = try #require(OperatorCatalog.descriptor(named: spec.name)?.slots.first)
    var plan = GraftPlan(
      named: "x", model: ModelReference(path: "x", shape: ditXL2, contentHash: "0"))
    for block in blocks { plan.edits[SlotID(block: block, slot: slot)] = spec }
    return plan
  }

  @Test(arguments: [
    (OperatorSpec("mha"), 5_313_024),
    (OperatorSpec("swa"), 5_313_024),
    (OperatorSpec("linear_attention"), 5_313_024), (OperatorSpec("swa2d"), 5_313_024),
    (OperatorSpec("hybrid"), 5_313_040),
    (OperatorSpec("hyena_se"), 5_336_064),
    (OperatorSpec("hyena_x"), 5_330_304),
    (OperatorSpec("hyena_y"), 5_318_784),
    (OperatorSpec("mamba2"), 8_290_864),
    (OperatorSpec("mlp_hyena_x"), 10_626_176),
    (OperatorSpec("skip"), 0), (OperatorSpec("skip", ["constant": 1]), 1152),
    (OperatorSpec("linear"), 1_328_256),
    (OperatorSpec("mlp", ["expansion_ratio": 3]), 7_967_232),
    (OperatorSpec("mlp"), 10_622_592),
    (OperatorSpec("mlp", ["expansion_ratio": 6]), 15_933_312),
  ])
  func operatorParameters(spec: OperatorSpec, count: Int) {
    #expect(ditXL2.operatorCost(spec).parameters == count)
  }

  @Test(arguments: [
    (OperatorSpec("hyena_x"), 675_371_552, 675_492_512, 675_613_472),
    (OperatorSpec("swa"), 675_129_632, 675_129_632, 675_129_632),
    (OperatorSpec("hyena_se"), 675_452_192, 675_613_472, 675_774_752),
    (OperatorSpec("hyena_y"), 675_210_272, 675_250_592, 675_290_912),
    (OperatorSpec("mamba2"), 716_819_392, 737_664_272, 758_509_152),
    (OperatorSpec("mlp_hyena_x"), 675_179_808, 675_204_896, 675_229_984),
    (OperatorSpec("mlp", ["expansion_ratio": 3]), 637_954_592, 619_367_072, 600_779_552),
    (OperatorSpec("mlp", ["expansion_ratio": 6]), 749_479_712, 786_654_752, 823_829_792),
  ])
  func modelParameters(spec: OperatorSpec, half: Int, most: Int, all: Int) throws {
    let odd = try plan(spec, blocks: stride(from: 1, to: 28, by: 2))
    #expect(odd.cost().original.parameters == 675_129_632)
    #expect(odd.cost().edited.parameters == half)
    let threeOfFour = try plan(spec, blocks: (0..<28).filter { $0 % 4 != 0 })
    #expect(threeOfFour.cost().edited.parameters == most)
    #expect(try plan(spec, blocks: 0..<28).cost().edited.parameters == all)
  }

  /// Core plus featurizer, from the accounting rules that reproduce Table 4.
  @Test func operatorFlops() {
    let projections = 8.0 * 256 * 1152 * 1152 + 8 * 256 * 1152
    let core = 304_087_040.0
    #expect(ditXL2.operatorCost(OperatorSpec("mha")).flops == core + projections)
    #expect(ditXL2.operatorCost(OperatorSpec("swa")).flops == core * 9 / 256 + projections)
    #expect(
      ditXL2.operatorCost(OperatorSpec("hyena_x")).flops == projections + 26.0 * 256 * 1152)
    #expect(ditXL2.operatorCost(OperatorSpec("mlp")).flops == 16.0 * 256 * 1152 * 1152)
    let perChannel = 256.0 * 1152
    func flops(_ name: String) -> Double { ditXL2.operatorCost(OperatorSpec(name)).flops }
    #expect(flops("hyena_se") == projections + 34 * perChannel)
    #expect(flops("hyena_y") == projections + 10 * perChannel)
    let scan = 2.0 * 256 * 2304 * 64
    #expect(flops("mamba2") == scan + 14_368 * perChannel)
    // Table 4 prints +0.02 % for MLP-Hyena-X: its gates.
    let gates = 2.0 * 2304 * 256
    #expect(flops("mlp_hyena_x") == flops("mlp") + gates)
    let linear = 4 * perChannel * 72 + 4 * perChannel
    #expect(flops("linear_attention") == projections + linear)
    #expect(flops("skip") == 0)
    // Heads of its own change the softmax alone.
    let half = ditXL2.operatorCost(OperatorSpec("mha", ["num_heads": 8])).flops
    let softmax = 2.0 * 256 * 256 * 8
    #expect(half == projections + core - softmax)
    // A window wider than the sequence costs what full attention costs.
    let wide = OperatorSpec("swa", ["window_left": 400, "window_right": 400])
    #expect(ditXL2.operatorCost(wide) == ditXL2.operatorCost(OperatorSpec("mha")))
  }

  /// The paper's Table 4: changes of core and projection FLOPs and of parameters in per cent, with half
  /// of the operators of a kind replaced, rounded as printed.
  ///
  /// Of Mamba-2's projections the table prints the ratio to the original ones, 155.77 / 2, not the
  /// increase.
  @Test(
    arguments: [
      (OperatorSpec("hyena_se"), -49.52, 0.13, 0.22), (OperatorSpec("hyena_x"), -49.90, 0.13, 0.16),
      (OperatorSpec("hyena_y"), -49.52, 0, 0.05), (OperatorSpec("swa"), -48.24, 0, 0),
      (OperatorSpec("mamba2"), -37.59, 77.885 - 50, 28.02),
      (OperatorSpec("mlp", ["expansion_ratio": 3]), -12.5, 0, -12.5),
      (OperatorSpec("mlp", ["expansion_ratio": 6]), 25, 0, 25),
      (OperatorSpec("mlp_hyena_x"), 0.01, 0, 0.02),
    ] as [(OperatorSpec, Double, Double, Double)])
  func table4(spec: OperatorSpec, core: Double, projections: Double, parameters: Double) throws {
    let half = try plan(spec, blocks: stride(from: 1, to: 28, by: 2))
    let slot = try #require(half.edits.keys.first?.slot)
    let (original, edited) = half.cost(of: slot)
    func change(_ part: (OperatorCost) -> Double) -> Double {
      part(original) == 0 ? 0 : (part(edited) / part(original) - 1) * 100
    }
    #expect(abs(change(\.coreFlops) - core) < 0.0051)
    #expect(abs(change(\.projectionFlops) - projections) < 0.0051)
    #expect(abs(change { Double($0.parameters) } - parameters) < 0.0051)
    let other: Slot = slot == .attention ? .mlp : .attention
    #expect(half.cost(of: other).original == half.cost(of: other).edited)
  }

  /// The DiT paper gives 118.6 G multiply-adds for DiT-XL/2 at 256 px.
  @Test func modelFlops() throws {
    let cost = try plan(OperatorSpec("mha"), blocks: []).cost()
    #expect(cost.original == cost.edited)
    #expect(abs(cost.original.flops / 2e9 - 118.64) < 1)
  }

  @Test func labels() throws {
    func label(_ spec: OperatorSpec) throws -> String {
      try #require(OperatorCatalog.descriptor(named: spec.name)).label(spec)
    }
    #expect(try label(OperatorSpec("mha")) == "mha")
    #expect(try label(OperatorSpec("swa")) == "swa w4")
    #expect(try label(OperatorSpec("swa", ["window_right": 8])) == "swa w4:8")
    #expect(try label(OperatorSpec("hyena_x")) == "hyena-x")
    #expect(try label(OperatorSpec("hyena_x", ["short_filter_order": 3])) == "hyena-x k3")
    #expect(try label(OperatorSpec("mlp", ["expansion_ratio": 2.5])) == "r2.5")
    #expect(try label(OperatorSpec("mha", ["num_heads": 8])) == "mha h8")
    #expect(try label(OperatorSpec("mamba2", ["d_state": 16])) == "mamba2 s16")
    #expect(try label(OperatorSpec("hyena_y", ["inner_filter_len": 7])) == "hyena-y k7")
    #expect(try label(OperatorSpec("mlp_hyena_x", ["expansion_ratio": 3])) == "hy-x r3")
  }

  @Test func catalogIsConsistent() {
    #expect(Set(OperatorCatalog.all.map(\.name)).count == OperatorCatalog.all.count)
    #expect(
      OperatorCatalog.fitting(.mlp).map(\.name) == [
        "mlp", "swiglu", "mlp_hyena_x", "linear", "skip",
      ])
    #expect(
      OperatorCatalog.fitting(.attention).map(\.name) == [
        "mha", "swa", "linear_attention", "hyena_se", "hyena_x", "hyena_y",
        "mamba2", "swa2d", "hybrid", "linear",
        "skip",
      ])
    for descriptor in OperatorCatalog.all {
      #expect(descriptor.refusal(of: descriptor.defaultSpec, shape: ditXL2) == nil)
    }
  }
}
