/// The number format of the factors of large matrix products and convolutions; their sums, the weights
/// and all other values are float32.
package enum Precision: String, CaseIterable, Sendable {
  case float32 = "fp32"
  case bfloat16 = "bf16"

  /// What this CPU is fastest with: bfloat16 if it multiplies that in hardware.
  package static var fastest: Precision { PackedFactor.hasHardware ? .bfloat16 : .float32 }
}
