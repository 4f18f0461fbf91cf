/// Families of diffusion transformers; everything that depends on one asks it here, in `Models/Families.swift`
/// or in `Sampling/TrainingProcess.swift` (docs/families.md).
package enum ModelFamily: String, SettingChoice {
  /// Class-conditional, predicts noise, as facebookresearch/DiT.
  case dit
  /// Class-conditional, predicts a velocity, as willisma/SiT; the network is that of a DiT.
  case sit
  /// Class-conditional, predicts a velocity, as hustvl/LightningDiT; SiT with other blocks.
  case lightningdit
  /// Text-conditional, predicts noise, as PixArt-alpha/PixArt-sigma.
  case pixart

  /// What images are conditioned on.
  package enum Condition: Sendable {
    case classes, captions
  }

  /// What the network predicts.
  package enum Prediction: Sendable {
    /// The noise of a diffusion process, and its variance.
    case noise
    /// The velocity of a path from noise to data.
    case velocity
  }

  /// Name for people.
  package var title: String {
    switch self {
    case .dit: "DiT"
    case .sit: "SiT"
    case .lightningdit: "LightningDiT"
    case .pixart: "PixArt-Σ"
    }
  }

  package var condition: Condition { self == .pixart ? .captions : .classes }
  package var prediction: Prediction {
    switch self {
    case .dit, .pixart: .noise
    case .sit, .lightningdit: .velocity
    }
  }

  /// Prompts that analyses, reports and previews use where none are given.
  package static let examplePrompts = [
    "a photo of a red apple on a wooden table", "a small house by a lake at sunset",
    "a portrait of an old man with a white beard", "two dogs running through tall grass",
    "a blue car parked in a narrow street", "a bowl of soup beside a slice of bread",
    "an oil painting of a ship in a storm", "a forest path covered with snow",
  ]

  /// Names of the samplers of its prediction, its own first.
  package var samplers: [String] {
    let own = self == .pixart ? "dpmpp" : prediction == .noise ? "ddim" : "heun"
    let all =
      prediction == .noise ? ["ddim", "ancestral", "dpmpp"] : ["euler", "heun", "sde", "sde-heun"]
    return [own] + all.filter { $0 != own }
  }

  /// Steps and guidance scale of the family's sampler where none are given.
  package var samplerDefaults: (steps: Int, guidance: Double) {
    switch self {
    case .dit: (25, 2)
    case .sit: (25, 1.5)
    case .lightningdit: (25, 6.7)
    case .pixart: (20, 4.5)
    }
  }

  /// Tokens of the longest caption of text-conditional models.
  package static let captionTokens = 300

  /// Whether neighbouring blocks can run in parallel: their conditioning is one vector per image.
  package var hasParallelBlocks: Bool { condition == .classes }

  /// Whether an autoencoder that states no scaling factor is taken to have that of Stable Diffusion.
  package var assumesScalingFactor: Bool { self == .dit || self == .sit }

  /// Parameters of adaLN modulations, by a part of their keys.
  package var modulationKeys: [String] {
    self == .pixart ? ["scale_shift_table", "t_block."] : ["adaLN_modulation."]
  }

  /// Linear layers of a block that can have a low-rank adapter.
  package var adaptedLayers: [LoRATarget] {
    self == .pixart
      ? [.qkv, .proj, .fc1, .fc2, .captionQuery, .captionKeyValue]
      : [.qkv, .proj, .fc1, .fc2, .w12, .w3, .modulation]
  }
}

extension Settings where Schema == ModelSchema {
  /// Number of conditions that previews choose from: classes, or prompts of `ModelFamily.examplePrompts`.
  package var conditionCount: Int {
    self.family.condition == .captions ? ModelFamily.examplePrompts.count : self.numClasses
  }
}

extension GraftPlan {
  /// Sets what stage 2 of a new plan trains to the recipe of the model's family: everything for
  /// class-conditional models, adapters of rank 64 for text-conditional ones, as the paper; adapters go to the
  /// MLPs that the model has.
  mutating func applyFamilyDefaults() {
    if model.shape.swiglu { stage2.loraTargets = [.qkv, .proj, .w12, .w3] }
    guard model.shape.family.condition == .captions else { return }
    (stage2.trained, stage2.loraRank, stage2.loraAlpha) = (
      .lora, min(64, model.shape.hiddenSize), 64
    )
    stage2.loraTargets = model.shape.family.adaptedLayers
  }
}
