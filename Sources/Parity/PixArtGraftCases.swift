import Autograd
import Files
import Foundation
import Grafting
import Models
import Nn
import Operators
import Plans
import TensorCore

/// Grafted text-conditional transformers: teacher, hybrid and its low-rank adapters (`pixart_graft`).
enum PixArtGraftCases {
  private struct Inputs {
    let latents: Tensor
    let conditioning: Conditioning
  }

  /// Latents, times and captions of a fixture, or of the one that `inputs_from` names.
  private static func inputs(_ fixture: Fixture, _ config: PixArtConfig) throws -> Inputs {
    let source =
      fixture.settings.has("inputs_from")
      ? try fixture.beside(fixture.settings.text("inputs_from")) : fixture
    let latents = try source.tensor("in.latent", shape: [-1, config.inChannels, -1, -1])
    let rows = latents.shape[0]
    guard latents.shape[2...].allSatisfy({ $0 % config.patchSize == 0 }) else {
      throw FileError(
        "\(source.path): tensor 'in.latent' has shape \(latents.shape), expected sides that are multiples of"
          + " \(config.patchSize); the file is damaged, copy it again")
    }
    let captions = try source.tensor("in.caption", shape: [rows, -1, config.captionChannels])
    let mask = try source.tensor("in.caption_mask", shape: [rows, captions.shape[1]])
    try source.require("in.t", shape: [rows])
    return Inputs(
      latents: latents,
      conditioning: Conditioning(
        timesteps: try source.integers("in.t", in: 0..<1_000_000).map(Float.init),
        caption: Value(constant: captions), mask: mask))
  }

  private static func model(
    _ check: ParityCheck, edits: [SlotID: OperatorSpec] = [:]
  ) throws -> PixArt {
    let model = try PixArt(
      config: try PixArtCases.config(check.fixture), edits: edits,
      weights: RenamedWeights(try check.fixture.weights()) { PixArtKeyMap.keys($0, in: .diffusers) }
    )
    try check.requireNames(model.parameters.flatMap { model.diffusersKeys($0.name) })
    check.round(model.parameters)
    return model
  }

  /// Tensors of a block under the names of the fixtures.
  private static func activations(
    _ block: Int, _ seen: AdaLNBlock.Activations
  ) -> [String: Tensor] {
    let prefix = "transformer_blocks.\(block)."
    return [
      "\(prefix)in": seen.input, "\(prefix)attn1.in": seen.attentionInput,
      "\(prefix)attn1.out": seen.attentionOutput,
    ]
  }

  /// Output and activations of the teacher, and of its file in the original naming.
  static func teacher(_ check: ParityCheck) throws {
    let fixture = check.fixture
    let model = try model(check)
    let inputs = try inputs(fixture, model.config)
    var seen: [String: Tensor] = [:]
    let output = model(
      Value(constant: inputs.latents), inputs.conditioning, on: Tape(recording: false),
      observe: { if $0 == "t_block" { seen["adaln_mod"] = $1.tensor } },
      observeBlock: { seen.merge(activations($0, $1)) { $1 } })
    try check.forward("out.sample", output.tensor)
    if let modulation = seen["adaln_mod"] { try check.forward("out.adaln_mod", modulation) }
    for name in fixture.names("out.act.") {
      if let tensor = seen[String(name.dropFirst(8))] { try check.forward(name, tensor) }
    }
    let original = try fixture.path(inFolder: "teacher_original.pth")
    guard FileManager.default.fileExists(atPath: original) else { return }
    let file = try ModelWeights(path: original).model(numHeads: model.shape.numHeads)
    let other = try file.network()
    check.round(other.parameters)
    try check.forward(
      "out.sample", other.predict(inputs.latents, inputs.conditioning),
      remark: "teacher_original.pth")
  }

  /// The operators of a hybrid, one in the self-attention of every block that it names.
  private static func edits(_ fixture: Fixture) throws -> [SlotID: OperatorSpec] {
    let settings = fixture.settings
    let (name, taps) = (try settings.text("operator"), try settings.number("filter_length"))
    guard let descriptor = OperatorCatalog.descriptor(named: name) else {
      throw FileError("\(fixture.path): '\(name)' is no operator of this build")
    }
    var spec = OperatorSpec(name)
    for field in descriptor.openFields where field.key.contains("filter") {
      spec.config[field.key] = taps
    }
    return Dictionary(
      uniqueKeysWithValues: try settings.numbers("blocks").map {
        (SlotID(block: Int($0), slot: .attention), spec)
      })
  }

  /// Output and gradients of a hybrid, and the losses of stage 1 on the teacher's activations.
  static func hybrid(_ check: ParityCheck) throws {
    let fixture = check.fixture
    let edits = try edits(fixture)
    let model = try model(check, edits: edits)
    let inputs = try inputs(fixture, model.config)
    let tape = Tape()
    let leaf = tape.leaf(inputs.latents)
    let output = model(leaf, inputs.conditioning, on: tape)
    try check.forward("out.sample", output.tensor)
    let cotangent = try fixture.tensor("in.cotangent", shape: output.shape)
    try check.forward("out.L", [OperatorCases.inner(output.tensor, cotangent)])
    tape.backward(output, cotangent)
    try check.gradient("in.latent", tape.gradient(of: leaf) ?? .zeros(inputs.latents.shape))
    for id in edits.keys.sorted() {
      for parameter in model.replaceable(id).parameters {
        for key in model.diffusersKeys(parameter.name) {
          try check.gradient("param.\(key)", parameter.gradient ?? .zeros(parameter.shape))
        }
      }
    }
    let losses = try fixture.settings.table("stage1_losses")
    let slot = try losses.text("slot")
    guard let id = edits.keys.first(where: { slot == "transformer_blocks.\($0.block).attn1" })
    else {
      throw FileError(
        "\(fixture.path): config key 'stage1_losses.slot' is '\(slot)', which is no grafted one; the file is"
          + " damaged, copy it again")
    }
    let teacher = try fixture.beside(fixture.settings.texts("params_from").first ?? "")
    let shape = [inputs.latents.shape[0], -1, model.shape.hiddenSize]
    let given = try teacher.tensor("out.act.\(slot).in", shape: shape)
    let target = try teacher.tensor("out.act.\(slot).out", shape: shape)
    let replacement = model.replaceable(id)
    let student = replacement(Value(constant: given), on: Tape(recording: false)).tensor
    try check.forward("out.stage1.student_on_teacher_input", student)
    for (name, objective) in [
      ("l1", RegressionObjective.l1), ("l2", .l2), ("huber", .huber(delta: 1)),
    ] {
      let (found, expected) = (objective.loss(student, target), try losses.number(name))
      check.add("stage1_losses.\(name)", abs(found - expected) / abs(expected))
    }
  }

  /// Outputs with adapters at several scales, their gradients, merged weights, and every file of the adapters.
  static func adapters(_ check: ParityCheck) throws {
    let fixture = check.fixture
    let hybrid = try fixture.beside(fixture.settings.texts("params_from").last ?? "")
    let edits = try edits(hybrid)
    func fresh() throws -> PixArt {
      let model = try PixArt(
        config: try PixArtCases.config(hybrid), edits: edits,
        weights: RenamedWeights(try hybrid.weights()) { PixArtKeyMap.keys($0, in: .diffusers) })
      check.round(model.parameters)
      return model
    }
    let inputs = try inputs(fixture, try PixArtCases.config(hybrid))
    let files = try fixture.settings.table("files")
    func open(_ name: String) throws -> LoRAFile {
      try LoRAFile(path: fixture.path(inFolder: "lora/\(name)"))
    }
    for name in files.keys {
      let scale = try files.table(name).number("scale")
      let model = try fresh()
      try open(name).merge(into: model)
      let merged = model.predict(inputs.latents, inputs.conditioning)
      try check.forward("out.sample.scale\(scale.shortText)", merged, remark: name)
      guard scale == 1 else { continue }
      for parameter in model.parameters {
        let keys = model.diffusersKeys(parameter.name)
        for (part, key) in keys.enumerated() where fixture.has("out.merged.\(key)") {
          let rows = parameter.shape[0] / keys.count
          try check.forward(
            "out.merged.\(key)", parameter.value.rows((part * rows)..<((part + 1) * rows)),
            tolerance: try fixture.settings.table("tolerance").number("merged", default: 1e-6),
            remark: name)
        }
      }
    }
    // Gradients of the adapters at scale 1.
    guard let unit = try files.keys.first(where: { try files.table($0).number("scale") == 1 })
    else {
      throw FileError("\(fixture.path): no adapter has scale 1; copy the folder again")
    }
    let model = try fresh()
    for parameter in model.parameters { parameter.isFrozen = true }
    let adapted = try open(unit).adapters(for: model)
    for (parameter, parts) in adapted { parameter.adapter = joined(parts, of: parameter) }
    let tape = Tape()
    let output = model(Value(constant: inputs.latents), inputs.conditioning, on: tape)
    try check.forward("out.sample.scale1", output.tensor, remark: "adapters")
    let cotangent = try fixture.beside(fixture.settings.text("cotangent_from"))
      .tensor("in.cotangent", shape: output.shape)
    try check.forward("out.L", [OperatorCases.inner(output.tensor, cotangent)])
    tape.backward(output, cotangent)
    for (parameter, parts) in adapted {
      try gradients(check, of: parameter, parts, keys: model.diffusersKeys(parameter.name))
    }
  }

  /// One adapter of all parts of a parameter: A stacked, B block by block.
  private static func joined(
    _ parts: [LoRAFile.Adapter?], of parameter: Parameter
  ) -> LowRankAdapter {
    let ranks = parts.map { $0?.down.shape[0] ?? 0 }
    let rank = ranks.reduce(0, +)
    let rows = parameter.shape[0] / parts.count
    let down = Tensor([rank, parameter.shape[1]])
    let up = Tensor.zeros([parameter.shape[0], rank])
    var first = 0
    for (index, part) in parts.enumerated() {
      guard let part else { continue }
      down.rows(first..<(first + ranks[index])).assign(part.down)
      for row in 0..<rows {
        for column in 0..<ranks[index] {
          up[(index * rows + row) * rank + first + column] = part.up[row * ranks[index] + column]
        }
      }
      first += ranks[index]
    }
    return LowRankAdapter(
      down: Parameter("\(parameter.name).A", down), up: Parameter("\(parameter.name).B", up),
      scale: 1)
  }

  private static func gradients(
    _ check: ParityCheck, of parameter: Parameter, _ parts: [LoRAFile.Adapter?], keys: [String]
  ) throws {
    guard let adapter = parameter.adapter, let down = adapter.down.gradient,
      let up = adapter.up.gradient
    else {
      throw FileError("'\(parameter.name)': its adapter has no gradient")
    }
    let rank = adapter.down.shape[0]
    let rows = parameter.shape[0] / parts.count
    var first = 0
    for (index, part) in parts.enumerated() {
      guard let part else { continue }
      let own = part.down.shape[0]
      let module = keys[index].dropLast(".weight".count)
      try check.gradient("param.\(module).lora_A.weight", down.rows(first..<(first + own)))
      let block = Tensor([rows, own])
      for row in 0..<rows {
        for column in 0..<own {
          block[row * own + column] = up[(index * rows + row) * rank + first + column]
        }
      }
      try check.gradient("param.\(module).lora_B.weight", block)
      first += own
    }
  }
}

extension Double {
  /// The number without `.0`.
  fileprivate var shortText: String { Int(exactly: self).map(String.init) ?? String(self) }
}
