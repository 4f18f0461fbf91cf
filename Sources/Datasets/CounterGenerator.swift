/// A counter-based random stream: the draws of sample `index` in stream `seed` depend on nothing
/// else, so samples can be made in any order and by any number of threads.
///
/// The stream is SplitMix64 (Steele, Lea and Flood 2014), started at a hash of seed and index.
struct CounterGenerator {
  private var state: UInt64

  init(seed: UInt64, index: UInt64) {
    state = Self.mixed(Self.mixed(seed &+ Self.increment) ^ (index &* 0xD6E8_FEB8_6659_FD93))
  }

  private static let increment: UInt64 = 0x9E37_79B9_7F4A_7C15

  private static func mixed(_ value: UInt64) -> UInt64 {
    var word = value
    word = (word ^ (word >> 30)) &* 0xBF58_476D_1CE4_E5B9
    word = (word ^ (word >> 27)) &* 0x94D0_49BB_1331_11EB
    return word ^ (word >> 31)
  }

  /// The next 64 random bits.
  mutating func next() -> UInt64 {
    state &+= Self.increment
    return Self.mixed(state)
  }

  /// A uniform draw from a half-open interval, with 24 random bits.
  mutating func uniform(_ low: Float, _ high: Float) -> Float {
    let unit = Float(next() >> 40) * 0x1p-24
    return low + unit * (high - low)
  }
}
