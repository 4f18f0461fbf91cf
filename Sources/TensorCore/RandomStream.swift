import Foundation

/// A seedable random stream (SplitMix64) whose whole state is one integer, so that a run can resume.
package struct RandomStream: Sendable, Equatable {
  /// The complete state.
  package private(set) var state: UInt64

  /// Starts a stream.
  package init(seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 &+ 0xD1B5_4A32_D192_ED03 }

  /// Continues a stream from its saved state.
  package init(state: UInt64) { self.state = state }

  /// Starts a stream of its own for a named purpose, independent of the order of use.
  package init(seed: UInt64, name: String) {
    var hash: UInt64 = 0xCBF2_9CE4_8422_2325
    for byte in name.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01B3 }
    self.init(seed: seed ^ hash)
  }

  /// The next 64 random bits.
  package mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }

  /// A number in [0, 1).
  package mutating func uniform() -> Double { Double(next() >> 11) * 0x1p-53 }

  /// An integer in 0..<bound.
  package mutating func integer(below bound: Int) -> Int { Int(next() % UInt64(bound)) }

  /// Fills a buffer with independent standard normal numbers (Box-Muller).
  package mutating func fillNormal(
    _ buffer: UnsafeMutablePointer<Float>, count: Int, scale: Float = 1
  ) {
    var index = 0
    while index < count {
      let radius = (-2 * Foundation.log(1 - uniform())).squareRoot()
      let angle = 2 * Double.pi * uniform()
      buffer[index] = Float(radius * Foundation.cos(angle)) * scale
      if index + 1 < count { buffer[index + 1] = Float(radius * Foundation.sin(angle)) * scale }
      index += 2
    }
  }

  /// A tensor of independent standard normal numbers.
  package mutating func normal(_ shape: [Int]) -> Tensor {
    let result = Tensor(shape)
    fillNormal(result.pointer, count: result.count)
    return result
  }
}
