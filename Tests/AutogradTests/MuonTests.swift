import Autograd
import Nn
import TensorCore
import TestSupport
import Testing

@MainActor
@Suite("Muon")
struct MuonTests {
  @Test(arguments: [[12, 12], [24, 10], [10, 24]])
  func updatesAreNearlyOrthogonal(shape: [Int]) {
    var random = RandomSequence(seed: 3)
    let matrix = random.normal(shape)
    let result = Muon.orthogonalized(matrix)
    #expect(result.shape == shape)
    // Singular values squared are the eigenvalues of the smaller Gram matrix: their mean is its mean
    // diagonal, and their spread its off-diagonal part.
    let (rows, columns) = (shape[0], shape[1])
    let small = min(rows, columns)
    func at(_ i: Int, _ k: Int) -> Float {
      rows <= columns ? result[i * columns + k] : result[k * columns + i]
    }
    for i in 0..<small {
      for j in 0..<small {
        let dot = (0..<max(rows, columns)).reduce(Float(0)) { $0 + at(i, $1) * at(j, $1) }
        if i == j { #expect(dot > 0.4 && dot < 1.6) } else { #expect(abs(dot) < 0.5) }
      }
    }
    // It keeps the direction: the inner product with the matrix is the sum of its singular values.
    let inner = (0..<matrix.count).reduce(Float(0)) { $0 + matrix[$1] * result[$1] }
    #expect(inner > 0)
  }

  @Test func stackedMatricesAreIndependent() {
    var random = RandomSequence(seed: 4)
    let gradient = random.normal([12, 6])
    func updated(_ stacked: Int, _ gradient: Tensor, rows: Int) -> Tensor {
      let parameter = Parameter("w", Tensor.zeros([rows, 6]))
      let muon = Muon([parameter]) { _ in stacked }
      let tape = Tape()
      tape.backward(Value(parameter), gradient)
      muon.step(rate: 1, clipNorm: nil, gradientScale: 1)
      #expect(parameter.gradient == nil)
      return parameter.value
    }
    let both = updated(2, gradient, rows: 12)
    let second = updated(1, gradient.rows(6..<12), rows: 6)
    #expect(both.rows(6..<12).values == second.values)
    // The scale makes the root mean square that of a usual AdamW step, about 0.2.
    let squares = second.values.reduce(0) { $0 + $1 * $1 } / Float(second.count)
    #expect(abs(squares.squareRoot() - 0.2) < 0.06)
  }

  /// The rule of the update: decay and the parameter's own rate as in AdamW, Nesterov momentum of 0.95.
  @Test func stepsByTheDefinition() {
    var random = RandomSequence(seed: 5)
    let start = random.normal([6, 10])
    let gradients = [random.normal([6, 10]), random.normal([6, 10])]
    let parameter = Parameter("w", start.copied())
    let muon = Muon([parameter], weightDecay: 0.1, rateFactors: [0.5]) { _ in 1 }
    var expected = start.values.map(Double.init)
    var momentum = [Double](repeating: 0, count: 60)
    for gradient in gradients {
      Tape().backward(Value(parameter), gradient)
      muon.step(rate: 0.2, clipNorm: nil, gradientScale: 1)
      for index in momentum.indices {
        momentum[index] = 0.95 * momentum[index] + Double(gradient[index])
      }
      let ahead = momentum.indices.map { Float(Double(gradient[$0]) + 0.95 * momentum[$0]) }
      let direction = Muon.orthogonalized(Tensor(ahead, shape: [6, 10]))
      for index in expected.indices {
        expected[index] *= 1 - 0.2 * 0.5 * 0.1
        expected[index] -= 0.2 * 0.5 * 0.2 * 10.squareRoot() * Double(direction[index])
      }
    }
    for (found, wanted) in zip(parameter.value.values, expected) {
      #expect(abs(Double(found) - wanted) < 1e-5)
    }
  }

  /// Weights of attention and MLP of blocks are matrices; fused projections are several.
  @Test func namesAndShapesTellWhatIsAMatrix() {
    func count(_ name: String, _ shape: [Int]) -> Int? {
      Muon.stacked(Parameter(name, Tensor.zeros(shape)))
    }
    #expect(count("blocks.3.attn.qkv.weight", [12, 4]) == 3)
    #expect(count("blocks.3.attn.Wqkv.weight", [12, 4]) == 3)
    #expect(count("blocks.10.attn.in_proj.weight", [12, 4]) == 3)
    #expect(count("blocks.3.attn.in_proj.weight", [13, 4]) == 1)
    #expect(count("blocks.3.mlp.fc1.weight", [16, 4]) == 1)
    #expect(count("blocks.3.attn.weight", [4, 4]) == 1)
    #expect(count("blocks.3.attn.qkv.lora_A.weight", [2, 4]) == 1)
    #expect(count("blocks.3.attn.qkv.bias", [12]) == nil)
    #expect(count("blocks.3.attn.short_filter.weight", [12, 1, 4]) == nil)
    #expect(count("blocks.3.adaLN_modulation.1.weight", [24, 4]) == nil)
    #expect(count("x_embedder.proj.weight", [4, 4]) == nil)
    #expect(count("t_embedder.mlp.0.weight", [4, 4]) == nil)
  }

  @Test func otherParametersTakeAdamWSteps() {
    let (a, b) = (
      Parameter("a", Tensor([1, 2, 3], shape: [3])), Parameter("b", Tensor.zeros([2, 2]))
    )
    let alone = Parameter("a", Tensor([1, 2, 3], shape: [3]))
    let muon = Muon([a, b]) { $0.name == "b" ? 1 : nil }
    let adamW = AdamW([alone])
    for _ in 0..<3 {
      let gradient = Tensor([0.5, -1, 2], shape: [3])
      Tape().backward(Value(a), gradient)
      Tape().backward(Value(alone), gradient)
      muon.step(rate: 0.1, clipNorm: nil, gradientScale: 1)
      adamW.step(rate: 0.1, clipNorm: nil, gradientScale: 1)
    }
    #expect(a.value.values == alone.value.values)
    #expect(muon.steps == 3)
  }
}
