import Plans
import TensorCore

/// Rule that initialises parameters of a replacement from the operator that it replaces.
package struct WeightTransfer: Sendable {
  /// Returns a tensor of the original operator by its name relative to the prefix.
  package typealias Original = (String) throws -> Tensor
  private let rule: @Sendable (String, Tensor, Original) throws -> Tensor

  init(_ rule: @escaping @Sendable (String, Tensor, Original) throws -> Tensor) {
    self.rule = rule
  }

  /// Returns the initial values of a parameter.
  ///
  /// - Parameters:
  ///   - name: The parameter, relative to the operator's prefix.
  ///   - own: The replacement's freshly drawn values.
  ///   - original: The original's tensors.
  /// - Returns: Values of the same shape.
  /// - Throws: Errors of `original` for a missing tensor.
  package func callAsFunction(
    _ name: String, own: Tensor, original: Original
  ) throws -> Tensor {
    let result = try rule(name, own, original)
    precondition(result.shape == own.shape, "\(name): \(result.shape) for \(own.shape)")
    return result
  }

  /// Copies all weights of attention under other names: `projections` for `qkv`, `output` for
  /// `proj`; norms of queries and keys too where the operator's have the meaning of attention's.
  static func attention(
    _ projections: String, _ output: String, hasNorms: Bool = true
  ) -> WeightTransfer {
    WeightTransfer { name, own, original in
      let parts = name.split(separator: ".", maxSplits: 1)
      switch String(parts[0]) {
      case projections: return try original("qkv.\(parts[1])").copied()
      case output: return try original("proj.\(parts[1])").copied()
      case "q_norm" where hasNorms, "k_norm" where hasNorms:
        let norm = try original(name)
        return norm.shape == own.shape ? norm.copied() : own
      default: return own
      }
    }
  }

  /// Copies the value and output projections of attention; queries and keys are freshly drawn.
  static let values = WeightTransfer { name, own, original in
    let parts = name.split(separator: ".", maxSplits: 1)
    switch parts[0] {
    case "qkv", "in_proj": return try withValues(of: original("qkv.\(parts[1])"), in: own)
    case "proj", "out_proj": return try original("proj.\(parts[1])").copied()
    default: return own
    }
  }

  /// As `values`, with the gates initialised near 1, so that a Hyena operator initially outputs the
  /// value projection of each token.
  ///
  /// The filter of the values becomes the identity. The biases of the gates become 1: those of
  /// `short_filter` if it exists, otherwise those of `in_proj`.
  static func gatedValues(hasShortFilter: Bool) -> WeightTransfer {
    WeightTransfer { name, own, original in
      let third = own.shape[0] / 3
      switch name {
      case "in_proj.bias" where !hasShortFilter:
        let result = try withValues(of: original("qkv.bias"), in: own)
        result.rows(0..<(2 * third)).fill(1)
        return result
      case "short_filter.bias":
        let result = Tensor.zeros(own.shape)
        result.rows(0..<(2 * third)).fill(1)
        return result
      case "short_filter.weight":
        let (result, taps) = (own.copied(), own.shape[2])
        result.rows((2 * third)..<(3 * third)).fill(0)
        for channel in (2 * third)..<(3 * third) { result[channel * taps + taps - 1] = 1 }
        return result
      default: return try values.rule(name, own, original)
      }
    }
  }

  /// Queries, keys and values of attention, or of a distilled linear attention, as C, B and x of a scan
  /// whose gate, convolution, step and decay change nothing: SiLU(z) is 1, the convolution the identity, a
  /// step 1, the decay over all tokens negligible, and D 0.
  ///
  /// What remains are SiLU on q, k and v instead of the feature map, and the norm instead of the division by
  /// the weights' sum.
  static let scan = WeightTransfer { name, own, original in
    switch name {
    case "in_proj.weight", "in_proj.bias":
      let kind = name.hasSuffix("weight") ? "weight" : "bias"
      let source = try original("qkv.\(kind)")
      let dim = source.shape[0] / 3
      let result = own.copied()
      // z | x B C | dt
      result.rows(0..<dim).fill(kind == "weight" ? 0 : 1.2784645)
      for (place, part) in [(1, 2), (2, 1), (3, 0)] {
        result.rows((place * dim)..<((place + 1) * dim))
          .assign(source.rows((part * dim)..<((part + 1) * dim)))
      }
      result.rows((4 * dim)..<own.shape[0]).fill(0)
      return result
    case "conv1d.weight":
      let (result, taps) = (Tensor.zeros(own.shape), own.shape[2])
      for channel in 0..<own.shape[0] { result[channel * taps + taps - 1] = 1 }
      return result
    case "conv1d.bias", "D": return .zeros(own.shape)
    case "dt_bias": return .full(own.shape, 0.5413249)
    case "A_log": return .full(own.shape, -12)
    case "out_proj.weight", "out_proj.bias":
      return try original(name.replacing("out_proj", with: "proj")).copied()
    default: return own
    }
  }

  /// Copies the hidden units of an MLP to another width: keeps the units with the largest product
  /// of incoming and outgoing weight norms; added units have zero outgoing weights.
  static let hiddenUnits = hiddenUnits(up: "fc1", down: "fc2", parts: 1)

  /// As `hiddenUnits`, for units whose `parts` rows lie one block behind the other in the layer `up`.
  static func hiddenUnits(up: String, down: String, parts: Int) -> WeightTransfer {
    WeightTransfer { name, own, original in
      // A layer without biases is one whose biases are zero.
      if name.hasSuffix(".bias"), (try? original(name)) == nil { return .zeros(own.shape) }
      if name == "\(down).bias" { return try original(name).copied() }
      let incoming = try original("\(up).weight")
      let outgoing = try original("\(down).weight")
      let (units, dim) = (outgoing.shape[1], outgoing.shape[0])
      let width = name == "\(down).weight" ? own.shape[1] : own.shape[0] / parts
      let strengths = (0..<units).map { unit -> Float in
        var (into, out): (Float, Float) = (0, 0)
        for channel in 0..<dim {
          let second = outgoing[channel * units + unit]
          out += second * second
          for part in 0..<parts {
            let first = incoming[(part * units + unit) * dim + channel]
            into += first * first
          }
        }
        return into * out
      }
      let order = strengths.indices.sorted {
        strengths[$0] == strengths[$1] ? $0 < $1 : strengths[$0] > strengths[$1]
      }
      let kept = order.prefix(width).sorted()
      let source = try original(name)
      let result = own.copied()
      switch name {
      case "\(down).weight":
        result.fill(0)
        for channel in 0..<dim {
          for (place, unit) in kept.enumerated() {
            result[channel * width + place] = source[channel * units + unit]
          }
        }
      default:
        for part in 0..<parts {
          for (place, unit) in kept.enumerated() {
            let (to, from) = (part * width + place, part * units + unit)
            result.rows(to..<(to + 1)).assign(source.rows(from..<(from + 1)))
          }
        }
      }
      return result
    }
  }

  /// Replaces the last third of a projection, the values, by that of `source`.
  private static func withValues(of source: Tensor, in own: Tensor) throws -> Tensor {
    let result = own.copied()
    let values = (2 * own.shape[0] / 3)..<own.shape[0]
    result.rows(values).assign(source.rows(values))
    return result
  }
}
