import Autograd
import Foundation
import Nn
import Operators
import Plans
import TensorCore
import TestSupport
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
        let module = try OperatorRegistry.make(
          descriptor.defaultSpec, for: slot, context(hiddenSize: 24))
        let x = Tensor.full([2, 6, 24], 0.5)
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
    (OperatorSpec("skip"), [:]), (OperatorSpec("skip", ["constant": 1]), ["bias": [12]]),
    (OperatorSpec("linear"), ["linear.weight": [12, 12], "linear.bias": [12]]),
    (
      OperatorSpec("linear_attention", ["num_heads": 2]),
      [
        "qkv.weight": [36, 12], "qkv.bias": [36], "proj.weight": [12, 12], "proj.bias": [12],
      ]
    ),
    (
      OperatorSpec(
        "linear_attention",
        ["num_heads": 2, "feature_map": 2, "key_norm": 1, "qk_conv": 3, "v_conv": 5]),
      [
        "qkv.weight": [36, 12], "qkv.bias": [36], "proj.weight": [12, 12], "proj.bias": [12],
        "q_map.weight": [2, 6, 6], "k_map.weight": [2, 6, 6], "k_norm.weight": [12],
        "k_norm.bias": [12], "qk_conv.weight": [24, 1, 3, 3], "qk_conv.bias": [24],
        "v_conv.weight": [12, 1, 5, 5], "v_conv.bias": [12],
      ]
    ),
    (
      OperatorSpec("swa2d", ["window": 3]),
      [
        "qkv.weight": [36, 12], "qkv.bias": [36], "proj.weight": [12, 12], "proj.bias": [12],
      ]
    ),
    (
      OperatorSpec("hybrid", ["num_heads": 4]),
      [
        "qkv.weight": [36, 12], "qkv.bias": [36], "mix": [4], "proj.weight": [12, 12],
        "proj.bias": [12],
      ]
    ),
    (
      OperatorSpec(
        "mamba2", ["d_state": 4, "headdim": 4, "expand": 1, "ngroups": 3, "bias": 1, "scan": 1]),
      [
        "in_proj.weight": [51, 12], "in_proj.bias": [51], "conv1d.weight": [36, 1, 4],
        "conv1d.bias": [36], "dt_bias": [3], "A_log": [3], "D": [3], "norm.weight": [12],
        "out_proj.weight": [12, 12], "out_proj.bias": [12],
      ]
    ),
    (
      OperatorSpec("hyena_se", ["short_filter_order": 3]),
      [
        "in_proj.weight": [36, 12], "in_proj.bias": [36], "short_filter.weight": [36, 1, 3],
        "short_filter.bias": [36], "inner_filter.weight": [12, 1, 3], "inner_filter.bias": [12],
        "out_proj.weight": [12, 12], "out_proj.bias": [12],
      ]
    ),
    (
      OperatorSpec("hyena_y", ["inner_filter_len": 5]),
      [
        "in_proj.weight": [36, 12], "in_proj.bias": [36], "inner_filter.weight": [12, 1, 5],
        "inner_filter.bias": [12], "out_proj.weight": [12, 12], "out_proj.bias": [12],
      ]
    ),
    (
      OperatorSpec("swiglu", ["expansion_ratio": 2]),
      ["w12.weight": [48, 12], "w12.bias": [48], "w3.weight": [12, 24], "w3.bias": [12]]
    ),
    (
      OperatorSpec("mlp_hyena_x", ["expansion_ratio": 2, "short_filter_order": 3]),
      [
        "in_proj.weight": [72, 12], "in_proj.bias": [72], "short_filter.weight": [16, 1, 3],
        "short_filter.bias": [16], "out_proj.weight": [12, 24], "out_proj.bias": [12],
      ]
    ),
    // d_inner 24, 6 heads of 4 in 3 groups with 5 states: z 24, x 24, B and C 15 each, dt 6.
    (
      OperatorSpec("mamba2", ["d_state": 5, "d_conv": 3, "headdim": 4, "ngroups": 3]),
      [
        "in_proj.weight": [84, 12], "conv1d.weight": [54, 1, 3], "conv1d.bias": [54],
        "dt_bias": [6], "A_log": [6], "D": [6], "norm.weight": [24], "out_proj.weight": [12, 24],
      ]
    ),
  ]

  @Test(arguments: layouts.indices)
  func parametersHaveTheirUpstreamNames(index: Int) throws {
    let (spec, layout) = Self.layouts[index]
    let module = try build(spec, context(tokens: 16))
    let found = module.parameters.map { ($0.name, $0.value.shape) }
    #expect(found.count == layout.count)
    #expect(Dictionary(found, uniquingKeysWith: { first, _ in first }) == layout)
    let inModel = try build(spec, context(tokens: 16, prefix: "blocks.7.attn."))
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

  @Test func innerFiltersStartAsTheIdentity() throws {
    for name in ["hyena_se", "hyena_y"] {
      let module = try build(OperatorSpec(name), context())
      let named = Dictionary(uniqueKeysWithValues: module.parameters.map { ($0.name, $0.value) })
      let weight = try #require(named["inner_filter.weight"]).values
      #expect(weight == (0..<12).flatMap { _ in [0, 0, 0, 1] as [Float] }, "\(name)")
      #expect(try #require(named["inner_filter.bias"]).values.allSatisfy { $0 == 0 })
    }
  }

  @Test func mambaStartsAsUpstream() throws {
    let module = try build(OperatorSpec("mamba2", ["headdim": 1]), context(hiddenSize: 256))
    let named = Dictionary(uniqueKeysWithValues: module.parameters.map { ($0.name, $0.value) })
    // dt_bias is the inverse softplus of step sizes that are log-uniform from 0.001 to 0.1.
    let steps = try #require(named["dt_bias"]).values.map { log1p(exp(Double($0))) }
    let logs = steps.map { log($0) }.sorted()
    #expect(logs[0] > log(0.00099) && logs[511] < log(0.1001))
    #expect(abs(logs[256] - log(0.01)) < 0.25)
    // A is uniform from 1 to 16.
    let decays = try #require(named["A_log"]).values.map { exp(Double($0)) }.sorted()
    #expect(decays[0] >= 1 && decays[511] <= 16 && abs(decays[256] - 8.5) < 1)
    #expect(try #require(named["D"]).values.allSatisfy { $0 == 1 })
    #expect(try #require(named["norm.weight"]).values.allSatisfy { $0 == 1 })
    let bound = 1 / Float(256).squareRoot()
    let projection = try #require(named["in_proj.weight"]).values.map(abs).max() ?? 0
    #expect(projection <= bound && projection > 0.99 * bound)
    let filter = try #require(named["conv1d.weight"]).values.map(abs).max() ?? 0
    #expect(filter <= 0.5 && filter > 0.45)
  }

  /// Configurations that nothing can be built from, and what is said.
  @Test(arguments: [
    (OperatorSpec("hyena_se", ["order": 3]), "expected 2"),
    (OperatorSpec("hyena_y", ["order": 1]), "expected 2"),
    (OperatorSpec("hyena_se", ["inner_filter_len": 8]), "differs from short_filter_order 4"),
    (OperatorSpec("hyena_y", ["short_filter_order": 4]), "no such setting"),
    (OperatorSpec("mlp_hyena_x", ["l_max": 17]), "differs from the 16 tokens"),
    (OperatorSpec("mlp_hyena_x", ["expansion_ratio": 1.5]), "whole number"),
    (OperatorSpec("mamba2", ["headdim": 5]), "headdim 5 does not divide the inner width 24"),
    (
      OperatorSpec("mamba2", ["headdim": 4, "ngroups": 4]), "ngroups 4 does not divide the 6 heads"
    ),
    (OperatorSpec("mha", ["num_heads": 5]), "num_heads 5 does not divide the hidden size 12"),
    (OperatorSpec("swa", ["num_heads": 7]), "num_heads 7 does not divide the hidden size 12"),
    (OperatorSpec("linear_attention", ["num_heads": 8]), "num_heads 8 does not divide"),
    (OperatorSpec("linear_attention", ["qk_conv": 4]), "qk_conv 4 has no middle"),
    (OperatorSpec("linear_attention", ["feature_map": 3]), "expected 0 to 2"),
    (OperatorSpec("swa2d", ["window": 4]), "window 4 has no middle"),
    (OperatorSpec("hybrid", ["window": 2]), "window 2 has no middle"),
    (OperatorSpec("hybrid", ["num_heads": 5]), "num_heads 5 does not divide"),
    (OperatorSpec("mamba2", ["scan": 2]), "expected 0 to 1"),
    (OperatorSpec("skip", ["rate": 1]), "no such setting, expected constant"),
  ])
  func impossibleConfigurationsAreRefused(spec: OperatorSpec, words: String) throws {
    let shape = ModelShape(
      depth: 1, hiddenSize: 12, numHeads: 3, patchSize: 1, inputSize: 4, inChannels: 4,
      numClasses: 1)
    let descriptor = try #require(OperatorCatalog.descriptor(named: spec.name))
    let refusal = try #require(descriptor.refusal(of: spec, shape: shape))
    #expect(refusal.message.contains(words), "\(refusal.message)")
  }

  @Test func statedFactsAreAccepted() throws {
    let shape = ModelShape(
      depth: 1, hiddenSize: 12, numHeads: 3, patchSize: 1, inputSize: 4, inChannels: 4,
      numClasses: 1)
    for spec in [
      OperatorSpec(
        "hyena_se", ["order": 2, "short_filter_order": 3, "inner_filter_len": 3]),
      OperatorSpec("mlp_hyena_x", ["order": 2, "l_max": 16]),
      OperatorSpec("mha", ["num_heads": 0]), OperatorSpec("mha", ["num_heads": 6]),
    ] {
      let descriptor = try #require(OperatorCatalog.descriptor(named: spec.name))
      #expect(descriptor.refusal(of: spec, shape: shape) == nil, "\(spec)")
      _ = try build(spec, context(tokens: 16))
    }
    #expect(throws: PlanError.self) {
      try build(OperatorSpec("mlp_hyena_x", ["l_max": 16]), context(tokens: 6))
    }
    let few = try build(OperatorSpec("mha", ["num_heads": 2]), context())
    #expect((few as? MultiHeadAttention)?.heads == 2)
    let own = try build(OperatorSpec("mha"), context())
    #expect((own as? MultiHeadAttention)?.heads == 3)
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
    var random = RandomSequence(seed: 8)
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
    // 12 tokens are a grid of 3 x 4: a window of 3 x 3, shifted into it, sees the second column everywhere.
    #expect(try reach(OperatorSpec("swa2d", ["window": 3])) == Array(0..<12))
    #expect(try reach(OperatorSpec("swa2d", ["window": 1])) == [5])
    #expect(try reach(OperatorSpec("hybrid", ["window": 3])) == Array(0..<12))
    #expect(try reach(OperatorSpec("mlp_hyena_x")) == [5])
    #expect(try reach(OperatorSpec("skip")) == [])
    #expect(try reach(OperatorSpec("skip", ["constant": 1])) == [])
    #expect(try reach(OperatorSpec("linear")) == [5])
    // Fresh inner filters are the identity.
    #expect(try reach(OperatorSpec("hyena_y")) == [5])
    #expect(try reach(OperatorSpec("hyena_se")) == [5, 6, 7, 8])
    #expect(try reach(OperatorSpec("linear_attention")) == Array(0..<12))
    let chunked = OperatorSpec("mamba2", ["headdim": 4, "chunk_size": 3])
    #expect(try reach(chunked) == Array(5..<12))
    let both = OperatorSpec("mamba2", ["headdim": 4, "chunk_size": 3, "scan": 1])
    #expect(try reach(both) == Array(0..<12))
  }
}
