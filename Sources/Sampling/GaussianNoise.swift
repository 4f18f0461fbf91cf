import Foundation
import TensorCore

/// Reproducible random numbers addressed by (seed, stream, index) instead of drawn in sequence.
///
/// Philox 4x32 with 10 rounds (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011):
/// every value is a function of its address alone, so the order of requests, the number of threads and
/// resuming a run cannot change it.
package struct GaussianNoise: Sendable, Equatable {
  /// The key of the generator.
  package let seed: UInt64

  /// Makes a generator; equal seeds give equal numbers.
  package init(seed: UInt64) { self.seed = seed }

  /// Overwrites a tensor with standard normal numbers of one stream.
  ///
  /// - Parameters:
  ///   - tensor: Any shape; element i receives number `offset + i` of the stream.
  ///   - stream: Name of an independent sequence, for example the step of a sampler.
  ///   - offset: Number of the first element within the stream.
  package func fill(_ tensor: Tensor, stream: UInt64, offset: Int = 0) {
    let target = tensor.pointer
    Parallel.ranges(tensor.count, grain: 4096) { range in
      var block = UInt64.max
      var numbers = SIMD4<Float>()
      for i in range {
        let address = UInt64(offset + i)
        if address / 4 != block {
          block = address / 4
          numbers = normals(stream: stream, block: block)
        }
        target[i] = numbers[Int(address % 4)]
      }
    }
  }

  /// A new tensor of standard normal numbers.
  ///
  /// - Parameters:
  ///   - shape: Any shape.
  ///   - stream: Name of an independent sequence.
  /// - Returns: Numbers 0, 1, ... of the stream in row-major order.
  package func tensor(_ shape: [Int], stream: UInt64) -> Tensor {
    let result = Tensor(shape)
    fill(result, stream: stream)
    return result
  }

  /// A uniform number in [0, 1), number `index` of the stream.
  ///
  /// It shares random bits with the normal numbers of the same stream: use streams of their own.
  package func uniform(stream: UInt64, index: UInt64) -> Double {
    let bits = words(stream: stream, block: index)
    return Double((UInt64(bits[0]) << 32 | UInt64(bits[1])) >> 11) * 0x1p-53
  }

  /// A uniform whole number in 0..<bound, number `index` of the stream.
  package func integer(below bound: Int, stream: UInt64, index: UInt64) -> Int {
    precondition(bound > 0, "integer(below:): bound \(bound)")
    return min(bound - 1, Int(uniform(stream: stream, index: index) * Double(bound)))
  }

  /// Four normal numbers from one block of random bits (Box-Muller).
  private func normals(stream: UInt64, block: UInt64) -> SIMD4<Float> {
    let bits = words(stream: stream, block: block)
    var result = SIMD4<Float>()
    for pair in 0..<2 {
      let radius = (-2 * log((Double(bits[2 * pair]) + 0.5) * 0x1p-32)).squareRoot()
      let angle = 2 * Double.pi * (Double(bits[2 * pair + 1]) * 0x1p-32)
      result[2 * pair] = Float(radius * cos(angle))
      result[2 * pair + 1] = Float(radius * sin(angle))
    }
    return result
  }

  /// One Philox 4x32-10 block: counter (block, stream), key = seed.
  package func words(stream: UInt64, block: UInt64) -> SIMD4<UInt32> {
    var counter = SIMD4<UInt32>(
      UInt32(truncatingIfNeeded: block), UInt32(truncatingIfNeeded: block >> 32),
      UInt32(truncatingIfNeeded: stream), UInt32(truncatingIfNeeded: stream >> 32))
    var key0 = UInt32(truncatingIfNeeded: seed)
    var key1 = UInt32(truncatingIfNeeded: seed >> 32)
    for _ in 0..<10 {
      let first = UInt64(counter[0]) * 0xD251_1F53
      let second = UInt64(counter[2]) * 0xCD9E_8D57
      counter = SIMD4(
        UInt32(truncatingIfNeeded: second >> 32) ^ counter[1] ^ key0,
        UInt32(truncatingIfNeeded: second),
        UInt32(truncatingIfNeeded: first >> 32) ^ counter[3] ^ key1,
        UInt32(truncatingIfNeeded: first))
      key0 &+= 0x9E37_79B9
      key1 &+= 0xBB67_AE85
    }
    return counter
  }
}
