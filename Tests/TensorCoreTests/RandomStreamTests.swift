import TensorCore
import Testing

@MainActor @Suite("Random stream")
struct RandomStreamTests {
  @Test func streamsAreRepeatable() {
    var first = RandomStream(seed: 42)
    var second = RandomStream(seed: 42)
    var other = RandomStream(seed: 43)
    let drawn = (0..<100).map { _ in first.next() }
    #expect(drawn == (0..<100).map { _ in second.next() })
    #expect(drawn != (0..<100).map { _ in other.next() })
    #expect(Set(drawn).count == 100)
  }

  @Test func publishedOutputsOfSplitMix64() {
    // The generator's reference outputs for state 1234567 (Vigna, splitmix64.c).
    var stream = RandomStream(state: 1_234_567)
    #expect(stream.next() == 6_457_827_717_110_365_317)
    #expect(stream.next() == 3_203_168_211_198_807_973)
    #expect(stream.next() == 9_817_491_932_198_370_423)
  }

  @Test func aSavedStateContinuesTheStream() {
    var stream = RandomStream(seed: 7)
    _ = stream.normal([33])
    _ = stream.integer(below: 10)
    var resumed = RandomStream(state: stream.state)
    #expect(resumed == stream)
    #expect(resumed.normal([101]).values == stream.normal([101]).values)
    #expect(resumed.uniform() == stream.uniform())
  }

  @Test func namedStreamsAreIndependentOfOrder() {
    var a = RandomStream(seed: 5, name: "blocks.0.attn.in_proj.weight")
    let first = a.next()
    var b = RandomStream(seed: 5, name: "blocks.1.attn.in_proj.weight")
    _ = b.next()
    var again = RandomStream(seed: 5, name: "blocks.0.attn.in_proj.weight")
    #expect(again.next() == first)
    var otherSeed = RandomStream(seed: 6, name: "blocks.0.attn.in_proj.weight")
    #expect(otherSeed.next() != first && b.state != again.state)
  }

  @Test func numbersHaveTheirDistributions() {
    var stream = RandomStream(seed: 1)
    let count = 100_001
    let normal = stream.normal([count]).values.map(Double.init)
    let mean = normal.reduce(0, +) / Double(count)
    let variance = normal.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(count)
    let kurtosis = normal.reduce(0) { $0 + ($1 - mean) * ($1 - mean) * ($1 - mean) * ($1 - mean) }
    #expect(abs(mean) < 0.015 && abs(variance - 1) < 0.02)
    #expect(abs(kurtosis / Double(count) / (variance * variance) - 3) < 0.1)
    // Neighbours come from one Box-Muller pair and must not be correlated.
    let correlation = zip(normal, normal.dropFirst()).reduce(0) { $0 + $1.0 * $1.1 }
    #expect(abs(correlation / Double(count)) < 0.015)
    let uniform = (0..<count).map { _ in stream.uniform() }
    #expect(uniform.allSatisfy { $0 >= 0 && $0 < 1 })
    #expect(abs(uniform.reduce(0, +) / Double(count) - 0.5) < 0.005)
    var counts = [Int](repeating: 0, count: 7)
    for _ in 0..<70_000 { counts[stream.integer(below: 7)] += 1 }
    #expect(counts.allSatisfy { abs($0 - 10_000) < 500 })
  }

  @Test func fillingScalesAndStopsAtTheEnd() {
    var stream = RandomStream(seed: 3)
    var same = stream
    let buffer = Tensor.full([8], 5)
    stream.fillNormal(buffer.pointer, count: 7, scale: 0.5)
    #expect(buffer[7] == 5)
    let unit = same.normal([7]).values
    #expect(zip(buffer.values, unit).allSatisfy { abs($0 - 0.5 * $1) < 1e-7 })
  }
}
