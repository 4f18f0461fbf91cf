import Autograd
import Foundation
import TensorCore
import TestSupport
import Testing

/// The operations of state space, linear attention and Hyena operators against their definitions.
@MainActor @Suite("Operations of mixers")
struct MixerOpTests {
  private let check = GradientCheck()

  /// The plain recurrence of Mamba-2, token by token, in double precision.
  nonisolated private static func recurrence(
    _ inputs: [[Double]], batch: Int, tokens: Int, heads: Int, headDim: Int, groups: Int, state: Int
  ) -> [Double] {
    let (xbc, dt, bias, decayLog, skip) = (inputs[0], inputs[1], inputs[2], inputs[3], inputs[4])
    let inner = heads * headDim
    let width = inner + 2 * groups * state
    var y = [Double](repeating: 0, count: batch * tokens * inner)
    for item in 0..<batch {
      for head in 0..<heads {
        let group = head / (heads / groups)
        var memory = [Double](repeating: 0, count: headDim * state)
        for token in 0..<tokens {
          let row = (item * tokens + token) * width
          let b = row + inner + group * state
          let c = b + groups * state
          let step = log(1 + exp(dt[(item * tokens + token) * heads + head] + bias[head]))
          let kept = exp(-exp(decayLog[head]) * step)
          for p in 0..<headDim {
            let x = xbc[row + head * headDim + p]
            var sum = skip[head] * x
            for s in 0..<state {
              memory[p * state + s] = kept * memory[p * state + s] + step * x * xbc[b + s]
              sum += memory[p * state + s] * xbc[c + s]
            }
            y[(item * tokens + token) * inner + head * headDim + p] = sum
          }
        }
      }
    }
    return y
  }

  private func scan(
    batch: Int, tokens: Int, heads: Int, headDim: Int, groups: Int, state: Int, chunk: Int,
    decay: Float = 1
  ) {
    var random = RandomSequence(seed: UInt64(tokens * 1000 + heads * 10 + chunk))
    let width = heads * headDim + 2 * groups * state
    let decayLog = random.normal([heads])
    for head in 0..<heads { decayLog[head] += decay }
    let inputs = [
      random.normal([batch, tokens, width]), random.normal([batch, tokens, heads]),
      random.normal([heads]), decayLog, random.normal([heads]),
    ]
    check(
      SelectiveScan(heads: heads, groups: groups, state: state, chunk: chunk), inputs,
      "\(batch) x \(tokens) tokens, \(heads) x \(headDim), \(groups) groups, chunk \(chunk)"
    ) {
      Self.recurrence(
        $0, batch: batch, tokens: tokens, heads: heads, headDim: headDim, groups: groups,
        state: state)
    }
  }

  @Test(arguments: [1, 2, 5, 16, 64, 256])
  func chunkedScanIsTheRecurrence(chunk: Int) {
    for tokens in [1, 5, 37] {
      scan(batch: 2, tokens: tokens, heads: 4, headDim: 3, groups: 1, state: 5, chunk: chunk)
      scan(batch: 1, tokens: tokens, heads: 6, headDim: 2, groups: 3, state: 4, chunk: chunk)
    }
  }

  @Test func longAndWideScans() {
    // Longer than the 48 rows that the kernels take at a time, wider than a vector.
    scan(batch: 1, tokens: 131, heads: 2, headDim: 17, groups: 1, state: 19, chunk: 256)
    scan(batch: 1, tokens: 131, heads: 2, headDim: 17, groups: 2, state: 19, chunk: 50)
    scan(batch: 3, tokens: 20, heads: 5, headDim: 1, groups: 5, state: 1, chunk: 7)
    scan(batch: 1, tokens: 9, heads: 8, headDim: 2, groups: 1, state: 16, chunk: 4)
  }

  /// Decays that sum to thousands within a chunk must not blur those between neighbours.
  @Test func strongAndWeakDecaysStayExact() {
    scan(batch: 1, tokens: 100, heads: 2, headDim: 4, groups: 1, state: 4, chunk: 128, decay: 4)
    scan(batch: 1, tokens: 100, heads: 2, headDim: 4, groups: 1, state: 4, chunk: 32, decay: -4)
  }

  @Test(arguments: [1, 2, 3])
  func gatedRMSNorm(groups: Int) {
    var random = RandomSequence(seed: 4)
    for (batch, tokens, dim) in [(1, 1, 6), (2, 5, 12), (1, 70, 42)] {
      let inputs = [
        random.normal([batch, tokens, dim]), random.normal([batch, tokens, dim]),
        random.normal([dim]),
      ]
      check(GatedRMSNorm(groups: groups), inputs) { inputs in
        let gated = zip(inputs[0], inputs[1]).map { $0 * $1 / (1 + exp(-$1)) }
        let width = dim / groups
        return gated.indices.map { at in
          let start = at / width * width
          let squares = gated[start..<(start + width)].reduce(0) { $0 + $1 * $1 }
          let root = (squares / Double(width) + 1e-5).squareRoot()
          return gated[at] / root * inputs[2][at % dim]
        }
      }
    }
  }

  @Test(arguments: [1, 5, 50, 113], [3, 16, 20])
  func linearAttention(tokens: Int, headDim: Int) {
    var random = RandomSequence(seed: UInt64(tokens + headDim))
    let (batch, heads) = (2, 2)
    let dim = heads * headDim
    check(
      LinearAttention(heads: heads), [random.normal([batch, tokens, 3 * dim])],
      "\(tokens) tokens, head \(headDim)"
    ) { inputs in
      func feature(_ x: Double) -> Double { x > 0 ? x + 1 : exp(x) }
      var result = [Double](repeating: 0, count: batch * tokens * dim)
      for item in 0..<batch {
        for head in 0..<heads {
          func at(_ token: Int, _ third: Int, _ i: Int) -> Double {
            inputs[0][(item * tokens + token) * 3 * dim + third * dim + head * headDim + i]
          }
          // By the sum over all pairs, which the operation never forms.
          for query in 0..<tokens {
            let scores = (0..<tokens).map { key in
              (0..<headDim).reduce(0.0) { $0 + feature(at(query, 0, $1)) * feature(at(key, 1, $1)) }
            }
            let total = scores.reduce(0, +) + 1e-6
            for i in 0..<headDim {
              result[(item * tokens + query) * dim + head * headDim + i] =
                (0..<tokens).reduce(0.0) { $0 + scores[$1] * at($1, 2, i) } / total
            }
          }
        }
      }
      return result
    }
  }

  @Test(arguments: [1, 2, 4, 7], [1, 3, 9, 40])
  func hyenaAlongFeatures(taps: Int, dim: Int) {
    var random = RandomSequence(seed: UInt64(taps * 100 + dim))
    let width = 3 * dim
    for (batch, tokens) in [(1, 1), (3, 5)] {
      let inputs = [
        random.normal([batch, tokens, width]), random.normal([tokens, 1, taps]),
        random.normal([tokens]),
      ]
      check(FeatureHyena(), inputs, "\(batch) x \(tokens)") { inputs in
        let filtered = inputs[0].indices.map { at in
          let (row, feature) = (at / width, at % width)
          let token = row % tokens
          return (0..<taps).reduce(inputs[2][token]) { sum, tap in
            let from = feature - (taps - 1) + tap
            guard from >= 0 else { return sum }
            return sum + inputs[1][token * taps + tap] * inputs[0][row * width + from]
          }
        }
        return (0..<(batch * tokens * dim)).map { at in
          let q = at / dim * width + at % dim
          return filtered[q] * filtered[q + dim] * filtered[q + 2 * dim]
        }
      }
    }
  }

  @Test func slicesAndProducts() {
    var random = RandomSequence(seed: 1)
    let x = random.normal([2, 3, 7])
    for range in [0..<7, 0..<1, 2..<5, 6..<7] {
      check(ChannelSlice(range), [x]) { inputs in
        (0..<6).flatMap { row in range.map { inputs[0][row * 7 + $0] } }
      }
    }
  }

  /// A causal depthwise convolution along tokens by its definition; x (tokens, channels).
  private func convolved(
    _ x: [Double], _ weight: [Double], _ bias: [Double], channels: Int
  ) -> [Double] {
    let taps = weight.count / channels
    return x.indices.map { at in
      let (token, channel) = (at / channels, at % channels)
      return (0..<taps).reduce(bias[channel]) { sum, tap in
        let from = token - (taps - 1) + tap
        return from < 0 ? sum : sum + weight[channel * taps + tap] * x[from * channels + channel]
      }
    }
  }

  /// The Hyena mixers by their definition.
  private func hyena(
    _ inputs: [[Double]], batch: Int, dim: Int, short: Bool, inner: Bool
  ) -> [Double] {
    let size = inputs[0].count / batch
    return (0..<batch).flatMap { item -> [Double] in
      var qkv = Array(inputs[0][(item * size)..<((item + 1) * size)])
      if short { qkv = convolved(qkv, inputs[1], inputs[2], channels: 3 * dim) }
      func part(_ index: Int) -> [Double] {
        (0..<(size / 3)).map { qkv[$0 / dim * 3 * dim + index * dim + $0 % dim] }
      }
      var product = zip(part(1), part(2)).map { $0 * $1 }
      if inner {
        product = convolved(
          product, inputs[inputs.count - 2], inputs[inputs.count - 1], channels: dim)
      }
      return zip(part(0), product).map { $0 * $1 }
    }
  }

  private func hyenaInputs(
    _ shape: [Int], short: Int?, inner: Int?, _ random: inout RandomSequence
  ) -> [Tensor] {
    let dim = shape[2]
    var inputs = [random.normal([shape[0], shape[1], 3 * dim])]
    if let short { inputs += [random.normal([3 * dim, 1, short]), random.normal([3 * dim])] }
    if let inner { inputs += [random.normal([dim, 1, inner]), random.normal([dim])] }
    return inputs
  }

  @Test(arguments: [[1, 1, 1], [2, 5, 3], [1, 9, 16], [3, 4, 37], [2, 3, 70]])
  func hyenaMixersAreGatedConvolutions(shape: [Int]) {
    var random = RandomSequence(seed: UInt64(shape[2]))
    for (short, inner) in [(4, nil), (nil, 3), (2, 5), (nil, nil), (7, 1)] as [(Int?, Int?)] {
      let op = Hyena(short: short != nil, inner: inner != nil)
      let inputs = hyenaInputs(shape, short: short, inner: inner, &random)
      check(op, inputs, "\(shape), \(String(describing: (short, inner)))") {
        hyena($0, batch: shape[0], dim: shape[2], short: short != nil, inner: inner != nil)
      }
    }
  }

  @Test func hyenaOfRoundedMixedTensorsRoundsItsOutputAlone() {
    var random = RandomSequence(seed: 9)
    let op = Hyena(short: true, inner: true)
    var inputs = hyenaInputs([2, 6, 21], short: 4, inner: 3, &random).map(MixedTensor.float32)
    let rounded = BFloat16Tensor(rounding: inputs[0].float32)
    inputs[0] = .bfloat16(rounded)
    let found = op.forward(inputs).output
    inputs[0] = .float32(rounded.float32)
    let exact = op.forward(inputs).output.float32
    guard case .bfloat16(let output) = found else {
      Issue.record("the output is not rounded")
      return
    }
    #expect(output.float32.values == BFloat16Tensor(rounding: exact).float32.values)
    #expect(output.shape == [2, 6, 21])
  }
}
