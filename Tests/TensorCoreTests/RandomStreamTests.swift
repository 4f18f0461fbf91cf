import CKernels
import Foundation
import TensorCore
import Testing

/// The numbers of the definition, as Tests/Reference/random_reference.py computes them.
@MainActor @Suite("Random stream")
struct RandomStreamTests {
  private struct Vector: Decodable {
    let seed, name: String
    let first: Int
    let bits, uniform, normal: [String]
    let integers: [String: [Int]]
    let normal_sum: UInt64
    let permutation: [Int]
  }

  /// Vectors of docs/random.md, computed in NumPy.
  @Test func numbersAreThoseOfTheDefinition() throws {
    let path = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .appending(path: "Fixtures/random.json")
    let vectors = try JSONDecoder().decode([Vector].self, from: Data(contentsOf: path))
    #expect(vectors.count == 48)
    for vector in vectors {
      let stream = RandomStream(seed: try #require(UInt64(vector.seed)), vector.name)
      let places = vector.first..<(vector.first + 3)
      #expect(places.map { stream.bits($0) } == vector.bits.map { UInt64($0, radix: 16) })
      #expect(places.map { stream.uniform($0) } == vector.uniform.map { Double($0) })
      for (bound, expected) in vector.integers {
        let bound = try #require(Int(bound))
        #expect(places.map { stream.integer(below: bound, $0) } == expected)
      }
      let normal = stream.normal([1001], from: vector.first).values.map(\.bitPattern)
      #expect(normal.prefix(7).map { $0 } == vector.normal.map { UInt32($0, radix: 16) })
      #expect(normal.reduce(0) { $0 + UInt64($1) } == vector.normal_sum)
      #expect(stream.permutation(8) == vector.permutation)
    }
  }

  /// The known answer of Random123 for philox4x32 with 10 rounds, of key and counter zero.
  @Test func philoxHasItsPublishedValue() {
    #expect(
      [0, 1].map { ck_random_bits(0, 0, $0) } == [0xe169_c58d_6627_e8d5, 0x9b00_dbd8_bc57_ac4c])
  }

  @Test func numbersDependOnTheirAddressAlone() {
    let stream = RandomStream(seed: 7, "numbers")
    let whole = stream.normal([20_000]).values
    for (first, count) in [(0, 1), (1, 1), (2, 127), (3, 128), (1001, 37), (19_998, 2)] {
      let part = stream.normal([count], from: first).values
      #expect(part == Array(whole[first..<(first + count)]))
    }
    // Scaling comes after rounding; what lies behind the tensor stays.
    let buffer = Tensor.full([8], 5)
    stream.fillNormal(buffer.rows(0..<7), scale: 0.5)
    #expect(buffer.values == whole.prefix(7).map { 0.5 * $0 } + [5])
    stream.fillUniform(buffer.rows(1..<8), bound: 0.25)
    #expect(
      buffer.values[1...].map { $0 } == (0..<7).map { Float(2 * stream.uniform($0) - 1) * 0.25 })
  }

  @Test func everyPartOfAnAddressCounts() {
    let names = ["", "a", "b", "ab", "ba", "step/1", "step/2", "step/11", "step/12"]
    let seeds: [UInt64] = [0, 1, 2, 1 << 32, 1 << 63, .max]
    let drawn = seeds.flatMap { seed in
      names.flatMap { name in (0..<50).map { RandomStream(seed: seed, name).bits($0) } }
    }
    #expect(Set(drawn).count == drawn.count)
  }

  @Test func permutationsAreUniform() {
    var counts: [[Int]: Int] = [:]
    for index in 0..<24_000 {
      counts[RandomStream(seed: 3, "order/\(index)").permutation(4), default: 0] += 1
    }
    #expect(counts.count == 24 && counts.keys.allSatisfy { $0.sorted() == [0, 1, 2, 3] })
    #expect(Self.isChiSquare(counts.map(\.value)))
    #expect(
      RandomStream(seed: 3, "").permutation(0) == []
        && RandomStream(seed: 3, "").permutation(1) == [0])
  }

  // MARK: - Statistics, each within five standard deviations

  /// Whether counts of equally likely outcomes vary as much as they should.
  private static func isChiSquare(_ counts: [Int]) -> Bool {
    let expected = Double(counts.reduce(0, +)) / Double(counts.count)
    let sum = counts.reduce(0) { $0 + (Double($1) - expected) * (Double($1) - expected) / expected }
    let freedom = Double(counts.count - 1)
    return abs(sum - freedom) < 5 * (2 * freedom).squareRoot()
  }

  /// Whether two sequences of standard normal numbers are uncorrelated, and so are their squares.
  private static func areUnrelated(_ a: some Sequence<Float>, _ b: some Sequence<Float>) -> Bool {
    var (count, product, squares) = (0.0, 0.0, 0.0)
    for (x, y) in zip(a, b) {
      let (x, y) = (Double(x), Double(y))
      count += 1
      product += x * y
      squares += (x * x - 1) * (y * y - 1)
    }
    return abs(product) < 5 * count.squareRoot() && abs(squares) < 5 * 2 * count.squareRoot()
  }

  @Test(arguments: [0, 1, 2, UInt64.max])
  func bitsAreUniform(seed: UInt64) {
    let stream = RandomStream(seed: seed, "bits")
    let drawn = (0..<65_536).map { stream.bits($0) }
    for shift in stride(from: 0, to: 64, by: 8) {
      var bytes = [Int](repeating: 0, count: 256)
      var pairs = bytes
      for (bits, next) in zip(drawn, drawn.dropFirst()) {
        bytes[Int(bits >> shift & 255)] += 1
        // The same four bits of neighbours.
        pairs[Int(bits >> shift & 15 | (next >> shift & 15) << 4)] += 1
      }
      #expect(Self.isChiSquare(bytes) && Self.isChiSquare(pairs), "byte at \(shift)")
    }
    var counts = [Int](repeating: 0, count: 7)
    for index in 0..<70_000 { counts[stream.integer(below: 7, index)] += 1 }
    #expect(Self.isChiSquare(counts))
    #expect(stream.integer(below: 1, 5) == 0)
    #expect((0..<1000).allSatisfy { (0..<1).contains(stream.uniform($0)) })
  }

  /// A change of one in seed, name or index changes every bit with probability one half.
  @Test func neighboursShareNothing() {
    let count = 20_000
    func stream(_ seed: UInt64, _ name: String) -> RandomStream { RandomStream(seed: seed, name) }
    let base = stream(11, "step/1")
    for other in [stream(12, "step/1"), stream(11, "step/2"), stream(11 ^ 1 << 40, "step/1")] {
      var changed = [Int](repeating: 0, count: 64)
      for index in 0..<count {
        let difference = base.bits(index) ^ other.bits(index)
        for bit in 0..<64 where difference >> bit & 1 == 1 { changed[bit] += 1 }
      }
      let deviation = Double(count).squareRoot() / 2
      #expect(changed.allSatisfy { abs(Double($0) - Double(count) / 2) < 5 * deviation })
    }
    // No seed's numbers are those of another one moved along.
    let seeds = (0..<8).map { seed in Set((0..<2000).map { stream(seed, "").bits($0) }) }
    #expect(Set(seeds.flatMap(\.self)).count == 8 * 2000)
  }

  @Test func normalNumbersAreNormal() {
    let count = 400_000
    let values = RandomStream(seed: 1, "normal").normal([count]).values
    func moment(_ power: Int) -> Double {
      values.reduce(0) { $0 + pow(Double($1), Double(power)) } / Double(count)
    }
    let error = 5 / Double(count).squareRoot()
    #expect(abs(moment(1)) < error && abs(moment(2) - 1) < error * 2.0.squareRoot())
    #expect(
      abs(moment(3)) < error * 15.0.squareRoot() && abs(moment(4) - 3) < error * 96.0.squareRoot())
    #expect(values.allSatisfy { abs($0) < 6.8 })
    // Equally likely intervals by the distribution function.
    var counts = [Int](repeating: 0, count: 100)
    for value in values { counts[min(99, Int(50 * erfc(-Double(value) / 2.0.squareRoot())))] += 1 }
    #expect(Self.isChiSquare(counts))
  }

  @Test func normalNumbersAreUnrelated() {
    let count = 100_000
    func normal(_ seed: UInt64, _ name: String) -> [Float] {
      RandomStream(seed: seed, name).normal([count]).values
    }
    let base = normal(5, "stage2/7/noise")
    for lag in 1...9 { #expect(Self.areUnrelated(base, base.dropFirst(lag)), "lag \(lag)") }
    for seed in [4, 6, 7, 5 ^ 1 << 32] as [UInt64] {
      let other = normal(seed, "stage2/7/noise")
      for lag in 0...4 {
        #expect(Self.areUnrelated(base, other.dropFirst(lag)), "seed \(seed) lag \(lag)")
        #expect(Self.areUnrelated(base.dropFirst(lag), other), "seed \(seed) lag \(lag)")
      }
    }
    for name in ["stage2/8/noise", "stage2/70/noise", "stage1/7/noise"] {
      #expect(Self.areUnrelated(base, normal(5, name)), "\(name)")
    }
  }
}
