import Datasets
import Grafting
import Models
import Nn
import Plans
import TensorCore

extension BenchWork {
  /// Fits in closed form from a plan to its fitted operators, with random weights and latents.
  static let fits = [
    fit(
      "fit_demo_slot", "shipped model, one attention slot, activations in memory", demo, slots: 1),
    fit("fit_demo_28", "shipped model, 28 attention slots and the teacher pass", demo, slots: 28),
    fit("fit_xl_28", "DiT-XL/2, 28 attention slots and the teacher pass", xl, slots: 28),
  ]

  private static func fit(_ id: String, _ title: String, _ config: ModelShape, slots: Int)
    -> BenchWork
  {
    BenchWork(
      id: id, title: "ridge fit, \(title)", units: Double(slots), unit: "slots/s",
      hasPrecision: config.hiddenSize >= 256
    ) { precision in
      let teacher = try DiT(config: config, weights: FreshWeights(seed: 1))
      var plan = GraftPlan(
        named: id, model: ModelReference(path: id, shape: config, contentHash: "0"))
      for block in 0..<slots {
        plan.edits[SlotID(block: block, slot: .attention)] = OperatorSpec("hyena_x")
      }
      let side = config.inputSize
      let data = LatentDataset(
        latents: normal("fit", [64, config.inChannels, side, side]),
        labels: (0..<64).map { $0 % config.numClasses })
      let activations = try TeacherActivations(
        teacher: teacher, dataset: data, samples: plan.stage1.ridgeSamples, seed: 1,
        labelDropout: 0.1)
      teacher.parameters.use(precision)
      if slots == 1 { try activations.keep(Set(plan.sites)) }
      return { [plan] in
        _ = try? RidgeFit.graft(of: plan, teacher: teacher, on: activations, precision: precision)
      }
    }
  }
}
