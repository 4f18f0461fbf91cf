import Foundation
import TensorCore
import Testing

import Sampling

@Suite("Gaussian noise")
@MainActor struct GaussianNoiseTests {
  @Test func philoxMatchesPublishedVectors() {
    // Known answers of Random123's philox4x32, 10 rounds.
    #expect(
      GaussianNoise(seed: 0).words(stream: 0, block: 0)
        == SIMD4(0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8))
    #expect(
      GaussianNoise(seed: .max).words(stream: .max, block: .max)
        == SIMD4(0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd))
    #expect(
      GaussianNoise(seed: 0x299f_31d0_a409_3822).words(
        stream: 0x0370_7344_1319_8a2e, block: 0x85a3_08d3_243f_6a88)
        == SIMD4(0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1))
  }

  @Test func numbersDependOnlyOnTheirAddress() {
    let noise = GaussianNoise(seed: 7)
    let whole = noise.tensor([20_000], stream: 3).values
    let tail = Tensor([37])
    noise.fill(tail, stream: 3, offset: 1001)
    #expect(tail.values == Array(whole[1001..<1038]))
    #expect(noise.tensor([8], stream: 4).values != Array(whole.prefix(8)))
    #expect(GaussianNoise(seed: 8).tensor([8], stream: 3).values != Array(whole.prefix(8)))
  }

  @Test func momentsAreNormal() {
    let values = GaussianNoise(seed: 1).tensor([400_000], stream: 0).values.map { Double($0) }
    let count = Double(values.count)
    let mean = values.reduce(0, +) / count
    let variance = values.reduce(0) { $0 + $1 * $1 } / count
    let fourth = values.reduce(0) { $0 + $1 * $1 * $1 * $1 } / count
    let pairs = zip(values, values.dropFirst()).reduce(0) { $0 + $1.0 * $1.1 } / count
    // Five standard errors each.
    #expect(abs(mean) < 5 / count.squareRoot())
    #expect(abs(variance - 1) < 5 * (2 / count).squareRoot())
    #expect(abs(fourth - 3) < 5 * (96 / count).squareRoot())
    #expect(abs(pairs) < 5 / count.squareRoot())
    #expect(values.allSatisfy { abs($0) < 7 })
  }

  @Test func integersCoverTheirRange() {
    let noise = GaussianNoise(seed: 5)
    var counts = [Int](repeating: 0, count: 10)
    for index in 0..<10_000 {
      counts[noise.integer(below: 10, stream: 9, index: UInt64(index))] += 1
    }
    #expect(counts.allSatisfy { abs($0 - 1000) < 160 })
    #expect(noise.integer(below: 1, stream: 0, index: 0) == 0)
  }
}
