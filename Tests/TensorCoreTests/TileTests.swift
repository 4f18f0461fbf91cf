import CKernels
import Foundation
import TensorCore
import TestSupport
import Testing

/// The register tiles behind small linear layers and attention, at both of their sizes: which one a
/// machine uses depends on its vector registers, so both are run everywhere.
@MainActor @Suite("Register tiles", .serialized)
struct TileTests {
  private func withTileRows(_ rows: Int, _ body: () -> Void) {
    let before = ck_get_tile_rows()
    ck_set_tile_rows(rows)
    body()
    ck_set_tile_rows(before)
  }

  private func worst(_ found: Tensor, _ expected: [Double]) -> Double {
    zip(found.values, expected).map { $0.isFinite ? abs(Double($0) - $1) : .infinity }.max() ?? 0
  }

  @Test(
    arguments: [6, 12], [(1, 16, 16), (13, 48, 32), (48, 16, 64), (131, 64, 80), (301, 32, 16)])
  func linearLayersMatchTheirDefinition(tileRows: Int, shape: (Int, Int, Int)) {
    let (rows, inputs, outputs) = shape
    var random = RandomSequence(seed: UInt64(rows))
    let x = random.normal([rows, inputs])
    let weight = random.normal([outputs, inputs])
    let bias = random.normal([outputs])
    let gradOutput = random.normal([rows, outputs])
    let (addedInput, addedWeight) = (
      random.normal([rows, inputs]), random.normal([outputs, inputs])
    )
    var y = [Double](repeating: 0, count: rows * outputs)
    var gradInput = addedInput.values.map { Double($0) }
    var gradWeight = addedWeight.values.map { Double($0) }
    for row in 0..<rows {
      for output in 0..<outputs {
        y[row * outputs + output] = Double(bias[output])
        let g = Double(gradOutput[row * outputs + output])
        for input in 0..<inputs {
          let (a, w) = (Double(x[row * inputs + input]), Double(weight[output * inputs + input]))
          y[row * outputs + output] += a * w
          gradInput[row * inputs + input] += g * w
          gradWeight[output * inputs + input] += g * a
        }
      }
    }
    #expect(ck_linear_fits(inputs, outputs) != 0)
    withTileRows(tileRows) {
      let found = Tensor.full([rows, outputs], .nan)
      ck_linear_forward_f32(
        x.pointer, weight.pointer, bias.pointer, found.pointer, rows, inputs, outputs)
      #expect(worst(found, y) < 1e-4)
      ck_linear_input_gradient_f32(
        gradOutput.pointer, weight.pointer, addedInput.pointer, rows, inputs, outputs, 1)
      #expect(worst(addedInput, gradInput) < 1e-4)
      ck_linear_weight_gradient_f32(
        gradOutput.pointer, outputs, x.pointer, addedWeight.pointer, rows, inputs, outputs, 1)
      #expect(worst(addedWeight, gradWeight) < 2e-4)
      // A stored gradient does not depend on what the target held.
      let stored = Tensor.full([rows, inputs], .nan)
      ck_linear_input_gradient_f32(
        gradOutput.pointer, weight.pointer, stored.pointer, rows, inputs, outputs, 0)
      let isStored = stored.values.allSatisfy { $0.isFinite }
      #expect(isStored)
    }
  }

  @Test func widthsThatAreNoMultipleOfSixteenAreLeftToBlas() {
    #expect(ck_linear_fits(24, 64) == 0)
    #expect(ck_linear_fits(64, 100) == 0)
    #expect(ck_linear_fits(1152, 4608) == 0)
  }

  /// Odd numbers of tokens and head widths, with and without a window, forward and backward.
  @Test(arguments: [
    (37, 16, 99, 99), (64, 72, 99, 99), (53, 20, 5, 3), (30, 8, 0, 0), (150, 24, 70, 9),
  ])
  func attentionIsTheSameWithBothTiles(tokens: Int, headDim: Int, left: Int, right: Int) {
    var random = RandomSequence(seed: UInt64(tokens))
    let qkv = random.normal([tokens, 3 * headDim])
    let gradOut = random.normal([tokens, headDim])
    func run(_ rows: Int) -> [Float] {
      let (out, lse) = (Tensor([tokens, headDim]), Tensor([tokens]))
      let grad = Tensor([tokens, 3 * headDim])
      let q = qkv.pointer
      var shape = ck_attention_shape(
        queries: tokens, keys: tokens, head_dim: headDim, q_stride: 3 * headDim,
        kv_stride: 3 * headDim, out_stride: headDim, scale: 1 / Float(headDim).squareRoot(),
        left: left, right: right)
      withTileRows(rows) {
        ck_attention_forward_f32(
          q, q + headDim, q + 2 * headDim, nil, out.pointer, lse.pointer, &shape)
        ck_attention_backward_f32(
          q, q + headDim, q + 2 * headDim, nil, out.pointer, gradOut.pointer, lse.pointer,
          grad.pointer, grad.pointer + headDim, grad.pointer + 2 * headDim, &shape)
      }
      return out.values + lse.values + grad.values
    }
    let worst = zip(run(6), run(12)).map { $0.isFinite ? abs($0 - $1) : .infinity }.max()
    #expect((worst ?? .infinity) < 1e-5)
  }
}
