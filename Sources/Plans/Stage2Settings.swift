/// Settings of stage 2, end-to-end finetuning; part of the plan format, run by later versions.
package struct Stage2Settings: Codable, Equatable, Sendable {
  /// Optimiser steps.
  package var steps = 1000
  /// Samples a step.
  package var batchSize = 32
  /// AdamW's rate after warm-up.
  package var learningRate = 1e-4
  /// Steps over which the rate rises linearly from 0.
  package var warmupSteps = 100
  /// Global gradient norm above which gradients are scaled down.
  package var clipNorm = 10.0
  /// Decay of the running mean of the weights.
  package var emaDecay = 0.9999
  /// Fraction of labels replaced by "no class".
  package var labelDropout = 0.1

  /// The defaults.
  package init() {}
}
