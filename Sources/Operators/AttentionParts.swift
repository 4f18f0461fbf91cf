import Autograd
import Nn
import Plans

/// What the attention of a model does to queries and keys before their products: a norm of every head (`q_norm`,
/// `k_norm`), then the rotation by 2-D positions.
struct QueryKeys {
  private let heads: Int
  private let tables: RotaryTables?
  private let kind: RowNormKind?
  /// Weights of the norms of queries and keys, then, of layer norms, their biases.
  let parameters: [Parameter]

  /// Makes it by the conventions of the model; an operator without softmax has no norms.
  init(_ context: OperatorContext, heads: Int, hasNorm: Bool = true) throws {
    (self.heads, tables) = (heads, context.rotary)
    kind = hasNorm ? context.queryKeyNorm : nil
    guard let kind else {
      parameters = []
      return
    }
    let width = [context.hiddenSize / heads]
    let weights = try ["q_norm.weight", "k_norm.weight"].map {
      try context.parameter($0, width, .ones)
    }
    let biases = try (kind == .layer ? ["q_norm.bias", "k_norm.bias"] : []).map {
      try context.parameter($0, width, .zeros)
    }
    parameters = weights + biases
  }

  /// qkv (batch, tokens, 3 dim) -> the same shape.
  func callAsFunction(_ qkv: Value, grid: TokenGrid, on tape: Tape) -> Value {
    rotated(normed(qkv, on: tape), grid: grid, on: tape)
  }

  private func normed(_ qkv: Value, on tape: Tape) -> Value {
    guard let kind else { return qkv }
    let norm = QueryKeyNorm(heads: heads, kind, epsilon: kind == .layer ? 1e-5 : 1e-6)
    let p = parameters.map { Value($0) }
    return kind == .layer
      ? tape.apply(norm, qkv, p[0], p[1], p[2], p[3]) : tape.apply(norm, qkv, p[0], p[1])
  }

  private func rotated(_ qkv: Value, grid: TokenGrid, on tape: Tape) -> Value {
    guard let tables else { return qkv }
    let table = tables(
      rows: grid.rows, columns: grid.columns, headDim: qkv.shape[2] / (3 * heads))
    return tape.apply(RotateQueriesAndKeys(heads: heads, table: table), qkv)
  }
}

/// FLOP and parameter counts shared by attention and its replacements, by the rules of the paper's
/// Table 4.
enum AttentionCost {
  /// Cost of attention in which each query attends to `span` keys, without correction at the ends,
  /// as in the paper.
  ///
  /// Core 4NsD + 2NsH (scores, weighted sum, softmax), featurizer 8ND^2 + 8ND (projections).
  static func attention(_ shape: ModelShape, span: Double, heads: Int) -> OperatorCost {
    let (tokens, dim) = (Double(shape.tokens), Double(shape.hiddenSize))
    let core = 4 * tokens * span * dim + 2 * tokens * span * Double(heads)
    return OperatorCost(
      parameters: projectionParameters(shape) + normParameters(shape, heads: heads), core: core,
      projections: projectionFlops(shape),
      activations: 5 * tokens * dim + Double(heads) * tokens * span)
  }

  /// Parameters of the four D x D projections with biases: 4D^2 + 4D.
  static func projectionParameters(_ shape: ModelShape) -> Int {
    4 * shape.hiddenSize * shape.hiddenSize + 4 * shape.hiddenSize
  }

  /// Parameters of the norms of queries and keys, of models that have them.
  static func normParameters(_ shape: ModelShape, heads: Int) -> Int {
    shape.queryKeyNorm ? (shape.rmsNorm ? 2 : 4) * (shape.hiddenSize / heads) : 0
  }

  /// FLOPs of the four D x D projections with biases: 8ND^2 + 8ND.
  static func projectionFlops(_ shape: ModelShape) -> Double {
    let (tokens, dim) = (Double(shape.tokens), Double(shape.hiddenSize))
    return 8 * tokens * dim * dim + 8 * tokens * dim
  }
}

/// The `num_heads` setting of attention operators; 0 selects the model's number of heads.
enum HeadsSetting {
  static let field = Setting(
    "num_heads", 0, in: 0...1024, "attention heads; 0 takes the model's", .modelHeads)

  /// The number of heads of a plan entry in a model.
  static func heads(_ spec: OperatorSpec, model heads: Int) -> Int {
    let own = spec.count("num_heads")
    return own == 0 ? heads : own
  }

  /// The reason why the channels cannot be split into the heads; nil if they can.
  static func refusal(_ spec: OperatorSpec, _ shape: ModelShape) -> String? {
    let heads = heads(spec, model: shape.numHeads)
    guard shape.hiddenSize.isMultiple(of: heads) else {
      return
        "num_heads \(heads) does not divide the hidden size \(shape.hiddenSize); choose a divisor"
    }
    guard !shape.rotary || shape.hiddenSize / heads % 4 == 0 else {
      return
        "num_heads \(heads) leaves heads of \(shape.hiddenSize / heads) channels, and the model's rotary"
        + " positions need a multiple of 4; choose another number"
    }
    return nil
  }

  /// Label suffix for a number of heads that differs from the model's, for example ` h8`.
  static func label(_ spec: OperatorSpec) -> String {
    let own = spec.count("num_heads")
    return own == 0 ? "" : " h\(own)"
  }
}
