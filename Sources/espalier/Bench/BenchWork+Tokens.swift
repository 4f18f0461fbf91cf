import Autograd
import Nn
import Operators
import Plans
import TensorCore

extension BenchWork {
  /// Forward passes of every sequence mixer for increasing numbers of tokens at the width of
  /// DiT-XL/2, for `Benchmarks/growth.py`, which compares linear and quadratic growth.
  static let growth: [BenchWork] = OperatorCatalog.fitting(.attention)
    .filter { $0.name != "skip" }
    .flatMap { descriptor in [256, 1024, 4096].map { growth(of: descriptor, tokens: $0) } }

  private static func growth(of descriptor: OperatorDescriptor, tokens: Int) -> BenchWork {
    let dim = 1152
    return BenchWork(
      id: "tokens_\(descriptor.name)_\(tokens)",
      title: "\(descriptor.title) forward, 1 x \(tokens) x \(dim)", units: Double(tokens),
      unit: "tokens/s", hasPrecision: true
    ) { precision in
      let mixer = try OperatorRegistry.sequenceMixer(
        descriptor.defaultSpec,
        OperatorContext(
          hiddenSize: dim, tokens: tokens, numHeads: 16, prefix: "", weights: FreshWeights(seed: 1))
      )
      mixer.parameters.use(precision)
      let input = normal("input", [1, tokens, dim])
      return { _ = mixer(Value(constant: input), on: Tape(recording: false)) }
    }
  }
}
