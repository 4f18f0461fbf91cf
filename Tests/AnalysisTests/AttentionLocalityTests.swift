import Analysis
import Foundation
import TensorCore
import TestSupport
import Testing

@MainActor @Suite("Attention locality")
struct AttentionLocalityTests {
  @Test(.enabled(if: Goldens.areAvailable, "reference files are absent"))
  func matchesReference() throws {
    let goldens = try Goldens("analysis_ref")
    let maps = try goldens.tensor("in.attn")
    var locality = AttentionLocality(bands: try goldens.integers("out.bands"))
    let perMap = locality.perMap(maps).map { Float($0) }
    #expect(relativeError(perMap, try goldens.tensor("out.locality_per_map").values) < 1e-6)
    locality.add(maps)
    let perHead = locality.perHead.joined().map { Float($0) }
    #expect(relativeError(perHead, try goldens.tensor("out.locality_per_head").values) < 1e-6)
    let overall = locality.overall.map { Float($0) }
    #expect(relativeError(overall, try goldens.tensor("out.locality").values) < 1e-6)

    var first = AttentionLocality(bands: locality.bands)
    first.add(maps.rows(0..<1))
    var merged = AttentionLocality(bands: locality.bands)
    merged.merge(first)
    var second = AttentionLocality(bands: locality.bands)
    second.add(maps.rows(1..<2))
    merged.merge(second)
    #expect(merged.samples == 2 && merged.heads == 2)
    #expect(zip(merged.overall, locality.overall).allSatisfy { abs($0 - $1) < 1e-12 })
  }

  @Test(arguments: [(4, 0.03485), (8, 0.06531), (16, 0.12476), (32, 0.23779), (64, 0.44043)])
  func uniformAttention(band: Int, expected: Double) {
    #expect(abs(AttentionLocality.uniform(band: band, tokens: 256) - expected) < 6e-6)
    var locality = AttentionLocality(bands: [band, 255, 1000])
    locality.add(Tensor.full([1, 2, 256, 256], 1 / 256))
    #expect(abs(locality.overall[0] - expected) < 6e-6)
    #expect(locality.overall[1] == 1 && locality.overall[2] == 1)
  }

  @Test func diagonalAttentionIsLocal() {
    let maps = Tensor.zeros([1, 1, 8, 8])
    for token in 0..<8 { maps[token * 8 + (token + 2) % 8] = 1 }
    var locality = AttentionLocality(bands: [0, 1, 2, 6])
    locality.add(maps)
    #expect(locality.overall == [0, 0, 0.75, 1])
  }
}
