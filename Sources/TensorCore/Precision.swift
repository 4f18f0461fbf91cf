/// The number format in which large linear layers and convolutions multiply, and in which activations pass
/// between fused operations that take it; sums, norms, softmax, losses, gradients and trained weights are float32.
package enum Precision: String, CaseIterable, Sendable {
  case float32 = "fp32"
  case bfloat16 = "bf16"
  /// Forward products of 8-bit integers, with a scale for each row of the input and each output, rounded anew for
  /// every product; all else as in bfloat16. For previews.
  case int8

  /// Whether bfloat16 passes between fused operations.
  package var isRounded: Bool { self != .float32 }
  /// The precision of what has no products of 8-bit integers: convolutions and gradients.
  package var withoutInt8: Precision { isRounded ? .bfloat16 : .float32 }

  /// The faster one of float32 and bfloat16 on this CPU: bfloat16 if the CPU has dot products of it.
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
