import Analysis
import Foundation
import TensorCore
import TestSupport
import Testing

@MainActor @Suite("Histograms, channels and attention maps")
struct ActivationHistogramTests {
  /// Every value is counted in the one bin whose edges it lies between.
  @Test(
    .enabled(if: Goldens.areAvailable, "reference files are absent"),
    arguments: ["gauss", "heavy", "outlier", "gelu", "const_shift"])
  func countsByDefinition(name: String) throws {
    let values = try Goldens("analysis_ref").tensor("in.act.\(name)").values
    var measured = ActivationStatistics()
    for part in 0..<3 {
      var one = ActivationStatistics()
      let range = (values.count * part / 3)..<(values.count * (part + 1) / 3)
      Array(values[range]).withUnsafeBufferPointer { one.add($0) }
      measured.merge(one)
    }
    let bins = measured.histogram.bins
    #expect(bins.reduce(0) { $0 + $1.count } == values.count)
    for bin in bins {
      let expected = values.count { value in
        let value = Double(value)
        if bin.high == 0 && bin.low == 0 { return abs(value) < pow(2, -16) }
        return bin.low >= 0
          ? value >= bin.low && value < bin.high
          : value > bin.low && value <= bin.high
      }
      #expect(bin.count == expected, "\(bin)")
      if bin.low > 0 { #expect(abs(bin.high / bin.low - Double(2).squareRoot()) < 1e-6) }
    }
    for (one, next) in zip(bins, bins.dropFirst()) { #expect(one.high <= next.low) }
    #expect(bins.first.map { $0.count > 0 } == true && bins.last.map { $0.count > 0 } == true)
  }

  @Test func extremesAreKept() {
    let values: [Float] = [0, 1e-9, -1e30, .infinity, .nan, 1, 65536, 65535]
    let bins = ActivationStatistics(Tensor(values, shape: [8])).histogram.bins
    #expect(bins.reduce(0) { $0 + $1.count } == 6)
    #expect(bins.first?.count == 1 && bins.last?.count == 2)
    #expect(bins.first { $0.low == 0 && $0.high == 0 }?.count == 2)
    #expect(bins.first { $0.low == 1 }?.count == 1)
    #expect(ActivationHistogram().bins.isEmpty)
  }

  @Test func channelsByDefinition() {
    let random = RandomStream(seed: 3, "channels")
    let values = random.normal([7, 5, 33], from: 0)
    for row in 0..<35 { values[row * 33 + 12] *= 40 }
    values[3 * 33 + 4] = .nan
    var found = ChannelStatistics()
    found.add(values.rows(0..<3))
    found.add(values.rows(3..<7))
    #expect(found.count == 35)
    var squares = [Double](repeating: 0, count: 33)
    var largest = [Double](repeating: 0, count: 33)
    for (index, value) in values.values.enumerated() where value.isFinite {
      squares[index % 33] += Double(value) * Double(value)
      largest[index % 33] = max(largest[index % 33], Double(abs(value)))
    }
    let rms = squares.map { ($0 / 35).squareRoot() }
    #expect(zip(found.rms, rms).allSatisfy { abs($0 - $1) < 1e-12 * max(1, $1) })
    #expect(found.maximumMagnitude == largest)
    #expect(abs(found.medianRMS - rms.sorted()[16]) < 1e-12)
    #expect(rms.indices.max { rms[$0] < rms[$1] } == 12)
  }

  @Test(.enabled(if: Goldens.areAvailable, "reference files are absent"))
  func mapsAreMeansOverSamples() throws {
    let maps = try Goldens("analysis_ref").tensor("in.attn")
    let (batch, heads, tokens) = (maps.shape[0], maps.shape[1], maps.shape[2])
    var found = AttentionMap()
    for item in 0..<batch { found.add(maps.rows(item..<(item + 1))) }
    #expect(found.heads == heads && found.side == tokens)
    for head in 0..<heads {
      let mean = found.mean(ofHead: head)
      for place in 0..<(tokens * tokens) {
        var sum = 0.0
        for item in 0..<batch {
          sum += Double(maps[(item * heads + head) * tokens * tokens + place])
        }
        #expect(abs(Double(mean[place]) - sum / Double(batch)) < 1e-6)
      }
    }
  }

  /// 300 tokens are averaged in twos.
  @Test func longMapsAreReduced() {
    let maps = RandomStream(seed: 1, "map").normal([1, 1, 300, 300], from: 0)
    var found = AttentionMap()
    found.add(maps)
    #expect(found.side == 150)
    let mean = found.mean(ofHead: 0)
    for (row, column) in [(0, 0), (149, 149), (7, 93)] {
      let four = [(0, 0), (0, 1), (1, 0), (1, 1)].map {
        maps[(2 * row + $0) * 300 + 2 * column + $1]
      }
      #expect(abs(mean[row * 150 + column] - four.reduce(0, +) / 4) < 1e-5)
    }
  }

  /// L_k for every k agrees with the bands and ends at the whole mass.
  @Test(.enabled(if: Goldens.areAvailable, "reference files are absent"))
  func everyWidth() throws {
    let goldens = try Goldens("analysis_ref")
    let bands = try goldens.integers("out.bands")
    var locality = AttentionLocality(bands: bands)
    locality.add(try goldens.tensor("in.attn"))
    let within = locality.within
    for (band, value) in zip(bands, try goldens.tensor("out.locality").values) {
      #expect(abs(within[min(band, within.count - 1)] - Double(value)) < 1e-6)
    }
    #expect(abs((within.last ?? 0) - 1) < 1e-6)
    #expect(zip(within, within.dropFirst()).allSatisfy { $0 <= $1 })
  }
}
