/// Which parameters stage 2 trains; the fixed position table never.
package enum TrainedParameters: String, Codable, CaseIterable, Sendable {
  /// All of them, as in the paper's class-conditional experiments.
  case all
  /// The replaced operators.
  case grafts
  /// The replaced operators and every adaLN modulation, which is the norms' affine part in a DiT.
  case graftsAndNorms = "grafts_and_norms"
  /// The last `last_n_blocks` blocks and the final layer.
  case lastBlocks = "last_n_blocks"
  /// The replaced operators, and additions of low rank to linear layers of all others (LoRA).
  case lora
}

/// A linear layer of a pretrained block that a low-rank addition can go to, as its key is spelled.
package enum LoRATarget: String, Codable, CaseIterable, Sendable {
  /// Queries, keys and values of attention.
  case qkv
  /// The output projection of attention.
  case proj
  /// The first layer of the MLP.
  case fc1
  /// The second layer of the MLP.
  case fc2
  /// The modulation of the norms and gates.
  case modulation = "adaLN_modulation.1"
}

/// Settings of stage 2, end-to-end finetuning with the diffusion loss.
///
/// Rate, clipping, decay, label dropout and the absence of weight decay follow the released trainer
/// (keshik6/grafting, `train_stage2`); steps, batch and warm-up suit a CPU.
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
  /// Rows per forward pass; the gradients of the parts of a batch add up.
  package var microBatch = 4
  /// AdamW's decoupled weight decay.
  package var weightDecay = 0.0
  /// Fractions of `steps` at which the rate is multiplied by `gamma`; ascending.
  package var milestones: [Double] = []
  /// Factor of the rate at each milestone.
  package var gamma = 0.5
  /// Whether the mean's decay starts low, (1 + step) / (10 + step), so that a short run's mean leaves
  /// its start behind; the released trainer's does not.
  package var emaWarmup = true
  /// Steps between two measurements of the held-out loss.
  package var heldOutEvery = 100
  /// Samples of the held-out loss.
  package var heldOutSamples = 128
  /// Whether the model with the lowest held-out loss is kept beside the newest.
  package var keepsBest = false
  /// When checkpoints are written, and which are kept.
  package var checkpoints = CheckpointPolicy(every: 100, minutes: 10)
  /// Weight of the mean squared difference from the teacher's output, added to the loss.
  package var distillationWeight = 0.0
  /// What is trained.
  package var trained = TrainedParameters.all
  /// Blocks at the end that `trained` names.
  package var lastBlocks = 1
  /// Rank of the low-rank additions; the paper's, for PixArt-Sigma, is 64.
  package var loraRank = 64
  /// The additions' scale times their rank.
  package var loraAlpha = 64.0
  /// The layers that additions go to.
  package var loraTargets: [LoRATarget] = [.qkv, .proj, .fc1, .fc2]
  /// Whether blocks run again on the way back instead of keeping their activations: less memory for
  /// about a third more time, to the last bit the same result.
  package var recompute = false

  /// The defaults.
  package init() {}
}
