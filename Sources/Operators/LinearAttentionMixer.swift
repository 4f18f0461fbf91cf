import Autograd
import Nn
import Plans
import TensorCore

/// Linear attention over all tokens: `qkv`, `proj` and, where the settings ask for them, `q_map`, `k_map`,
/// `k_norm`, `qk_conv`, `v_conv`.
///
/// Source: Katharopoulos et al. 2020, arXiv 2006.16236; parameters are named as those of timm
/// `Attention`. Before the feature map, in this order: depthwise convolutions of the token grid are added
/// to queries and keys and to values, keys are normalised over the tokens, and, for the feature map `exp`,
/// queries and keys of every head are multiplied by matrices (Zhang et al. 2024, arXiv 2402.04347). Rotary
/// positions, of models that have them, come before those matrices.
package final class LinearAttentionMixer: SequenceMixer, LinearOutput {
  static let entry = OperatorEntry(
    OperatorDescriptor(
      name: "linear_attention", title: "Linear attention",
      summary: "attention at a cost linear in the tokens",
      slots: [.attention],
      fields: [
        HeadsSetting.field,
        Setting(
          "feature_map", names: ["elu1", "relu", "exp"], "what queries and keys go through"),
        Setting("key_norm", names: ["none", "instance"], "norm of the keys over the tokens"),
        kernel("qk_conv", "queries and keys"), kernel("v_conv", "values"),
        Setting(
          "inherit_qk", names: ["no", "yes"],
          "queries and keys too start from the original if transferred"),
      ],
      cost: cost,
      label: { spec in
        let map = ["", " relu", " exp"][spec.count("feature_map")]
        let extras =
          (spec.count("key_norm") == 0 ? "" : "n")
          + (spec.count("qk_conv") == 0 ? "" : "q\(spec.count("qk_conv"))")
          + (spec.count("v_conv") == 0 ? "" : "v\(spec.count("v_conv"))")
        return "lin-attn\(map)\(extras.isEmpty ? "" : " \(extras)")\(HeadsSetting.label(spec))"
      },
      fit: { spec, shape in
        for key in ["qk_conv", "v_conv"] where spec.count(key) > 0 && spec.count(key) % 2 == 0 {
          return "\(key) \(spec.count(key)) has no middle; choose an odd extent, or 0 for none"
        }
        return HeadsSetting.refusal(spec, shape)
      }),
    sequenceMixer: { spec, context in try LinearAttentionMixer(context, spec) },
    transfer: {
      $0.count("inherit_qk") == 1 ? .attention("qkv", "proj", hasNorms: false) : .values
    },
    settings: settings)

  private static func kernel(_ key: String, _ what: String) -> Setting<Int> {
    Setting(key, 0, in: 0...7, "extent of a grid convolution added to \(what); 0 for none")
  }

  @Sendable private static func cost(_ spec: OperatorSpec, _ shape: ModelShape) -> OperatorCost {
    let (tokens, dim) = (Double(shape.tokens), Double(shape.hiddenSize))
    let heads = HeadsSetting.heads(spec, model: shape.numHeads)
    let headDim = dim / Double(heads)
    let hasMap = spec.count("feature_map") == 2
    let features = hasMap ? 2 * headDim : headDim
    // Core: phi(k)^T v and phi(q) (phi(k)^T v), 4ND features; normaliser: sum, product, division, 4ND.
    var cost = OperatorCost(
      parameters: AttentionCost.projectionParameters(shape),
      core: 4 * tokens * dim * features + 4 * tokens * dim * features / headDim,
      projections: AttentionCost.projectionFlops(shape), activations: 5 * tokens * dim)
    for (key, channels) in [("qk_conv", 2 * shape.hiddenSize), ("v_conv", shape.hiddenSize)] {
      let taps = spec.count(key) * spec.count(key)
      if taps == 0 { continue }
      cost =
        cost
        + OperatorCost(
          parameters: channels * (taps + 1), projections: 2 * tokens * Double(channels * taps),
          activations: tokens * Double(channels))
    }
    if spec.count("key_norm") == 1 {
      cost = cost + OperatorCost(parameters: 2 * shape.hiddenSize, activations: tokens * dim)
    }
    if hasMap {
      cost =
        cost
        + OperatorCost(
          parameters: 2 * shape.hiddenSize * shape.hiddenSize / heads,
          projections: 4 * tokens * dim * headDim, activations: 2 * tokens * dim)
    }
    return cost
  }

  /// Infers the settings that add parameters; without any the shapes are those of attention.
  private static func settings(_ shapes: OperatorShapes) -> [String: Double]? {
    var found: [String: Double] = [:]
    if let heads = shapes["q_map.weight", 0] {
      (found["feature_map"], found["num_heads"]) = (2, Double(heads))
    }
    if shapes["k_norm.weight", 0] != nil { found["key_norm"] = 1 }
    for key in ["qk_conv", "v_conv"] { found[key] = shapes["\(key).weight", 3].map(Double.init) }
    let modules =
      ["qkv", "proj"]
      + ["k_norm", "qk_conv", "v_conv"].filter {
        shapes["\($0).weight", 0] != nil
      }
    let maps = found["feature_map"] == nil ? [] : ["q_map.weight", "k_map.weight"]
    return !found.isEmpty && shapes.have(modules, and: maps) ? found : nil
  }

  private let qkvWeight, qkvBias, projWeight, projBias: Parameter
  private let attention: LinearAttention
  private let dim: Int
  private let queryKeys: QueryKeys
  private let queryKeyConvolution, valueConvolution, keyNorm, maps: (Parameter, Parameter)?

  package init(_ context: OperatorContext, _ spec: OperatorSpec) throws {
    let dim = context.hiddenSize
    let heads = HeadsSetting.heads(spec, model: context.numHeads)
    self.dim = dim
    queryKeys = try QueryKeys(context, heads: heads, hasNorm: false)
    (qkvWeight, qkvBias) = try context.linear("qkv", inputs: dim, outputs: 3 * dim)
    (projWeight, projBias) = try context.linear("proj", inputs: dim, outputs: dim)
    func convolution(_ name: String, _ channels: Int) throws -> (Parameter, Parameter)? {
      let kernel = spec.count(name)
      return kernel == 0
        ? nil
        : (
          try context.parameter("\(name).weight", [channels, 1, kernel, kernel], .zeros),
          try context.parameter("\(name).bias", [channels], .zeros)
        )
    }
    queryKeyConvolution = try convolution("qk_conv", 2 * dim)
    valueConvolution = try convolution("v_conv", dim)
    keyNorm =
      spec.count("key_norm") == 0
      ? nil
      : (
        try context.parameter("k_norm.weight", [dim], .ones),
        try context.parameter("k_norm.bias", [dim], .zeros)
      )
    let map = LinearAttention.FeatureMap(rawValue: spec.count("feature_map")) ?? .elu1
    func identity(_ name: String) throws -> Parameter {
      let width = dim / heads
      let table = (0..<(heads * width * width)).map { index -> Float in
        index % (width * width) % (width + 1) == 0 ? 1 : 0
      }
      return try context.parameter(name, [heads, width, width], .table(table))
    }
    maps = map == .expPair ? (try identity("q_map.weight"), try identity("k_map.weight")) : nil
    attention = LinearAttention(heads: heads, map: map)
  }

  package var parameters: [Parameter] {
    [qkvWeight, qkvBias]
      + [queryKeyConvolution, valueConvolution, keyNorm, maps].compactMap(\.self)
      .flatMap { [$0.0, $0.1] } + [projWeight, projBias]
  }

  package var outputLayer: OutputLayer { OutputLayer(projWeight, projBias) }

  package func features(_ x: Value, grid: TokenGrid, on tape: Tape) -> Value {
    var qkv = tape.linear(x, qkvWeight, qkvBias, rounds: true)
    let sides = (grid.rows, grid.columns)
    if let (weight, bias) = queryKeyConvolution {
      qkv = tape.apply(
        GridConvolution(columns: 0..<(2 * dim), grid: sides), qkv, Value(weight), Value(bias))
    }
    if let (weight, bias) = valueConvolution {
      qkv = tape.apply(
        GridConvolution(columns: (2 * dim)..<(3 * dim), grid: sides), qkv, Value(weight),
        Value(bias))
    }
    if let (weight, bias) = keyNorm {
      qkv = tape.apply(TokenNorm(columns: dim..<(2 * dim)), qkv, Value(weight), Value(bias))
    }
    qkv = queryKeys(qkv, grid: grid, on: tape)
    if let maps { qkv = tape.apply(HeadMap(), qkv, Value(maps.0), Value(maps.1)) }
    return tape.apply(attention, qkv)
  }
}
