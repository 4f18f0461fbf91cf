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
