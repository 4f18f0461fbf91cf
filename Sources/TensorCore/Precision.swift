/// The number format in which large linear layers and convolutions multiply, and in which activations pass
/// between fused operations that take it; sums, norms, softmax, losses, gradients and trained weights are float32.
package enum Precision: String, CaseIterable, Sendable {
  case float32 = "fp32"
  case bfloat16 = "bf16"

  /// The faster one on this CPU: bfloat16 if the CPU has dot products of it.
  package static var fastest: Precision { PackedMatrix.hasBFloat16 ? .bfloat16 : .float32 }
}

/// Which layers work in a precision; all others work in float32.
///
/// Those do whose weight is large enough that the product saves more than rounding its operands costs.
package struct PrecisionRule: Sendable {
  /// Elements of the smallest weight that counts as large.
  package static let smallestWeight = 1 << 16
  /// Every layer works in float32.
  package static let float32 = PrecisionRule(.float32)

  private let precision: Precision
  private let smallest: Int

  /// Makes a rule.
  package init(_ precision: Precision, smallest: Int = smallestWeight) {
    (self.precision, self.smallest) = (precision, smallest)
  }

  /// The precision of a layer whose weight has `count` elements.
  package func precision(forWeightOf count: Int) -> Precision {
    count < smallest ? .float32 : precision
  }
}
