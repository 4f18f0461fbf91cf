import TensorCore

/// Repeatable random numbers in sequence, for tests that only need inputs; each call draws from a stream
/// of its own.
package struct RandomSequence: RandomNumberGenerator {
  private let seed: UInt64
  private let name: String
  private var calls = 0

  /// Starts a sequence; another seed or name gives another one.
  package init(seed: UInt64, name: String = "test") {
    self.seed = seed
    self.name = name
  }

  private mutating func stream() -> RandomStream {
    calls += 1
    return RandomStream(seed: seed, "\(name)/\(calls)")
  }

  /// 64 random bits.
  package mutating func next() -> UInt64 { stream().bits(0) }

  /// A number in [0, 1).
  package mutating func uniform() -> Double { stream().uniform(0) }

  /// An integer in 0..<bound.
  package mutating func integer(below bound: Int) -> Int { stream().integer(below: bound, 0) }

  /// A tensor of independent standard normal numbers.
  package mutating func normal(_ shape: [Int]) -> Tensor { stream().normal(shape) }
}
