import Autograd
import Foundation
import TensorCore
import TestSupport
import Testing

@MainActor @Suite("Operations of a block")
struct BlockOpTests {
  private let check = GradientCheck()

  nonisolated static let shapes = [(1, 1, 4), (2, 3, 5), (3, 17, 12), (1, 150, 33)]

  @Test(arguments: shapes)
  func layerNormModulate(batch: Int, tokens: Int, dim: Int) {
    var random = RandomSequence(seed: UInt64(tokens))
    let inputs = [random.normal([batch, tokens, dim]), random.normal([batch, 6 * dim])]
    for (shift, scale) in [(0, 1), (3, 4)] {
      check(ModulatedNorm(.layer, shiftChunk: shift, scaleChunk: scale), inputs) { inputs in
        var result: [Double] = []
        for row in 0..<(batch * tokens) {
          let x = inputs[0][(row * dim)..<((row + 1) * dim)]
          let mean = x.reduce(0, +) / Double(dim)
          let variance = x.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(dim)
          let condition = row / tokens * 6 * dim
          for (i, value) in x.enumerated() {
            let normed = (value - mean) / (variance + 1e-6).squareRoot()
            result.append(
              normed * (1 + inputs[1][condition + scale * dim + i])
                + inputs[1][condition + shift * dim + i])
          }
        }
        return result
      }
    }
  }

  @Test(arguments: shapes)
  func gatedResidual(batch: Int, tokens: Int, dim: Int) {
    var random = RandomSequence(seed: UInt64(tokens))
    let inputs = [
      random.normal([batch, tokens, dim]), random.normal([batch, tokens, dim]),
      random.normal([batch, 6 * dim]),
    ]
    for gate in [2, 5] {
      check(GatedResidual(gateChunk: gate), inputs) { inputs in
        inputs[0].indices.map { at in
          let item = at / (tokens * dim)
          return inputs[0][at] + inputs[2][item * 6 * dim + gate * dim + at % dim] * inputs[1][at]
        }
      }
    }
  }

  @Test(arguments: [(1, 1, 2, 2, 2), (2, 3, 4, 6, 2), (1, 4, 6, 3, 3), (2, 2, 5, 5, 1)])
  func patchify(batch: Int, channels: Int, height: Int, width: Int, patch: Int) {
    var random = RandomSequence(seed: 3)
    check(Patchify(patch: patch), [random.normal([batch, channels, height, width])]) { inputs in
      var result: [Double] = []
      for item in 0..<batch {
        for row in 0..<(height / patch) {
          for column in 0..<(width / patch) {
            for channel in 0..<channels {
              for p in 0..<patch {
                for q in 0..<patch {
                  let y = row * patch + p
                  let x = column * patch + q
                  result.append(inputs[0][((item * channels + channel) * height + y) * width + x])
                }
              }
            }
          }
        }
      }
      return result
    }
  }

  @Test(arguments: [(1, 1, 2, 2, 1), (2, 8, 3, 3, 2), (1, 5, 2, 4, 3), (2, 3, 5, 1, 2)])
  func unpatchify(batch: Int, channels: Int, rows: Int, columns: Int, patch: Int) {
    var random = RandomSequence(seed: 3)
    let features = patch * patch * channels
    let (height, width) = (rows * patch, columns * patch)
    check(
      Unpatchify(patch: patch, channels: channels, rows: rows, columns: columns),
      [random.normal([batch, rows * columns, features])]
    ) { inputs in
      var image = [Double](repeating: 0, count: inputs[0].count)
      for (at, value) in inputs[0].enumerated() {
        // The features of a token are (p, q, channel) with the channel fastest.
        let (token, feature) = (at / features, at % features)
        let (item, place) = (token / (rows * columns), token % (rows * columns))
        let channel = feature % channels
        let y = place / columns * patch + feature / channels / patch
        let x = place % columns * patch + feature / channels % patch
        image[((item * channels + channel) * height + y) * width + x] = value
      }
      return image
    }
  }

  @Test(arguments: [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 9])
  func causalConvolution(taps: Int, tokens: Int) {
    var random = RandomSequence(seed: UInt64(taps * 100 + tokens))
    for (batch, channels) in [(1, 1), (2, 5), (3, 21)] {
      let inputs = [
        random.normal([batch, tokens, channels]), random.normal([channels, 1, taps]),
        random.normal([channels]),
      ]
      check(CausalConvolution(), inputs, "\(batch) x \(channels)") { inputs in
        var result: [Double] = []
        for item in 0..<batch {
          for token in 0..<tokens {
            for channel in 0..<channels {
              var sum = inputs[2][channel]
              for tap in 0..<taps where token - (taps - 1) + tap >= 0 {
                let from = (item * tokens + token - (taps - 1) + tap) * channels + channel
                sum += inputs[1][channel * taps + tap] * inputs[0][from]
              }
              result.append(sum)
            }
          }
        }
        return result
      }
    }
  }
}
