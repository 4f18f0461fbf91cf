import Autograd
import Foundation
import Models
import TensorCore

/// One tensor of the engine held against the reference.
package struct Comparison: Codable, Equatable, Sendable {
  /// What was compared.
  package enum Kind: String, Codable, Sendable {
    case forward
    case gradient
  }

  /// Name of the expected tensor, with a remark if it was compared more than once.
  package let tensor: String
  package let kind: Kind
  /// The error in the measure of the tolerance; infinite if a number is not finite.
  package let error: Double
  /// Largest error that passes.
  package let tolerance: Double

  /// Whether the error is within the tolerance.
  package var passes: Bool { error <= tolerance }

  /// How much of the tolerance is used; infinite for a missed exact match.
  package var strain: Double {
    if tolerance == 0 { return error == 0 ? 0 : .infinity }
    return error / tolerance
  }
}

/// Collects the comparisons of one case and knows which expectations were looked at.
///
/// The error of a tensor is max|a - b| / max|b|; that of a gradient has the floor of the reference
/// files' README in its denominator.
final class ParityCheck {
  let fixture: Fixture
  private let precision: Precision
  private(set) var comparisons: [Comparison] = []
  /// Why parts of the case were left out.
  private(set) var omissions: [String] = []
  private var seen: Set<String> = []
  private let forwardTolerance: Double
  /// Of numbers that are sums of many signed terms.
  private let sumTolerance: Double
  private let gradientTolerance: Double
  private let gradientFloor: Double

  /// Reads the tolerances of a case; those of bfloat16 are the same for all.
  init(_ fixture: Fixture, precision: Precision = .float32) throws {
    self.fixture = fixture
    self.precision = precision
    let settings = fixture.settings
    let tolerance = settings.has("tolerance") ? try settings.table("tolerance") : settings
    let isRounded = precision == .bfloat16
    forwardTolerance = isRounded ? 5e-2 : try tolerance.number("forward", default: 1e-4)
    sumTolerance = isRounded ? 2e-1 : forwardTolerance
    gradientTolerance = isRounded ? 1e-1 : try tolerance.number("grad", default: 1e-3)
    // Rounded, a gradient that is nothing but cancellation (of the bias of keys, say) is left with about a
    // thousandth of the largest; PyTorch's autocast leaves as much.
    gradientFloor = (isRounded ? 2e-2 : 1e-3) * (try settings.number("grad_scale", default: 0))
  }

  /// Multiplies the weights of all linear layers in the precision that is checked.
  func round(_ parameters: [Parameter]) { parameters.use(precision, smallest: 1) }

  /// What convolutions of any size multiply in.
  var convolutionPrecision: PrecisionRule { PrecisionRule(precision, smallest: 1) }

  /// Compares an output, relative to its largest expected magnitude.
  func forward(
    _ name: String, _ found: Tensor, tolerance: Double? = nil, remark: String? = nil
  ) throws {
    try requireShape(name, found.shape)
    try relative(
      name, found.values.map(Double.init), tolerance: tolerance ?? forwardTolerance, remark: remark)
  }

  /// Compares numbers in double precision, relative to the largest expected magnitude.
  func forward(_ name: String, _ found: [Double], tolerance: Double? = nil) throws {
    try relative(name, found, tolerance: tolerance ?? sumTolerance, remark: nil)
  }

  /// Compares numbers by their largest difference.
  func absolute(_ name: String, _ found: Tensor, tolerance: Double) throws {
    try requireShape(name, found.shape)
    let expected = try expectation(name, count: found.count)
    add(name, .forward, Self.difference(found.values.map(Double.init), expected), tolerance)
  }

  /// Compares numbers by their largest difference and, if asked, by the mean of the differences.
  ///
  /// - Parameters:
  ///   - name: The expected tensor.
  ///   - found: What the engine computed.
  ///   - length: Number of terms in each element, by which differences are divided.
  ///   - skipped: Elements that are left out.
  ///   - tolerance: Largest difference that passes.
  ///   - mean: Largest mean difference that passes.
  /// - Throws: errors of the fixture if there is no such tensor or it has another count.
  func absolute(
    _ name: String, _ found: [Double], dividedBy length: Int = 1,
    skipping skipped: Range<Int> = 0..<0,
    tolerance: Double, mean: Double? = nil
  ) throws {
    let expected = try expectation(name, count: found.count)
    let kept = found.indices.filter { !skipped.contains($0) }
    let (a, b) = (kept.map { found[$0] }, kept.map { expected[$0] })
    let scale = 1 / Double(length)
    add(name, .forward, Self.difference(a, b) * scale, tolerance)
    guard let mean else { return }
    let total = zip(a, b).reduce(0) { $0 + abs($1.0 - $1.1) }
    add("\(name) (mean)", .forward, total * scale / Double(max(1, kept.count)), mean)
  }

  /// Compares whole numbers; the error is the share of wrong ones, none are allowed.
  func exact(_ name: String, _ found: [Int]) throws {
    let expected = try fixture.integers(name)
    seen.insert(name)
    guard found.count == expected.count else { throw countMismatch(name, found.count) }
    let wrong = zip(found, expected).count { $0 != $1 }
    add(name, .forward, Double(wrong) / Double(max(1, expected.count)), 0)
  }

  /// Compares a gradient, or the row and column sums that the file holds instead of it; `name` is
  /// what follows `grad.`, for example `param.qkv.weight`.
  func gradient(_ name: String, _ found: Tensor) throws {
    if fixture.has("gradrow.\(name)") || fixture.has("gradcol.\(name)") {
      let (rows, columns) = (found.shape[0], found.count / max(1, found.shape[0]))
      var rowSums = [Double](repeating: 0, count: rows)
      var columnSums = [Double](repeating: 0, count: columns)
      for row in 0..<rows {
        for column in 0..<columns {
          rowSums[row] += Double(found[row * columns + column])
          columnSums[column] += Double(found[row * columns + column])
        }
      }
      try floored("gradrow.\(name)", rowSums)
      try floored("gradcol.\(name)", columnSums)
    } else {
      try requireShape("grad.\(name)", found.shape)
      try floored("grad.\(name)", found.values.map(Double.init))
    }
  }

  /// Compares the gradients of parameters under their checkpoint names; frozen ones have none.
  func gradients(of parameters: [Parameter]) throws {
    for parameter in parameters where !parameter.isFrozen {
      try gradient("param.\(parameter.name)", parameter.gradient ?? .zeros(parameter.shape))
    }
  }

  /// Refuses a list of parameters whose names differ from those of the reference.
  func requireNames(_ parameters: [Parameter]) throws {
    try requireNames(parameters.map(\.name))
  }

  /// Refuses a list of names that differ from those of the reference.
  func requireNames(_ names: [String]) throws {
    try requireSameNames(try fixture.parameters().keys, names)
  }

  /// Refuses a list of names that lacks one of the expected ones.
  func requireSameNames(_ expected: some Sequence<String>, _ names: [String]) throws {
    let left = Set(expected).subtracting(names).sorted()
    if let first = left.first {
      throw ParityError(
        "\(fixture.path): parameter '\(first)' does not exist in the engine's module; check the"
          + " operator's parameter names")
    }
  }

  /// Refuses a case of which expected tensors were left out.
  func requireComplete() throws {
    let left = ["out.", "grad.", "gradrow.", "gradcol."].flatMap(fixture.names)
      .filter { !seen.contains($0) }
    if let first = left.first {
      throw ParityError(
        "\(fixture.path): expected tensor '\(first)'\(left.count > 1 ? " and \(left.count - 1) more" : "")"
          + " was not compared; the case is not known in this form")
    }
  }

  /// Notes that expectations are not compared, because the build lacks what they are about.
  func leaveOut(_ prefixes: [String], _ reason: String) {
    for prefix in prefixes { seen.formUnion(fixture.names(prefix)) }
    omissions.append(reason)
  }

  // MARK: - Measures

  private func relative(
    _ name: String, _ found: [Double], tolerance: Double, remark: String?
  ) throws {
    let expected = try expectation(name, count: found.count)
    let error = Self.quotient(Self.difference(found, expected), Self.magnitude(expected))
    add(remark.map { "\(name) (\($0))" } ?? name, .forward, error, tolerance)
  }

  private func floored(_ name: String, _ found: [Double]) throws {
    let expected = try expectation(name, count: found.count)
    let error = Self.quotient(
      Self.difference(found, expected), max(Self.magnitude(expected), gradientFloor))
    add(name, .gradient, error, gradientTolerance)
  }

  private func add(_ name: String, _ kind: Comparison.Kind, _ error: Double, _ tolerance: Double) {
    comparisons.append(
      Comparison(tensor: name, kind: kind, error: error, tolerance: tolerance))
  }

  private func expectation(_ name: String, count: Int) throws -> [Double] {
    let expected = try fixture.doubles(name)
    seen.insert(name)
    guard expected.count == count else { throw countMismatch(name, count) }
    return expected
  }

  private func requireShape(_ name: String, _ shape: [Int]) throws {
    let expected = try fixture.shape(name)
    guard expected == shape else {
      throw ParityError(
        "\(fixture.path): tensor '\(name)' has shape \(expected), but the engine computes \(shape);"
          + " the file is damaged or the engine is wrong")
    }
  }

  private func countMismatch(_ name: String, _ count: Int) -> ParityError {
    ParityError(
      "\(fixture.path): tensor '\(name)' does not have the \(count) elements that the engine"
        + " computes; the file is damaged or the engine is wrong")
  }

  /// The largest difference; infinite if anything is not finite.
  static func difference(_ found: [Double], _ expected: [Double]) -> Double {
    var largest = 0.0
    for (a, b) in zip(found, expected) {
      guard a.isFinite, b.isFinite else { return .infinity }
      largest = max(largest, abs(a - b))
    }
    return largest
  }

  private static func magnitude(_ values: [Double]) -> Double {
    values.reduce(0) { max($0, abs($1)) }
  }

  private static func quotient(_ difference: Double, _ magnitude: Double) -> Double {
    difference == 0 ? 0 : difference / magnitude
  }
}
