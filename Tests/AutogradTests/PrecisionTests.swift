import Autograd
import Nn
import TensorCore
import TestSupport
import Testing

/// Linear layers in bfloat16, in hardware or emulated.
struct PrecisionTests {
  private let rows = 40
  private let inputs = 96
  private let outputs = 72

  private func parameters() -> (weight: Parameter, bias: Parameter, x: Tensor, cotangent: Tensor) {
    var random = RandomSequence(seed: 11)
    return (
      Parameter("weight", random.normal([outputs, inputs])),
      Parameter("bias", random.normal([outputs])), random.normal([rows, inputs]),
      random.normal([rows, outputs])
    )
  }

  /// Output and gradients of the weight, the bias and the input.
  private func run(_ precision: Precision) throws -> [Tensor] {
    let (weight, bias, x, cotangent) = parameters()
    [weight, bias].use(precision, smallest: 1)
    let tape = Tape()
    let leaf = tape.leaf(x)
    let y = tape.linear(leaf, weight, bias)
    tape.backward(y, cotangent)
    return [
      y.tensor, try #require(weight.gradient), try #require(bias.gradient),
      try #require(tape.gradient(of: leaf)),
    ]
  }

  @Test func bfloat16StaysNearFloat32() throws {
    for (index, (rounded, exact)) in zip(try run(.bfloat16), try run(.float32)).enumerated() {
      let largest = exact.values.map(abs).max() ?? 0
      let error = zip(rounded.values, exact.values).map { abs($0 - $1) }.max() ?? 0
      #expect(error < 0.02 * largest, "result \(index)")
      // The bias gets no product.
      #expect((error > 1e-4 * largest) == (index != 2), "result \(index)")
    }
  }

  private func distance(_ found: Tensor, _ wanted: Tensor) -> Float {
    let largest = wanted.values.map(abs).max() ?? 0
    return (zip(found.values, wanted.values).map { abs($0 - $1) }.max() ?? 0) / largest
  }

  /// Output and gradients of input and weights of a layer, an MLP or an attention operator.
  private func run(
    _ precision: Precision, _ weights: [Parameter], _ x: Tensor, recomputing: Bool = false,
    _ body: @escaping (Tape, Value) -> Value
  ) throws -> (output: Tensor, gradients: [Tensor], inference: Tensor) {
    weights.use(precision, smallest: 1)
    for weight in weights { weight.clearGradient() }
    let tape = Tape(recomputing: recomputing)
    let leaf = tape.leaf(x)
    // The leaf is bound to the outer tape.
    let y = recomputing ? tape.segment { body($0, leaf) } : body(tape, leaf)
    var random = RandomSequence(seed: 8)
    tape.backward(y, random.normal(y.shape))
    let gradients = try weights.map { try #require($0.gradient).copied() }
    let inference = body(Tape(recording: false), Value(constant: x)).tensor
    return (y.tensor, gradients + [try #require(tape.gradient(of: leaf))], inference)
  }

  private func mlp() -> ([Parameter], (Tape, Value) -> Value) {
    var random = RandomSequence(seed: 3)
    let up = Parameter("up", random.normal([outputs, inputs]))
    let down = Parameter("down", random.normal([inputs, outputs]))
    let biases = (
      Parameter("up bias", random.normal([outputs])),
      Parameter("down bias", random.normal([inputs]))
    )
    return ([up, down], { $0.linear($0.hidden($1, up: (up, biases.0)), down, biases.1) })
  }

  private func attention(_ op: some MixedPrecisionOp) -> ([Parameter], (Tape, Value) -> Value) {
    var random = RandomSequence(seed: 4)
    let qkv = Parameter("qkv", random.normal([3 * inputs, inputs]))
    qkv.update { value in for index in 0..<value.count { value[index] *= 0.1 } }
    let projection = Parameter("proj", random.normal([inputs, inputs]))
    return (
      [qkv, projection],
      { tape, x in tape.linear(tape.apply(op, tape.linear(x, qkv, rounds: true)), projection) }
    )
  }

  @Test(arguments: [0, 1, 2, 3])
  func activationsMayBeBfloat16BetweenLayers(kind: Int) throws {
    var random = RandomSequence(seed: 5)
    let x = random.normal([2, rows, inputs])
    let (weights, body) =
      switch kind {
      case 0: mlp()
      case 1: attention(LinearAttention(heads: 4))
      case 2: attention(Attention(heads: 4))
      default: attention(Attention(heads: 4, window: (3, 5)))
      }
    let exact = try run(.float32, weights, x, body)
    #expect(exact.inference.values == exact.output.values)
    let rounded = try run(.bfloat16, weights, x, body)
    #expect(rounded.output.shape == [2, rows, inputs])
    for (found, wanted) in zip(
      [rounded.output, rounded.inference] + rounded.gradients,
      [exact.output, exact.output] + exact.gradients)
    {
      let error = distance(found, wanted)
      #expect(error < 0.03 && error > 1e-4)
    }
    let again = try run(.bfloat16, weights, x, recomputing: true, body)
    #expect(again.output.values == rounded.output.values)
    for (found, wanted) in zip(again.gradients, rounded.gradients) {
      #expect(found.values == wanted.values)
    }
  }

  @Test func attentionOfOddHeadsTakesRoundedInputToo() {
    var random = RandomSequence(seed: 6)
    let qkv = BFloat16Tensor(rounding: random.normal([1, 7, 3 * 6]))
    let found = Attention(heads: 2).forward([.bfloat16(qkv)]).output
    guard case .float32(let values) = found else {
      Issue.record("three channels make no pairs")
      return
    }
    #expect(
      values.values == Attention(heads: 2).forward([.float32(qkv.float32)]).output.float32.values)
  }

  /// Rounded input gives what its values give in float32, rounded at the end if `rounds`.
  private func expectRounded(
    _ op: some MixedPrecisionOp, _ shapes: [[Int]], rounded: Int, rounds: Bool = true
  ) {
    var random = RandomSequence(seed: 9)
    let inputs = shapes.enumerated().map { index, shape in
      index < rounded
        ? MixedTensor.bfloat16(BFloat16Tensor(rounding: random.normal(shape)))
        : .float32(random.normal(shape))
    }
    let found = op.forward(inputs).output
    let exact = op.forward(inputs.map { .float32($0.float32) }).output.float32
    if case .bfloat16 = found { #expect(rounds) } else { #expect(!rounds) }
    let wanted = rounds ? BFloat16Tensor(rounding: exact).float32 : exact
    #expect(found.shape == exact.shape && found.float32.values == wanted.values)
  }

  @Test func mixersTakeRoundedInput() {
    expectRounded(LinearAttention(heads: 3), [[2, 11, 3 * 15]], rounded: 1)
    expectRounded(CrossAttention(heads: 3), [[2, 11, 15], [2, 4, 30]], rounded: 2)
    expectRounded(CrossAttention(heads: 3), [[2, 11, 45], [2, 4, 30]], rounded: 1)
    expectRounded(FeatureHyena(), [[2, 5, 3 * 7], [5, 1, 4], [5]], rounded: 1)
    expectRounded(ChannelSlice(3..<9), [[2, 5, 13]], rounded: 1, rounds: false)
  }

  @Test func gatedNormRoundsOnDemand() {
    var random = RandomSequence(seed: 7)
    let inputs = [[2, 5, 24], [2, 5, 24], [24]].map { MixedTensor.float32(random.normal($0)) }
    let norm = { GatedRMSNorm(groups: 2, rounds: $0).forward(inputs).output }
    #expect(
      norm(true).float32.values == BFloat16Tensor(rounding: norm(false).float32).float32.values)
  }

  @Test func modulatedNormRoundsOnDemand() {
    var random = RandomSequence(seed: 7)
    let inputs = [random.normal([2, 5, 24]), random.normal([2, 48])].map(MixedTensor.float32)
    let norm = {
      ModulatedNorm(.layer, shiftChunk: 0, scaleChunk: 1, rounds: $0).forward(inputs).output
    }
    #expect(norm(true).shape == [2, 5, 24])
    #expect(
      norm(true).float32.values == BFloat16Tensor(rounding: norm(false).float32).float32.values)
  }

  @Test func smallWeightsAndVectorsStayFloat32() {
    let (weight, bias, _, _) = parameters()
    [weight, bias].use(.bfloat16)
    #expect(weight.precision == .float32 && bias.precision == .float32)
    [weight, bias].use(.bfloat16, smallest: outputs * inputs)
    #expect(weight.precision == .bfloat16 && bias.precision == .float32)
  }

  @Test func aChangedWeightIsPackedAnew() {
    let (weight, _, x, cotangent) = parameters()
    [weight].use(.bfloat16, smallest: 1)
    func output() -> Tensor {
      Tape(recording: false).linear(Value(constant: x), weight).tensor
    }
    let before = output()
    #expect(output().values == before.values)
    weight.update { $0 = Tensor.zeros([outputs, inputs]) }
    #expect(output().values.allSatisfy { $0 == 0 })
    weight.assign(Tensor.full([outputs, inputs], 1))
    #expect(output().values != before.values && output().values.contains { $0 != 0 })
    let after = output()
    let tape = Tape()
    tape.backward(tape.linear(Value(constant: x), weight), cotangent)
    AdamW([weight]).step(rate: 0.1)
    #expect(output().values != after.values)
  }

  @Test func tapesShareAWeightAtOnce() {
    let (weight, bias, x, _) = parameters()
    [weight].use(.bfloat16, smallest: 1)
    let wanted = Tape(recording: false).linear(Value(constant: x), weight, bias).tensor.values
    weight.update { _ in }
    var found = [[Float]](repeating: [], count: 6)
    found.withUnsafeMutableBufferPointer { buffer in
      nonisolated(unsafe) let results = buffer
      Parallel.tasks(6) { index in
        results[index] =
          Tape(recording: false).linear(Value(constant: x), weight, bias).tensor.values
      }
    }
    #expect(found.allSatisfy { $0 == wanted })
  }
}
