import Plans
import TensorCore

/// How a replacement takes over weights of the operator in whose place it is put.
///
/// A rule gets the name of one parameter, the operator's own fresh values for it, and the original's
/// tensors by name; it gives the values to start from.
package struct WeightTransfer: Sendable {
  /// A tensor of the original operator, relative to its prefix.
  package typealias Original = (String) throws -> Tensor
  private let rule: @Sendable (String, Tensor, Original) throws -> Tensor

  init(_ rule: @escaping @Sendable (String, Tensor, Original) throws -> Tensor) {
    self.rule = rule
  }

  /// The values that a parameter starts from.
  ///
  /// - Parameters:
  ///   - name: The parameter, relative to the operator's prefix.
  ///   - own: The operator's own fresh values.
  ///   - original: The original's tensors.
  /// - Returns: Values of the same shape.
  /// - Throws: What `original` throws for a tensor that the original lacks.
  package func callAsFunction(
    _ name: String, own: Tensor, original: Original
  ) throws -> Tensor {
    let result = try rule(name, own, original)
    precondition(result.shape == own.shape, "\(name): \(result.shape) for \(own.shape)")
    return result
  }

  /// All of attention's weights under other names: `projections` for `qkv`, `output` for `proj`.
  static func attention(_ projections: String, _ output: String) -> WeightTransfer {
    WeightTransfer { name, own, original in
      let parts = name.split(separator: ".", maxSplits: 1)
      switch String(parts[0]) {
      case projections: return try original("qkv.\(parts[1])").copied()
      case output: return try original("proj.\(parts[1])").copied()
      default: return own
      }
    }
  }

  /// The value and output projections of attention; queries and keys stay the operator's own.
  static let values = WeightTransfer { name, own, original in
    let parts = name.split(separator: ".", maxSplits: 1)
    switch parts[0] {
    case "qkv", "in_proj": return try withValues(of: original("qkv.\(parts[1])"), in: own)
    case "proj", "out_proj": return try original("proj.\(parts[1])").copied()
    default: return own
    }
  }

  /// As `values`, with gates that start around one, so that a Hyena operator begins by passing each
  /// token's value on.
  ///
  /// The filter of the values becomes the identity. The gates' biases become one: those of
  /// `short_filter` if there is one, otherwise those of `in_proj`.
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

  /// The hidden units of an MLP of another width: the strongest ones are kept; units that are added
  /// put out nothing at first.
  ///
  /// The strength of a unit is the product of the norms of its incoming and outgoing weights.
  static let hiddenUnits = WeightTransfer { name, own, original in
    if name == "fc2.bias" { return try original(name).copied() }
    let incoming = try original("fc1.weight")
    let outgoing = try original("fc2.weight")
    let (units, dim) = (incoming.shape[0], incoming.shape[1])
    let width = name == "fc2.weight" ? own.shape[1] : own.shape[0]
    let strengths = (0..<units).map { unit -> Float in
      var (into, out): (Float, Float) = (0, 0)
      for channel in 0..<dim {
        let (first, second) = (incoming[unit * dim + channel], outgoing[channel * units + unit])
        into += first * first
        out += second * second
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
    case "fc2.weight":
      result.fill(0)
      for channel in 0..<dim {
        for (place, unit) in kept.enumerated() {
          result[channel * width + place] = source[channel * units + unit]
        }
      }
    default:
      for (place, unit) in kept.enumerated() {
        result.rows(place..<(place + 1)).assign(source.rows(unit..<(unit + 1)))
      }
    }
    return result
  }

  /// A projection whose last third, the values, is the original's.
  private static func withValues(of source: Tensor, in own: Tensor) throws -> Tensor {
    let result = own.copied()
    let values = (2 * own.shape[0] / 3)..<own.shape[0]
    result.rows(values).assign(source.rows(values))
    return result
  }
}
