import Autograd
import TensorCore
import Testing

/// Holds gradients against central differences along themselves, where the slope is their norm.
///
/// - Parameters:
///   - parameters: Each with the gradient of the sum of `cotangent` times the output.
///   - cotangent: What the output was differentiated with, of its shape.
///   - output: The output with the parameters as they are.
/// - Throws: If a parameter has no gradient.
func expectSlopes(
  along parameters: [Parameter], _ cotangent: Tensor, of output: () -> Tensor
) throws {
  func value() -> Double {
    zip(output().values, cotangent.values).reduce(0) { $0 + Double($1.0) * Double($1.1) }
  }
  for parameter in parameters {
    let gradient = try #require(parameter.gradient, "\(parameter.name)")
    let squares = gradient.values.reduce(0) { $0 + Double($1) * Double($1) }
    let kept = parameter.value.copied()
    let step = 5e-3 / squares.squareRoot()
    func move(_ sign: Double) -> Double {
      parameter.update { value in
        for i in 0..<kept.count {
          value[i] = kept[i] + Float(sign * step * Double(gradient[i]))
        }
      }
      return value()
    }
    let slope = (move(1) - move(-1)) / (2 * step)
    parameter.assign(kept)
    #expect(abs(slope / squares - 1) < 0.02, "\(parameter.name): \(slope) for \(squares)")
  }
}
