import Autograd
import Files
import Nn
import Operators
import TensorCore

/// Activation distillation of one operator: loss curves, gradient norms and final parameters
/// (`stage1_ref`).
enum Stage1Cases {
  /// Returns a sentence if the registry lacks the student operator.
  static func refusal(_ fixture: Fixture) throws -> String? {
    OperatorCases.missing(try fixture.settings.table("student").text("op"))
  }

  /// Trains the student once per regression objective, as stage 1 does.
  static func run(_ check: ParityCheck) throws {
    let fixture = check.fixture
    let settings = fixture.settings
    let student = try settings.table("student")
    let shape = [
      try settings.integer("samples", in: 1...1_000_000), try settings.integer("N", in: 1...65536),
      try student.integer("d", in: 1...65536),
    ]
    let inputs = try fixture.tensor("in.x", shape: shape)
    let targets = try fixture.tensor("in.y", shape: shape)
    let clipping = try settings.table("clip_grad_norm")
    let tolerance = try settings.table("tolerance")
    let finals = try tolerance.table("final_abs")
    for tag in clipping.keys {
      let objective = try objective(tag, settings, fixture)
      let module = try OperatorCases.build(student, tokens: shape[1], in: fixture)
      try check.requireNames(module.parameters)
      let curves = try train(
        module, inputs, targets, objective, settings, clipNorm: Float(try clipping.number(tag)))
      let loss = try tolerance.number("loss")
      try check.forward("out.loss.\(tag)", curves.losses, tolerance: loss)
      try check.forward(
        "out.grad_norm.\(tag)", curves.norms, tolerance: try tolerance.number("grad_norm"))
      let output = module(Value(constant: inputs), on: Tape(recording: false)).tensor
      try check.forward(
        "out.final_full_loss.\(tag)", [objective.loss(output, targets)], tolerance: loss)
      for parameter in module.parameters {
        let name = "out.final.\(tag).\(parameter.name)"
        guard fixture.has(name) else { continue }
        try check.absolute(name, parameter.value, tolerance: try finals.number(tag))
      }
    }
  }

  /// Parses `l1`, `l2` or `huber`, with an optional suffix such as `_clip`.
  private static func objective(_ tag: String, _ settings: Settings, _ fixture: Fixture) throws
    -> RegressionObjective
  {
    switch tag.split(separator: "_").first {
    case "l1": return .l1
    case "l2": return .l2
    case "huber": return .huber(delta: Float(try settings.number("huber_delta", default: 1)))
    default:
      throw FileError(
        "\(fixture.path): '\(tag)' in 'clip_grad_norm' names no objective, expected l1, l2 or huber;"
          + " the file is damaged, copy it again")
    }
  }

  private static func train(
    _ module: any GraftOperator, _ inputs: Tensor, _ targets: Tensor,
    _ objective: RegressionObjective, _ settings: Settings, clipNorm: Float
  ) throws -> (losses: [Double], norms: [Double]) {
    let adam = try settings.table("optimizer")
    let betas = try adam.numbers("betas")
    // The weight source shares the tensors of the fixture, so copies are trained.
    for parameter in module.parameters { parameter.update { $0 = $0.copied() } }
    let optimizer = AdamW(
      module.parameters, beta1: Float(betas.first ?? 0.9), beta2: Float(betas.last ?? 0.999),
      epsilon: Float(try adam.number("eps")), weightDecay: Float(try adam.number("weight_decay")))
    let rate = Float(try adam.number("lr"))
    let rows = try settings.integer("batch", in: 1...65536)
    var losses: [Double] = []
    var norms: [Double] = []
    for step in 0..<(try settings.integer("steps", in: 1...100_000)) {
      let indices = (0..<rows).map { (rows * step + $0) % inputs.shape[0] }
      let tape = Tape()
      let output = module(Value(constant: gather(inputs, indices)), on: tape)
      let (loss, gradient) = objective.lossAndGradient(output.tensor, gather(targets, indices))
      tape.backward(output, gradient)
      losses.append(loss)
      norms.append(optimizer.step(rate: rate, clipNorm: clipNorm))
    }
    return (losses, norms)
  }

  private static func gather(_ tensor: Tensor, _ rows: [Int]) -> Tensor {
    let result = Tensor([rows.count] + tensor.shape.dropFirst())
    for (place, row) in rows.enumerated() {
      result.rows(place..<(place + 1)).assign(tensor.rows(row..<(row + 1)))
    }
    return result
  }
}
