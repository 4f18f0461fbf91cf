import Autograd
import TensorCore
import TestSupport
import Testing

/// Attention on the token grid and what linear attention does to q, k and v, against their definitions.
@MainActor @Suite("Operations on the token grid")
struct GridOpTests {
  private typealias Definition = MixerDefinition
  private let check = GradientCheck()

  private func perImage(
    _ flat: [Double], batch: Int, width: Int, _ body: (Definition.Rows) -> Definition.Rows
  ) -> [Double] {
    let size = flat.count / batch
    return (0..<batch).flatMap { item in
      body(Definition.rows(flat[(item * size)..<((item + 1) * size)], width: width)).flatMap(\.self)
    }
  }

  /// Grids of all shapes around the tiles of queries, windows up to more than the grid.
  @Test(arguments: [
    (1, 1, 3), (1, 23, 5), (2, 9, 3), (3, 5, 3), (4, 4, 1), (5, 7, 3), (6, 6, 5), (9, 2, 5),
    (7, 1, 3),
    (5, 5, 9),
  ])
  func windowsAreTheirDefinition(rows: Int, columns: Int, window: Int) {
    var random = RandomSequence(seed: UInt64(rows * 100 + columns))
    let (heads, width) = (2, 3)
    let dim = heads * width
    let qkv = random.normal([2, rows * columns, 3 * dim])
    let op = NeighborhoodAttention(
      heads: heads, grid: (rows, columns), window: (window, window))
    check(op, [qkv], "\(rows) x \(columns), window \(window)") { inputs in
      perImage(inputs[0], batch: 2, width: 3 * dim) {
        Definition.neighborhood(
          $0, heads: heads, grid: (rows, columns), window: (window, window))
      }
    }
    // A window of the whole grid leaves no token to linear attention, and the mix has no effect.
    if window >= max(rows, columns) { return }
    check(op, [qkv, random.normal([heads])], "\(rows) x \(columns), window \(window), mixed") {
      inputs in
      perImage(inputs[0], batch: 2, width: 3 * dim) {
        Definition.neighborhood(
          $0, heads: heads, grid: (rows, columns), window: (window, window), mixes: inputs[1])
      }
    }
  }

  @Test func wideHeadsAndUnequalWindows() {
    var random = RandomSequence(seed: 8)
    let qkv = random.normal([1, 6 * 5, 3 * 34])
    let mixes = random.normal([2])
    for inputs in [[qkv], [qkv, mixes]] {
      check(NeighborhoodAttention(heads: 2, grid: (6, 5), window: (3, 1)), inputs) { inputs in
        perImage(inputs[0], batch: 1, width: 3 * 34) {
          Definition.neighborhood(
            $0, heads: 2, grid: (6, 5), window: (3, 1), mixes: inputs.count > 1 ? inputs[1] : nil)
        }
      }
    }
  }

  /// Scores that would overflow without a shift, and a window that is the whole grid.
  @Test func largeScoresStayFinite() {
    var random = RandomSequence(seed: 3)
    let qkv = random.normal([1, 16, 12])
    for i in 0..<qkv.count { qkv[i] *= 40 }
    for mixes in [nil, random.normal([1])] {
      let tape = Tape()
      let x = tape.leaf(qkv)
      let op = NeighborhoodAttention(heads: 1, grid: (4, 4), window: (5, 5))
      let y = tape.apply(op, [x] + (mixes.map { [Value(constant: $0)] } ?? []))
      #expect(y.tensor.isFinite)
      tape.backward(y, .full(y.shape, 1))
      #expect(tape.gradient(of: x)?.isFinite == true)
    }
  }

  /// A window over the whole grid is full attention.
  @Test func aWindowOfTheWholeGridIsAttention() {
    var random = RandomSequence(seed: 4)
    let qkv = random.normal([2, 25, 3 * 16])
    let (tape, value) = (Tape(recording: false), Value(constant: qkv))
    let near = tape.apply(NeighborhoodAttention(heads: 2, grid: (5, 5), window: (5, 5)), value)
    let full = tape.apply(Attention(heads: 2), value)
    let error = zip(near.tensor.values, full.tensor.values).map { abs($0 - $1) }.max() ?? .infinity
    #expect(error < 1e-5)
  }

  /// Linear attention of every feature map; the exponentials have twice as many features as channels.
  @Test(arguments: [0, 1, 2])
  func featureMaps(map: Int) throws {
    let op = LinearAttention(heads: 3, map: try #require(.init(rawValue: map)))
    for (tokens, width) in [(1, 2), (7, 4), (61, 5), (20, 17)] {
      var random = RandomSequence(seed: UInt64(tokens + map))
      let qkv = random.normal([2, tokens, 9 * width])
      // Away from the kink of max(x, 0), where differences are no gradients.
      for i in 0..<qkv.count where abs(qkv[i]) < 1e-2 { qkv[i] += 0.05 }
      check(op, [qkv], "map \(map), \(tokens) tokens, width \(width)") { inputs in
        perImage(inputs[0], batch: 2, width: 9 * width) {
          Definition.linearAttention($0, heads: 3, map: map)
        }
      }
    }
  }

  @Test func matricesOfHeads() {
    var random = RandomSequence(seed: 5)
    check(
      HeadMap(), [random.normal([2, 5, 24]), random.normal([2, 4, 4]), random.normal([2, 4, 4])]
    ) { inputs in
      perImage(inputs[0], batch: 2, width: 24) {
        Definition.headMap($0, inputs[1], inputs[2], heads: 2)
      }
    }
  }

  @Test(arguments: [1, 4, 33])
  func normsOverTokens(tokens: Int) {
    var random = RandomSequence(seed: 6)
    check(
      TokenNorm(columns: 3..<73),
      [random.normal([3, tokens, 80]), random.normal([70]), random.normal([70])],
      tokens == 1 ? "one token has no variance" : nil
    ) { inputs in
      perImage(inputs[0], batch: 3, width: 80) {
        Definition.tokenNorm($0, columns: 3..<73, inputs[1], inputs[2])
      }
    }
  }

  @Test(arguments: [(1, 1, 3), (3, 4, 3), (4, 3, 5), (2, 9, 7), (5, 1, 1)])
  func convolutionsOfTheGrid(rows: Int, columns: Int, kernel: Int) {
    var random = RandomSequence(seed: 7)
    check(
      GridConvolution(columns: 2..<68, grid: (rows, columns)),
      [
        random.normal([2, rows * columns, 70]), random.normal([66, 1, kernel, kernel]),
        random.normal([66]),
      ]
    ) { inputs in
      perImage(inputs[0], batch: 2, width: 70) {
        Definition.gridConvolution(
          $0, columns: 2..<68, inputs[1], inputs[2], kernel: kernel, grid: (rows, columns))
      }
    }
  }

  @Test func reversedTokens() {
    var random = RandomSequence(seed: 9)
    check(ReverseTokens(), [random.normal([3, 5, 4])]) { inputs in
      perImage(inputs[0], batch: 3, width: 4) { Array($0.reversed()) }
    }
  }
}
