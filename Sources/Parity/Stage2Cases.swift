import Autograd
import Datasets
import Files
import Grafting
import Models
import Plans
import Nn
import Sampling
import TensorCore
import Training

/// Finetuning of a whole grafted model: loss curves, updates and averages of its parameters
/// (`stage2_ref`).
enum Stage2Cases {
  /// Trains the hybrid as stage 2 does and compares.
  static func run(_ check: ParityCheck) throws {
    let fixture = check.fixture
    let settings = fixture.settings
    let model = try DiTCases.hybridModel(check)
    // The weight source shares the tensors of the fixture, so copies are trained.
    for parameter in model.parameters { parameter.update { $0 = $0.copied() } }
    let trained = model.parameters.filter { !$0.isFrozen }
    let initial = trained.map { $0.value.copied() }
    let adam = try settings.table("optimizer")
    let betas = try adam.numbers("betas")
    let (epsilon, decay) = (try adam.number("eps"), try adam.number("weight_decay"))
    let trainer = DiffusionTrainer(
      model: model, diffusion: try GaussianDiffusion(spacing: ""),
      emaDecay: Float(try settings.number("ema_decay"))
    ) {
      AdamW(
        $0, beta1: Float(betas.first ?? 0.9), beta2: Float(betas.last ?? 0.999),
        epsilon: Float(epsilon), weightDecay: Float(decay))
    }
    let quick = EMA(trained, decay: Float(try settings.number("ema_check_decay")))
    let rate = try adam.number("lr")
    let clip = Float(try settings.number("clip_grad_norm"))
    var reports: [TrainingStepReport] = []
    for batch in try batches(fixture, model.config) {
      reports.append(
        trainer.step(batch, microBatch: batch.steps.count, rate: rate, clipNorm: clip))
      quick.update()
    }
    let tolerance = try settings.table("tolerance")
    let loss = try tolerance.number("loss")
    try check.forward("out.loss", reports.map(\.loss), tolerance: loss)
    try check.forward("out.mse", reports.map(\.mse), tolerance: loss)
    try check.forward("out.vb", reports.map(\.vb), tolerance: loss)
    try check.forward(
      "out.grad_norm", reports.map(\.gradientNorm), tolerance: try tolerance.number("grad_norm"))
    for (index, parameter) in trained.enumerated() {
      let moved = zip(parameter.value.values, initial[index].values).map { Double($0) - Double($1) }
      let place = Place(parameter)
      try compare(
        check, "delta", place, moved, tolerance: try tolerance.number("delta_abs_max"),
        mean: try tolerance.number("delta_abs_mean"))
      try compare(
        check, "ema", place, trainer.ema.averages[index].values.map(Double.init),
        tolerance: try tolerance.number("ema_abs"))
      try compare(
        check, "ema_check", place, quick.averages[index].values.map(Double.init),
        tolerance: try tolerance.number("ema_check_abs"))
    }
  }

  /// The batches `in.x0`, `noise` (steps, rows, C, S, S), `t` and `y` (steps, rows).
  private static func batches(_ fixture: Fixture, _ config: ModelShape) throws -> [DiffusionBatch] {
    guard config.learnSigma else {
      throw FileError(
        "\(fixture.path): config key 'dit.learn_sigma' is false, expected true for the training"
          + " loss; the file is of another format")
    }
    let steps = try fixture.settings.integer("steps", in: 1...100_000)
    let rows = try fixture.settings.integer("batch", in: 1...65536)
    let shape = [rows, config.inChannels, config.inputSize, config.inputSize]
    let start = try fixture.tensor("in.x0", shape: [steps] + shape)
    let noise = try fixture.tensor("in.noise", shape: [steps] + shape)
    try fixture.require("in.t", shape: [steps, rows])
    try fixture.require("in.y", shape: [steps, rows])
    let timesteps = try fixture.integers("in.t", in: 0..<1000)
    let labels = try fixture.integers("in.y", in: 0..<(config.numClasses + 1))
    return (0..<steps).map { step in
      let range = (step * rows)..<((step + 1) * rows)
      return DiffusionBatch(
        latents: start.rows(step..<(step + 1)).reshaped(shape),
        noise: noise.rows(step..<(step + 1)).reshaped(shape), steps: Array(timesteps[range]),
        labels: Array(labels[range]))
    }
  }

  /// A parameter's name and layout.
  private struct Place {
    let name: String
    let rows, columns: Int
    /// Rows with zero gradient: the key bias of softmax attention shifts all scores of a query
    /// equally, so its gradient is rounding error, which Adam scales to full steps.
    let noise: Range<Int>

    init(_ parameter: Parameter) {
      name = parameter.name
      rows = parameter.shape[0]
      columns = parameter.count / max(1, rows)
      noise = name.hasSuffix("attn.qkv.bias") ? (rows / 3)..<(2 * rows / 3) : 0..<0
    }
  }

  /// Compares a tensor, or its row and column sums where the file holds those instead.
  private static func compare(
    _ check: ParityCheck, _ kind: String, _ place: Place, _ found: [Double], tolerance: Double,
    mean: Double? = nil
  ) throws {
    let whole = "out.\(kind).\(place.name)"
    if check.fixture.has(whole) {
      try check.absolute(
        whole, found, skipping: place.noise, tolerance: tolerance, mean: mean)
      return
    }
    let (rows, columns) = (place.rows, place.columns)
    var rowSums = [Double](repeating: 0, count: rows)
    var columnSums = [Double](repeating: 0, count: columns)
    for index in found.indices {
      rowSums[index / columns] += found[index]
      columnSums[index % columns] += found[index]
    }
    for (suffix, sums, length) in [("row", rowSums, columns), ("col", columnSums, rows)] {
      let name = "out.\(kind)_\(suffix).\(place.name)"
      guard check.fixture.has(name) else { continue }
      try check.absolute(name, sums, dividedBy: length, tolerance: tolerance, mean: mean)
    }
  }
}
