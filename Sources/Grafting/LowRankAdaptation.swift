import Autograd
import Models
import Nn
import Plans

/// LoRA adapters (arXiv 2106.09685) of the operators that a plan does not replace.
enum LowRankAdaptation {
  /// Freezes all but the replaced operators and attaches an adapter to each chosen layer of the
  /// other slots and the modulations: A with PyTorch's default initialisation, B zero.
  ///
  /// - Parameters:
  ///   - model: The grafted model.
  ///   - plan: Its plan, with rank, alpha, layers and the seed.
  static func attach(to model: any DiffusionTransformer, plan: GraftPlan) {
    let settings = plan.stage2
    let grafts = plan.sites.flatMap(\.checkpointPrefixes)
    let endings = settings.loraTargets.map { ".\($0.rawValue).weight" }
    let fresh = FreshWeights(seed: plan.seed)
    for parameter in model.parameters where !grafts.contains(where: parameter.name.hasPrefix) {
      parameter.isFrozen = true
      guard parameter.name.hasPrefix("blocks."),
        endings.contains(where: parameter.name.hasSuffix)
      else { continue }
      let module = parameter.name.dropLast(".weight".count)
      let (outputs, inputs) = (parameter.shape[0], parameter.shape[1])
      let (down, up) = ("\(module).lora_A.weight", "\(module).lora_B.weight")
      let bound = Initializer.uniform(1 / Float(inputs).squareRoot())
      parameter.adapter = LowRankAdapter(
        down: Parameter(down, fresh.tensor(down, [settings.loraRank, inputs], bound)),
        up: Parameter(up, fresh.tensor(up, [outputs, settings.loraRank], .zeros)),
        scale: Float(settings.loraAlpha) / Float(settings.loraRank))
    }
  }
}
