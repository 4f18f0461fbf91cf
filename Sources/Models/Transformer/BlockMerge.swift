import Autograd
import Nn
import Operators
import Plans
import TensorCore

/// Merge of the outputs of two parallel blocks: depth to width (section 6 of the paper).
///
/// The keys of a projection use the first block of the pair, `blocks.2.merge.weight` (dim, 2 dim)
/// and `blocks.2.merge.bias` (dim); the released code has no names for them. The paper does not
/// specify the initialisation; here it is the mean of both outputs.
package final class BlockMerge {
  private enum Form {
    case projection(weight: Parameter, bias: Parameter)
    case mean
    case residual
  }

  private let form: Form

  init(_ merge: ParallelMerge, of pair: BlockPair, dim: Int, weights: any WeightSource) throws {
    switch merge {
    case .projection:
      form = .projection(
        weight: try weights.parameter(
          pair.mergePrefix + "weight", [dim, 2 * dim], .table(Self.halves(dim))),
        bias: try weights.parameter(pair.mergePrefix + "bias", [dim], .zeros))
    case .mean: form = .mean
    case .residual: form = .residual
    }
  }

  package var parameters: [Parameter] {
    guard case .projection(let weight, let bias) = form else { return [] }
    return [weight, bias]
  }

  /// The projection, which reads both outputs one behind the other; nil for another merge.
  package var outputLayer: OutputLayer? {
    guard case .projection(let weight, let bias) = form else { return nil }
    return OutputLayer(weight, bias)
  }

  /// Merges the outputs of both blocks; all tensors (batch, tokens, dim).
  ///
  /// - Returns: The input of the block after the pair.
  func callAsFunction(_ x: Value, _ first: Value, _ second: Value, on tape: Tape) -> Value {
    switch form {
    case .projection(let weight, let bias):
      let both = tape.apply(ConcatenateChannels(), first, second)
      return tape.linear(both, weight, bias)
    case .mean: return tape.apply(WeightedSum([0.5, 0.5]), first, second)
    case .residual: return tape.apply(WeightedSum([1, 1, -1]), first, second, x)
    }
  }

  /// Weight (dim, 2 dim) of the mean: two identity matrices scaled by 1/2, concatenated along the
  /// columns.
  private static func halves(_ dim: Int) -> [Float] {
    var values = [Float](repeating: 0, count: 2 * dim * dim)
    for row in 0..<dim {
      values[row * 2 * dim + row] = 0.5
      values[row * 2 * dim + dim + row] = 0.5
    }
    return values
  }
}

extension BlockPair {
  /// The checkpoint prefix of the pair's merge, for example `blocks.2.merge.`.
  package var mergePrefix: String { "blocks.\(first).merge." }
}

extension GraftSite {
  /// The checkpoint prefixes of all parameters that stage 1 trains at the site.
  package var checkpointPrefixes: [String] {
    switch self {
    case .slot(let id): [id.checkpointPrefix]
    case .pair(let pair): pair.blocks.map { "blocks.\($0)." }
    }
  }
}
