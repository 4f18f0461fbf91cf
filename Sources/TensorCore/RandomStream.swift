import CKernels

/// A stream of random numbers, each a function of the seed, the stream's name and the number's index.
///
/// The generator is Philox4x32-10; docs/random.md has the exact definition and the names of all streams.
/// Numbers of different kinds (bits, uniform, normal) with equal indices share random bits, so a stream
/// serves one kind alone.
package struct RandomStream: Sendable {
  /// The name of the definition, written where it decides whether numbers can be made again.
  package static let generator = "philox4x32-10"
  /// The key of that name in the metadata of training checkpoints.
  package static let metadataKey = "random_generator"

  private let seed: UInt64
  /// The FNV-1a hash of the name.
  private let stream: UInt64

  /// Chooses a stream by its seed and its name.
  package init(seed: UInt64, _ name: String) {
    self.seed = seed
    stream = name.utf8.reduce(0xCBF2_9CE4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
  }

  /// 64 random bits.
  package func bits(_ index: Int) -> UInt64 {
    ck_random_bits(seed, stream, UInt64(bitPattern: Int64(index)))
  }

  /// A uniform number in [0, 1) with 53 random bits.
  package func uniform(_ index: Int) -> Double { Double(bits(index) >> 11) * 0x1p-53 }

  /// A uniform integer in 0..<bound; the probabilities differ by less than bound / 2^64 of their value.
  package func integer(below bound: Int, _ index: Int) -> Int {
    precondition(bound > 0, "integer(below:): bound \(bound)")
    return Int(bits(index).multipliedFullWidth(by: UInt64(bound)).high)
  }

  /// The numbers 0..<count in random order (Fisher-Yates, from the last place down).
  package func permutation(_ count: Int) -> [Int] {
    var order = Array(0..<count)
    for place in stride(from: count - 1, to: 0, by: -1) {
      order.swapAt(place, integer(below: place + 1, place))
    }
    return order
  }

  /// Overwrites a tensor with standard normal numbers times `scale`; element 0 receives number `first`.
  package func fillNormal(_ tensor: Tensor, from first: Int = 0, scale: Float = 1) {
    ck_random_normal_f32(
      tensor.pointer, tensor.count, seed, stream, UInt64(bitPattern: Int64(first)), scale)
  }

  /// Overwrites a tensor with uniform numbers in [-bound, bound]; element 0 receives number 0.
  package func fillUniform(_ tensor: Tensor, bound: Float) {
    ck_random_uniform_f32(tensor.pointer, tensor.count, seed, stream, 0, bound)
  }

  /// A tensor of standard normal numbers, number `first` of the stream and those after it.
  package func normal(_ shape: [Int], from first: Int = 0) -> Tensor {
    let result = Tensor(shape)
    fillNormal(result, from: first)
    return result
  }
}
