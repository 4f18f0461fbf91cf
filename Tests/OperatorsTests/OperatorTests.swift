import Autograd
import Nn
import Operators
import Plans
import TensorCore
import Testing

@MainActor @Suite("Operators")
struct OperatorTests {
  init() { OperatorRegistry.fillCatalog() }

  private func context(
    hiddenSize: Int = 12, tokens: Int = 6, heads: Int = 3, prefix: String = ""
  ) -> OperatorContext {
    OperatorContext(
      hiddenSize: hiddenSize, tokens: tokens, numHeads: heads, prefix: prefix,
      weights: FreshWeights(seed: 3))
  }

  private func build(_ spec: OperatorSpec, _ context: OperatorContext) throws
    -> any GraftOperator
  {
    let slot = try #require(OperatorCatalog.descriptor(named: spec.name)?.slots.first)
    return try OperatorRegistry.make(spec, for: slot, context)
  }

  @Test func theRegistryFillsTheCatalogAndBuildsAllOfIt() throws {
    OperatorRegistry.fillCatalog()
    #expect(OperatorCatalog.all.map(\.name) == OperatorRegistry.entries.map(\.descriptor.name))
    for descriptor in OperatorCatalog.all {
      #expect(!descriptor.slots.isEmpty)
      for slot in descriptor.slots {
        let module = try OperatorRegistry.make(descriptor.defaultSpec, for: slot, context())
        let x = Tensor.full([2, 6, 12], 0.5)
        let y = module(Value(constant: x), on: Tape(recording: false))
        #expect(y.shape == x.shape, "\(descriptor.name)")
      }
    }
  }

  @Test func theCatalogIsFilledOnceBeforeItIsUsed() async {
    await #expect(processExitsWith: .failure) { _ = OperatorCatalog.all }
    await #expect(processExitsWith: .success) {
      OperatorRegistry.fillCatalog()
      OperatorRegistry.fillCatalog()
      _ = OperatorCatalog.all
    }
    await #expect(processExitsWith: .failure) {
      OperatorRegistry.fillCatalog()
      OperatorCatalog.fill([MLP.entry.descriptor])
    }
  }

  /// Names and shapes in the upstream checkpoints, for D = 12 (timm, flash-attn, keshik6/grafting).
  nonisolated static let layouts: [(OperatorSpec, [String: [Int]])] = [
    (
      OperatorSpec("mha"),
      [
        "qkv.weight": [36, 12], "qkv.bias": [36], "proj.weight": [12, 12], "proj.bias": [12],
      ]
    ),
    (
      OperatorSpec("swa", ["window_left": 1, "window_right": 2]),
      [
        "Wqkv.weight": [36, 12], "Wqkv.bias": [36], "out_proj.weight": [12, 12],
        "out_proj.bias": [12],
      ]
    ),
    (
      OperatorSpec("hyena_x", ["short_filter_order": 5]),
      [
        "in_proj.weight": [36, 12], "in_proj.bias": [36], "short_filter.weight": [36, 1, 5],
        "short_filter.bias": [36], "out_proj.weight": [12, 12], "out_proj.bias": [12],
      ]
    ),
    (
      OperatorSpec("mlp", ["expansion_ratio": 3]),
      ["fc1.weight": [36, 12], "fc1.bias": [36], "fc2.weight": [12, 36], "fc2.bias": [12]]
    ),
    (
      OperatorSpec("mlp", ["expansion_ratio": 0.4]),
      ["fc1.weight": [4, 12], "fc1.bias": [4], "fc2.weight": [12, 4], "fc2.bias": [12]]
    ),
    (OperatorSpec("skip"), [:]),
  ]

  @Test(arguments: layouts.indices)
  func parametersHaveTheirUpstreamNames(index: Int) throws {
    let (spec, layout) = Self.layouts[index]
    let module = try build(spec, context())
    let found = module.parameters.map { ($0.name, $0.value.shape) }
    #expect(found.count == layout.count)
    #expect(Dictionary(found, uniquingKeysWith: { first, _ in first }) == layout)
    let inModel = try build(spec, context(prefix: "blocks.7.attn."))
    #expect(Set(inModel.parameters.map(\.name)) == Set(layout.keys.map { "blocks.7.attn.\($0)" }))
  }

  @Test func everyOperatorHasALayoutHere() {
    #expect(Set(Self.layouts.map(\.0.name)) == Set(OperatorCatalog.all.map(\.name)))
  }

  @Test(arguments: layouts.indices)
  func theStatedCostCountsTheParameters(index: Int) throws {
    let spec = Self.layouts[index].0
    let shape = ModelShape(
      depth: 1, hiddenSize: 12, numHeads: 3, patchSize: 1, inputSize: 4, inChannels: 4,
      numClasses: 1)
    let module = try build(spec, context(tokens: shape.tokens))
    let descriptor = try #require(OperatorCatalog.descriptor(named: spec.name))
    let count = module.parameters.reduce(0) { $0 + $1.value.count }
    #expect(descriptor.cost(spec, shape: shape).parameters == count)
  }

  @Test func freshWeightsFollowTheDefaultsOfTheFramework() throws {
    let module = try build(OperatorSpec("hyena_x"), context(hiddenSize: 64))
    for parameter in module.parameters {
      // U(-b, b) with b = 1/sqrt(fan_in): 64 inputs of the projections, 4 taps of the filter.
      let bound: Float = parameter.name.hasPrefix("short_filter") ? 0.5 : 0.125
      let values = parameter.value.values
      let largest = values.map(abs).max() ?? 0
      #expect(largest <= bound && largest > 0.9 * bound, "\(parameter.name)")
      let deviation = (values.reduce(0) { $0 + $1 * $1 } / Float(values.count)).squareRoot()
      #expect(abs(deviation / bound - 1 / Float(3).squareRoot()) < 0.1, "\(parameter.name)")
    }
  }

  @Test func operatorsOfTheOtherSlotAreRefused() {
    #expect(throws: PlanError.self) {
      try OperatorRegistry.sequenceMixer(OperatorSpec("mlp"), self.context())
    }
    #expect(throws: PlanError.self) {
      try OperatorRegistry.channelMixer(OperatorSpec("swa"), self.context())
    }
    #expect(throws: PlanError.self) {
      try OperatorRegistry.sequenceMixer(OperatorSpec("nothing"), self.context())
    }
  }

  /// How far a change of the token 5 of 12 reaches.
  private func reach(_ spec: OperatorSpec) throws -> [Int] {
    let module = try build(spec, context(tokens: 12))
    var random = RandomStream(seed: 8)
    let x = random.normal([1, 12, 12])
    let before = module(Value(constant: x), on: Tape(recording: false)).tensor
    for i in 0..<12 { x[5 * 12 + i] += 1 }
    let after = module(Value(constant: x), on: Tape(recording: false)).tensor
    return (0..<12).filter { token in
      (0..<12).contains { abs(before[token * 12 + $0] - after[token * 12 + $0]) > 1e-6 }
    }
  }

  @Test func tokensReachTheirNeighbours() throws {
    #expect(try reach(OperatorSpec("mha")) == Array(0..<12))
    // Query i sees i - 1 ... i + 2: token 5 is seen by 3 ... 6.
    let window = OperatorSpec("swa", ["window_left": 1, "window_right": 2])
    #expect(try reach(window) == [3, 4, 5, 6])
    // Causal with 4 taps.
    #expect(try reach(OperatorSpec("hyena_x")) == [5, 6, 7, 8])
    #expect(try reach(OperatorSpec("hyena_x", ["short_filter_order": 1])) == [5])
    #expect(try reach(OperatorSpec("mlp")) == [5])
  }
}
