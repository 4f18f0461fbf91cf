import Autograd
import Foundation
import Nn
import Operators
import Plans
import TensorCore
import TestSupport
import Testing

/// Every operator as a whole against central differences of its own output.
@MainActor @Suite("Gradients of operators")
struct OperatorGradientTests {
  init() { OperatorRegistry.fillCatalog() }

  /// Parameters that leave no part idle: filters that mix, biases that are not zero.
  private struct Noise: WeightSource {
    func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) -> Tensor {
      let random = RandomStream(seed: 5, name)
      if case .drawn = initializer { return initializer.tensor(shape, random) }
      let drawn = Initializer.normal(0.4).tensor(shape, random)
      if case .ones = initializer { for i in 0..<drawn.count { drawn[i] += 1 } }
      return drawn
    }
  }

  nonisolated static let specs = [
    OperatorSpec("mha"), OperatorSpec("mha", ["num_heads": 6]), OperatorSpec("swa"),
    OperatorSpec("swa", ["window_left": 1, "window_right": 0, "num_heads": 2]),
    OperatorSpec("linear_attention"), OperatorSpec("linear_attention", ["num_heads": 1]),
    OperatorSpec(
      "linear_attention",
      ["feature_map": 2, "key_norm": 1, "qk_conv": 3, "v_conv": 5, "num_heads": 2]),
    OperatorSpec("linear_attention", ["key_norm": 1, "v_conv": 3]),
    OperatorSpec("swa2d"), OperatorSpec("swa2d", ["window": 3, "num_heads": 2]),
    OperatorSpec("hybrid", ["window": 3]), OperatorSpec("hybrid", ["window": 3, "axes": 1]),
    OperatorSpec("mamba2", ["headdim": 4, "d_state": 3, "scan": 1, "bias": 1]),
    OperatorSpec("hyena_se"), OperatorSpec("hyena_se", ["short_filter_order": 2]),
    OperatorSpec("hyena_x"), OperatorSpec("hyena_y"),
    OperatorSpec("hyena_y", ["inner_filter_len": 7]),
    OperatorSpec("mamba2", ["headdim": 4, "d_state": 3]),
    OperatorSpec(
      "mamba2",
      ["headdim": 3, "d_state": 5, "ngroups": 4, "expand": 1, "chunk_size": 3, "d_conv": 2]),
    OperatorSpec("mlp"), OperatorSpec("mlp", ["expansion_ratio": 0.4]),
    OperatorSpec("swiglu"), OperatorSpec("swiglu", ["expansion_ratio": 0.4, "bias": 0]),
    OperatorSpec("mlp_hyena_x"),
    OperatorSpec("mlp_hyena_x", ["expansion_ratio": 1, "short_filter_order": 6]),
    OperatorSpec("linear"), OperatorSpec("skip"), OperatorSpec("skip", ["constant": 1]),
  ]

  @Test func everyOperatorIsHere() {
    #expect(Set(Self.specs.map(\.name)) == Set(OperatorCatalog.all.map(\.name)))
  }

  @Test(arguments: specs.indices, [(1, 1), (3, 7)])
  func agreeWithDifferences(index: Int, size: (batch: Int, tokens: Int)) throws {
    let spec = Self.specs[index]
    let descriptor = try #require(OperatorCatalog.descriptor(named: spec.name))
    let context = OperatorContext(
      hiddenSize: 12, tokens: size.tokens, numHeads: 3, prefix: "", weights: Noise())
    for slot in descriptor.slots {
      let module = try OperatorRegistry.make(spec, for: slot, context)
      try check(module, "\(spec) \(size)", size.batch, size.tokens)
    }
  }

  /// Operators like attention in a model with rotary positions and norms of queries and keys.
  @Test(
    arguments: ["mha", "swa", "swa2d", "hybrid", "linear_attention"],
    [nil, RowNormKind.rootMeanSquare, .layer])
  func positionsAndNorms(name: String, norm: RowNormKind?) throws {
    func made(_ context: OperatorContext) throws -> any SequenceMixer {
      try OperatorRegistry.sequenceMixer(OperatorSpec(name), context)
    }
    func context(_ rotary: RotaryTables?) -> OperatorContext {
      OperatorContext(
        hiddenSize: 12, tokens: 16, numHeads: 3, prefix: "", weights: Noise(), rotary: rotary,
        queryKeyNorm: norm)
    }
    let module = try made(context(RotaryTables(side: 4)))
    // Heads of four channels bend more within the steps of the differences.
    try check(module, "\(name)", 2, 16, tolerance: 1e-2)
    let count = name == "linear_attention" ? 0 : norm.map { $0 == .layer ? 4 : 2 } ?? 0
    #expect(
      module.parameters.count { $0.name.hasPrefix("q_norm") || $0.name.hasPrefix("k_norm") }
        == count)
    // Without positions another grid of as many tokens changes nothing in attention to all tokens; with them it does.
    let x = RandomStream(seed: 1, "x").normal([1, 16, 12])
    func output(_ module: any SequenceMixer, _ rows: Int) -> [Float] {
      module(
        Value(constant: x), grid: TokenGrid(rows: rows, columns: 16 / rows),
        on: Tape(recording: false)
      ).tensor.values
    }
    #expect(output(module, 4) != output(module, 2))
    if name == "mha" {
      #expect(output(try made(context(nil)), 4) == output(try made(context(nil)), 2))
    }
  }

  /// The architecture's example of a new operator is built from its entry and trained like any other.
  @Test func theDocumentedExample() throws {
    let context = OperatorContext(
      hiddenSize: 12, tokens: 7, numHeads: 3, prefix: "", weights: Noise())
    let spec = OperatorSpec("token_filter", ["taps": 3])
    let mixer = try #require(try TokenFilter.entry.makeSequenceMixer(spec, context))
    #expect(
      mixer.parameters.map(\.name) == [
        "filter.weight", "filter.bias", "out_proj.weight", "out_proj.bias",
      ])
    try check(mixer, "token_filter", 2, 7)
    // The document shows the file of this test.
    let root = URL(filePath: #filePath).deletingLastPathComponent()
    let source = try String(
      contentsOf: root.appending(path: "TokenFilter.swift"), encoding: .utf8)
    let document = try String(
      contentsOf: root.appending(path: "../../docs/ARCHITECTURE.md").standardized, encoding: .utf8)
    let lines = source.split(separator: "\n", omittingEmptySubsequences: false).dropLast()
      .filter { $0 != "import Operators" }
    #expect(document.contains(lines.map { "+\($0)" }.joined(separator: "\n")))
  }

  private func check(
    _ module: any GraftOperator, _ comment: String, _ batch: Int, _ tokens: Int,
    tolerance: Double = 3e-3
  ) throws {
    var random = RandomSequence(seed: 3)
    let x = random.normal([batch, tokens, 12])
    let cotangent = random.normal([batch, tokens, 12])
    let tape = Tape()
    let leaf = tape.leaf(x)
    let output = module(leaf, on: tape)
    #expect(output.shape == x.shape)
    tape.backward(output, cotangent)
    let gradient = tape.gradient(of: leaf) ?? .zeros(x.shape)
    var parts = [("x", x, gradient)]
    parts += module.parameters.map { ($0.name, $0.value, $0.gradient ?? .zeros($0.value.shape)) }
    let scale = parts.map { norm($0.2) }.max() ?? 0
    for (name, value, gradient) in parts {
      let direction = random.normal(value.shape)
      let kept = value.values
      func loss(_ step: Float) -> Double {
        for i in 0..<value.count { value[i] = kept[i] + step * direction[i] }
        defer { for i in 0..<value.count { value[i] = kept[i] } }
        return inner(module(Value(constant: x), on: Tape(recording: false)).tensor, cotangent)
      }
      // Richardson: the error of the central difference falls with the fourth power of the step.
      func slope(_ step: Float) -> Double { (loss(step) - loss(-step)) / (2 * Double(step)) }
      let expected = (4 * slope(4e-3) - slope(8e-3)) / 3
      let error = abs(inner(gradient, direction) - expected)
      #expect(error <= tolerance * max(norm(gradient), 0.1 * scale, 1e-3), "\(comment): \(name)")
    }
  }

  private func inner(_ a: Tensor, _ b: Tensor) -> Double {
    zip(a.values, b.values).reduce(0) { $0 + Double($1.0) * Double($1.1) }
  }

  private func norm(_ tensor: Tensor) -> Double { inner(tensor, tensor).squareRoot() }
}
