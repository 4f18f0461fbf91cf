import Autograd
import Foundation
import TensorCore
import TestSupport
import Testing

/// An operation by its definition, in double precision: flat inputs to flat output.
typealias Reference = ([[Double]]) -> [Double]

/// Holds a fused operation and its backward pass against a definition in double precision.
///
/// Gradients are compared with central differences of the definition, taken in double precision along
/// random directions (every element moves at once), so no float32 noise enters. Then the rules of the
/// tape are checked: inputs stay as they were, an input that needs no gradient gets none and changes
/// nothing else, contributions add up, a parameter's buffer is reused without old content.
@MainActor
struct GradientCheck {
  var tolerance = 2e-5

  func callAsFunction(
    _ op: some MixedPrecisionOp, _ inputs: [Tensor], seed: UInt64 = 1, _ comment: Comment? = nil,
    reference: Reference, location: SourceLocation = #_sourceLocation
  ) {
    let doubles = inputs.map { $0.values.map(Double.init) }
    let expected = reference(doubles)
    let tape = Tape()
    let leaves = inputs.map { tape.leaf($0) }
    let output = apply(op, leaves, on: tape)
    #expect(output.tensor.count == expected.count, comment, sourceLocation: location)
    let forward = distance(output.tensor.values, expected)
    #expect(forward <= tolerance, comment ?? "forward", sourceLocation: location)

    var random = RandomSequence(seed: seed)
    let cotangent = random.normal(output.shape)
    let kept = cotangent.values
    tape.backward(output, cotangent)
    #expect(cotangent.values == kept, "the seed was overwritten", sourceLocation: location)
    for (index, input) in inputs.enumerated() {
      #expect(
        input.values.map(Double.init) == doubles[index], "input \(index) was overwritten",
        sourceLocation: location)
    }
    let gradients = leaves.map { tape.gradient(of: $0)?.values ?? [] }
    for (index, gradient) in gradients.enumerated() {
      let error = directionalError(
        gradient, doubles, index, cotangent.values.map(Double.init), reference, &random)
      #expect(
        error <= tolerance, comment ?? "gradient of input \(index)", sourceLocation: location)
    }
    checkConstants(op, inputs, cotangent, gradients, location)
    checkAccumulation(op, inputs, cotangent, gradients, location)
    checkParameters(op, inputs, cotangent, gradients, location)
  }

  private func apply(_ op: some MixedPrecisionOp, _ values: [Value], on tape: Tape) -> Value {
    switch values.count {
    case 1: tape.apply(op, values[0])
    case 2: tape.apply(op, values[0], values[1])
    case 3: tape.apply(op, values[0], values[1], values[2])
    default: tape.apply(op, values[0], values[1], values[2], values[3], values[4])
    }
  }

  /// Largest difference over the largest magnitude.
  private func distance(_ found: [Float], _ expected: [Double]) -> Double {
    guard found.count == expected.count else { return .infinity }
    var (worst, largest) = (0.0, 1e-30)
    for (a, b) in zip(found, expected) {
      guard a.isFinite else { return .infinity }
      worst = max(worst, abs(Double(a) - b))
      largest = max(largest, abs(b))
    }
    return worst / largest
  }

  /// How far the slope along random directions is from the gradient's, in units of its norm.
  private func directionalError(
    _ gradient: [Float], _ inputs: [[Double]], _ index: Int, _ cotangent: [Double],
    _ reference: Reference, _ random: inout RandomSequence
  ) -> Double {
    guard gradient.count == inputs[index].count else { return .infinity }
    let norm = gradient.reduce(0) { $0 + Double($1) * Double($1) }.squareRoot()
    var worst = 0.0
    for round in 0..<5 {
      var direction = random.normal([gradient.count]).values.map(Double.init)
      if round == 4 {
        // One direction along a single element.
        let only = random.integer(below: gradient.count)
        direction = gradient.indices.map { $0 == only ? 1 : 0 }
      }
      let step = 1e-5
      func value(_ sign: Double) -> Double {
        var moved = inputs
        for i in direction.indices { moved[index][i] += sign * step * direction[i] }
        return zip(reference(moved), cotangent).reduce(0) { $0 + $1.0 * $1.1 }
      }
      let slope = (value(1) - value(-1)) / (2 * step)
      let found = zip(gradient, direction).reduce(0) { $0 + Double($1.0) * $1.1 }
      worst = max(worst, abs(found - slope) / max(norm, 1e-6))
    }
    return worst
  }

  private func checkConstants(
    _ op: some MixedPrecisionOp, _ inputs: [Tensor], _ cotangent: Tensor, _ gradients: [[Float]],
    _ location: SourceLocation
  ) {
    for constant in inputs.indices where inputs.count > 1 {
      let tape = Tape()
      let values = inputs.enumerated().map {
        $0.offset == constant ? Value(constant: $0.element) : tape.leaf($0.element)
      }
      tape.backward(apply(op, values, on: tape), cotangent)
      for (index, value) in values.enumerated() {
        let gradient = tape.gradient(of: value)?.values
        #expect(
          index == constant ? gradient == nil : gradient == gradients[index],
          "input \(constant) constant: gradient of input \(index)", sourceLocation: location)
      }
    }
    let tape = Tape()
    let output = apply(op, inputs.map { Value(constant: $0) }, on: tape)
    tape.backward(output, cotangent)  // Nothing was recorded, nothing happens.
  }

  private func checkAccumulation(
    _ op: some MixedPrecisionOp, _ inputs: [Tensor], _ cotangent: Tensor, _ gradients: [[Float]],
    _ location: SourceLocation
  ) {
    let tape = Tape()
    let leaves = inputs.map { tape.leaf($0) }
    let outputs = (0..<3).map { _ in apply(op, leaves, on: tape) }
    tape.backward(outputs.map { ($0, cotangent) })
    for (index, leaf) in leaves.enumerated() {
      let tripled = gradients[index].map { 3 * Double($0) }
      let error = distance(tape.gradient(of: leaf)?.values ?? [], tripled)
      #expect(
        error <= 1e-5, "three uses of input \(index) do not add up", sourceLocation: location)
    }
  }

  private func checkParameters(
    _ op: some MixedPrecisionOp, _ inputs: [Tensor], _ cotangent: Tensor, _ gradients: [[Float]],
    _ location: SourceLocation
  ) {
    let parameters = inputs.enumerated().map { Parameter("p\($0.offset)", $0.element) }
    func run() {
      let tape = Tape()
      tape.backward(apply(op, parameters.map { Value($0) }, on: tape), cotangent)
    }
    for round in 0..<2 {
      for parameter in parameters { parameter.clearGradient() }
      run()
      for (index, parameter) in parameters.enumerated() {
        #expect(
          parameter.gradient?.values == gradients[index],
          "parameter \(index), round \(round)", sourceLocation: location)
      }
    }
    run()
    for (index, parameter) in parameters.enumerated() {
      let doubled = gradients[index].map { 2 * Double($0) }
      #expect(
        distance(parameter.gradient?.values ?? [], doubled) <= 1e-5,
        "parameter \(index): two passes do not add up", sourceLocation: location)
      parameter.clearGradient()
    }
    parameters[0].isFrozen = true
    run()
    #expect(
      parameters[0].gradient == nil, "a frozen parameter got a gradient", sourceLocation: location)
    for (index, parameter) in parameters.enumerated().dropFirst() {
      #expect(parameter.gradient?.values == gradients[index], sourceLocation: location)
    }
  }
}
