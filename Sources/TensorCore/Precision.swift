/// What large linear layers and convolutions multiply in, and the number format of activations between
/// linear layers where a fused operation takes it; sums, norms, softmax, losses, gradients and the weights
/// themselves are float32.
package enum Precision: String, CaseIterable, Sendable {
  case float32 = "fp32"
  case bfloat16 = "bf16"

  /// What this CPU is fastest with: bfloat16 if it multiplies that in hardware.
  package static var fastest: Precision { PackedFactor.hasHardware ? .bfloat16 : .float32 }
}
