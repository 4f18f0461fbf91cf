import Checkpoints
import Foundation
import Plans
import Runs
import Testing

/// What goes to other programs and comes from them.
@Suite struct ExchangeTests {
  private func array(_ scratch: Scratch, _ name: String) throws -> (shape: [Int], values: [Float]) {
    let file = try Checkpoint.open("\(scratch.path)/\(name)")
    let entry = try #require(file.entry(file.names[0]))
    return (entry.shape, try file.floats(entry.name))
  }

  @Test func noiseGoesInAndLatentsComeOut() throws {
    let scratch = try Scratch()
    let model = try scratch.tinyModel()
    let channels = try #require(
      try Checkpoint.open("\(scratch.path)/\(model)").entry("x_embedder.proj.weight")?.shape[1])
    func noise(_ shape: [Int], _ name: String) throws {
      let count = shape.reduce(1, *)
      try NumpyWriter<Float>.write(to: "\(scratch.path)/\(name)", shape: shape) { writer in
        try writer?.add((0..<count).map { sin(Float($0 * $0 % 1009)) })
      }
    }
    try noise([3, channels, 16, 16], "noise.npy")
    let base = ["sample", model, "--steps", "2", "--classes", "4,1"]
    let outcome = try scratch.run(
      base + [
        "--noise", "noise.npy", "--latents", "l.npy", "--decoded", "d.npy", "--npz", "i.npz",
      ])
    #expect(outcome.code == 0, "\(outcome.complaint)")
    let (latents, decoded) = (try array(scratch, "l.npy"), try array(scratch, "d.npy"))
    #expect(latents.shape == [3, channels, 16, 16] && latents.values.allSatisfy(\.isFinite))
    #expect(decoded.shape == [3, 3, 64, 64])
    // The 8-bit images are the decoded ones, with the channels last.
    let images = try array(scratch, "i.npz")
    #expect(images.shape == [3, 64, 64, 3])
    let area = 64 * 64
    for index in stride(from: 0, to: images.values.count, by: 7) {
      let (pixel, channel) = (index / 3, index % 3)
      let value = decoded.values[(pixel / area * 3 + channel) * area + pixel % area]
      #expect(images.values[index] == min(255, max(0, 127.5 * value + 128)).rounded(.down))
    }

    // Other noise gives other latents; latents alone need no autoencoder; a smaller count is a prefix.
    #expect(try scratch.run(base + ["--count", "3", "--latents", "seed.npy"]).code == 0)
    #expect(try array(scratch, "seed.npy").values != latents.values)
    try FileManager.default.removeItem(atPath: "\(scratch.path)/autoencoder.safetensors")
    #expect(
      try scratch.run(base + ["--noise", "noise.npy", "--count", "1", "--latents", "one.npy"]).code
        == 0)
    let one = try array(scratch, "one.npy")
    #expect(one.shape == [1, channels, 16, 16])
    #expect(
      zip(one.values, latents.values).allSatisfy { abs($0 - $1) <= 1e-4 * max(1, abs($1)) })

    try noise([3, channels, 16, 8], "narrow.npy")
    try noise([channels, 16, 16], "flat.npy")
    for (file, text) in [("narrow.npy", "expected [3, "), ("flat.npy", "expected one (count")] {
      try scratch.expectRefusal(
        base + ["--noise", file, "--latents", "x.npy"], mentions: [file, text])
    }
    try scratch.expectRefusal(
      base + ["--noise", "noise.npy", "--count", "4", "--latents", "x.npy"],
      mentions: ["noise.npy", "expected [4, "])
    try scratch.expectRefusal(
      base + ["--noise", "gone.npy", "--latents", "x.npy"], mentions: ["gone.npy: no such file"])
    try scratch.expectRefusal(
      base + ["--latents", "x.npy", "--decoded", "x.npy"], code: 2, mentions: ["the same file"])
  }

  private struct ModelReport: Decodable {
    let container: String?
    let plan: String?
    let edits: [String: String]
  }

  /// A training checkpoint's entries are two models for every command; a plan belongs to one of them.
  @Test func entriesOfTrainingCheckpoints() throws {
    let scratch = try Scratch()
    let model = try scratch.tinyModel()
    let file = try Checkpoint.open("\(scratch.path)/\(model)")
    let items = try file.names.flatMap { name in
      let (entry, floats) = (try file.existing(name), try file.floats(name))
      return [("ema", Float(1)), ("model", 0.5)].map { container, factor in
        TensorItem(
          name: "\(container).\(name)", shape: entry.shape, floats: floats.map { $0 * factor })
      }
    }
    try TorchWriter.write(items, to: "\(scratch.path)/train.pt")
    let config = try #require(file.metadata["config"])
    try scratch.put("{\"config\": \(config)}", "train.pt.json")

    var latents: [String: [Float]] = [:]
    for name in [model, "train.pt", "train.pt#ema", "train.pt#model"] {
      let outcome = try scratch.espalier(
        "sample", name, "--count", "2", "--steps", "2", "--latents", "l.npy")
      #expect(outcome.code == 0, "\(outcome.complaint)")
      latents[name] = try array(scratch, "l.npy").values
      #expect(try scratch.espalier("analyze", name, "--samples", "1", "--json").code == 0)
      #expect(try scratch.espalier("evaluate", name, "--samples", "10", "--steps", "1").code == 0)
    }
    #expect(latents["train.pt"] == latents[model] && latents["train.pt#ema"] == latents[model])
    #expect(latents["train.pt#model"] != latents[model])

    let report: ModelReport = try scratch.espalier("inspect", "train.pt#model", "--json").json()
    #expect(report.container == "model")
    #expect(
      try scratch.espalier("convert", "train.pt#model", "--to", "plain.safetensors").code == 0)
    #expect(
      try Checkpoint.open("\(scratch.path)/plain.safetensors").floats("x_embedder.proj.weight")
        == file.floats("x_embedder.proj.weight").map { $0 * 0.5 })

    #expect(try scratch.espalier("plan", "new", "p.json", "--model", "train.pt#model").code == 0)
    #expect(
      try scratch.espalier(
        "plan", "set", "p.json", "--operator", "mlp", "--blocks", "0", "--steps", "2", "--batch",
        "2"
      ).code == 0)
    #expect(try scratch.text("p.json").contains("/train.pt#model\""))
    #expect(try scratch.espalier("plan", "validate", "p.json").code == 0)
    #expect(
      try scratch.espalier("plan", "validate", "p.json", "--model", "train.pt").code == 1)
    let distilled = try scratch.espalier("distill", "p.json", "--json")
    #expect(distilled.code == 0, "\(distilled.complaint)")

    try scratch.expectRefusal(
      ["inspect", "train.pt#opt"], mentions: ["train.pt: ", "'opt'", "ema, model"])
    try scratch.expectRefusal(
      ["analyze", "gone.pt#ema"], mentions: ["gone.pt: there is no such file"])
  }

  private struct Operator: Decodable {
    struct Setting: Decodable {
      let key: String
      let `default`, minimum, maximum: Double
    }
    let name: String
    let slots: [String]
    let settings: [Setting]
  }

  /// Every operator that is listed goes into one model, which is written and read as a PyTorch file.
  @Test func graftsAreConverted() throws {
    let scratch = try Scratch()
    let model = try scratch.tinyModel()
    let operators: [Operator] = try scratch.espalier("plan", "operators", "--json").json()
    let listing = try scratch.espalier("plan", "operators").output
    for item in operators {
      #expect(!item.slots.isEmpty && listing.contains("\(item.name) ("))
      for setting in item.settings {
        #expect((setting.minimum...setting.maximum).contains(setting.default), "\(setting.key)")
      }
    }
    #expect(operators.map(\.name).contains("hyena_x") && operators.map(\.name).contains("skip"))

    #expect(try scratch.espalier("plan", "new", "p.json", "--model", model).code == 0)
    #expect(
      try scratch.espalier(
        "plan", "set", "p.json", "--operator", "hyena_x", "--blocks", "1"
      ).code == 0)
    // Random weights are never written unasked.
    try scratch.expectRefusal(
      ["convert", model, "--plan", "p.json", "--to", "graft.pt"], code: 2,
      mentions: ["random weights", "--weights", "--fresh"])
    let outcome = try scratch.espalier(
      "convert", model, "--plan", "p.json", "--fresh", "--to", "graft.pt")
    #expect(outcome.code == 0, "\(outcome.complaint)")
    let report: ModelReport = try scratch.espalier("inspect", "graft.pt", "--json").json()
    #expect(report.plan == "p" && Array(report.edits.keys) == ["1.attention"])
    for arguments in [["graft.pt"], [model, "--plan", "p.json"]] {
      #expect(
        try scratch.run(
          ["sample"] + arguments + ["--count", "2", "--steps", "2", "--latents", "l.npy"]
        ).code == 0)
      try FileManager.default.moveItem(
        atPath: "\(scratch.path)/l.npy", toPath: "\(scratch.path)/\(arguments.count).npy")
    }
    #expect(try array(scratch, "1.npy").values == array(scratch, "3.npy").values)
    try scratch.expectRefusal(
      ["convert", model, "--plan", "p.json", "--fresh", "--to", "folder", "--naming", "diffusers"],
      mentions: ["has no name in diffusers"])
  }

  /// A stage-1 configuration names no blocks; they may be chosen by the model's measured scores.
  @Test func blocksOfAnImportMayBeChosenByScore() throws {
    let scratch = try Scratch()
    try scratch.put(
      "operator: {type: mha, name: hyena_y, config_filepath: op.yaml}\ntrain_config: {epochs: 3}",
      "stage1.yaml")
    try scratch.put(
      "d_model: 64\nl_max: 1024\norder: 2\ninner_factor: 1\nnum_heads: 1\nnum_blocks: 1\n"
        + "inner_filter_len: 4", "op.yaml")
    func imported(_ blocks: String) throws -> Outcome {
      try scratch.run([
        "plan", "import", "stage1.yaml", "plan.json", "--model", "demo", "--blocks", blocks,
        "--force",
      ])
    }
    let unmeasured = try imported("top 8 by L32")
    #expect(unmeasured.code == 1 && unmeasured.complaint.contains("espalier analyze demo"))

    #expect(try imported("0").code == 0)
    let reference = try GraftPlan.load(path: "\(scratch.path)/plan.json").model
    let summary = ActivationSummary(mean: 0, variance: 1, maxAbs: 1, kurtosis: 3)
    // The most local blocks lie at both ends, and other bands say otherwise.
    let shares = (0..<28).map { (Double($0) - 13.2) * (Double($0) - 13.2) / 250 }
    try ModelAnalysis(
      modelHash: reference.contentHash, bands: [1, 32], samples: 1, timesteps: [0],
      blocks: shares.map {
        BlockAnalysis(attention: summary, mlp: summary, locality: [0.9 - $0, $0])
      }
    ).save(
      to: ModelAnalysis.cachePath(
        modelHash: reference.contentHash, environment: ["XDG_CACHE_HOME": "\(scratch.path)/cache"]))
    for (blocks, expected) in [
      ("top 8 by L32", [0, 1, 2, 3, 24, 25, 26, 27]), ("top 1 by L1", [13]),
      ("L32 > 0.5 and odd", [1, 25, 27]),
    ] {
      let outcome = try imported(blocks)
      #expect(outcome.code == 0, "\(outcome.complaint)")
      let plan = try GraftPlan.load(path: "\(scratch.path)/plan.json")
      #expect(plan.edits.keys.sorted().map(\.block) == expected, "\(blocks)")
      #expect(plan.edits.allSatisfy { $0.key.slot == .attention && $0.value.name == "hyena_y" })
    }
    let unknown = try imported("top 8 by beauty")
    #expect(unknown.code == 1 && unknown.complaint.contains("--blocks"))
  }

  /// A graft of the tiny model in the layout of the released ones, `ema` alone and no plan, for every
  /// command that takes a model; what only a teacher can be, it is not.
  @Test func officialGraftsAreModels() throws {
    let scratch = try Scratch()
    let model = try scratch.tinyModel()
    #expect(try scratch.espalier("plan", "new", "p.json", "--model", model).code == 0)
    for (blocks, operator_) in [("1", "swa"), ("0", "mamba2")] {
      let outcome = try scratch.espalier(
        "plan", "set", "p.json", "--operator", operator_, "--blocks", blocks, "--config",
        operator_ == "swa" ? "window_left=2" : "headdim=16")
      #expect(outcome.code == 0, "\(outcome.complaint)")
    }
    let converted = try scratch.espalier(
      "convert", model, "--plan", "p.json", "--fresh", "--to", "ours.pt", "--entry", "ema")
    #expect(converted.code == 0, "\(converted.complaint)")
    let file = try Checkpoint.open("\(scratch.path)/ours.pt")
    #expect(file.names.allSatisfy { $0.hasPrefix("ema.") })
    func latents(_ arguments: String...) throws -> [Float] {
      let outcome = try scratch.run(
        ["sample"] + arguments + ["--count", "2", "--steps", "2", "--latents", "l.npy"])
      #expect(outcome.code == 0, "\(outcome.complaint)")
      return try array(scratch, "l.npy").values
    }
    let expected = try latents(model, "--plan", "p.json")
    #expect(try latents("ours.pt") == expected)

    // Without the plan beside it, as others write it.
    let config = try Checkpoint.open("\(scratch.path)/\(model)").metadata["config"]
    try scratch.put("{\"config\": \(try #require(config))}", "ours.pt.json")
    let report: ModelReport = try scratch.espalier("inspect", "ours.pt", "--json").json()
    #expect(report.plan == nil && report.edits.keys.sorted() == ["0.attention", "1.attention"])
    let assumed = try scratch.espalier(
      "sample", "ours.pt", "--count", "1", "--steps", "1", "--latents", "x.npy")
    #expect(assumed.code == 0 && assumed.complaint.contains("window_left 4"))
    #expect(try latents("ours.pt") != expected)
    #expect(try latents("ours.pt", "--plan", "p.json") == expected)
    #expect(
      try scratch.espalier("evaluate", "ours.pt", "--samples", "10", "--steps", "1").code == 0)
    #expect(try scratch.espalier("analyze", "ours.pt", "--samples", "1", "--json").code == 0)
    let again = try scratch.espalier(
      "convert", "ours.pt", "--plan", "p.json", "--to", "again.safetensors")
    #expect(again.code == 0, "\(again.complaint)")
    #expect(try latents("again.safetensors") == expected)
    try scratch.expectRefusal(
      ["plan", "new", "x.json", "--model", "ours.pt"], mentions: ["ours.pt", "a graft of"])
    try scratch.expectRefusal(
      ["sample", "ours.pt", "--plan", "p.json", "--weights", "ours.pt", "--latents", "x.npy"],
      code: 2, mentions: ["--weights"])

    // Its weights are those of a run for stage 2, and for a plan's graft.
    #expect(
      try latents(model, "--plan", "p.json", "--weights", "ours.pt") == expected)
    var plan = try GraftPlan.load(path: "\(scratch.path)/p.json")
    (plan.stage2.steps, plan.stage2.batchSize, plan.stage2.heldOutSamples) = (2, 2, 2)
    try plan.save(to: "\(scratch.path)/p.json")
    _ = try scratch.tinyLatents()
    let finetuned = try scratch.run(
      ["finetune", "p.json", "--from", "ours.pt", "--data", "data", "--json"])
    #expect(finetuned.code == 0, "\(finetuned.complaint)")
  }

  /// A model without learned variance is sampled, analysed and finetuned.
  @Test func modelsWithoutVariance() throws {
    let scratch = try Scratch()
    let model = try scratch.tinyModel(learnSigma: false)
    for sampler in ["ddim", "ancestral", "dpmpp"] {
      let outcome = try scratch.espalier(
        "sample", model, "--sampler", sampler, "--count", "1", "--steps", "2", "--latents", "l.npy")
      #expect(outcome.code == 0, "\(outcome.complaint)")
      #expect(try array(scratch, "l.npy").values.allSatisfy(\.isFinite))
    }
    #expect(try scratch.espalier("analyze", model, "--samples", "1", "--json").code == 0)
    #expect(try scratch.espalier("plan", "new", "p.json", "--model", model).code == 0)
    #expect(
      try scratch.espalier("plan", "set", "p.json", "--operator", "hyena_x", "--blocks", "1").code
        == 0)
    var plan = try GraftPlan.load(path: "\(scratch.path)/p.json")
    (plan.stage2.steps, plan.stage2.batchSize, plan.stage2.heldOutSamples) = (2, 2, 2)
    try plan.save(to: "\(scratch.path)/p.json")
    _ = try scratch.tinyLatents()
    let finetuned = try scratch.run(["finetune", "p.json", "--data", "data", "--json"])
    #expect(finetuned.code == 0, "\(finetuned.complaint)")
  }

  @Test func float16OverflowIsTold() throws {
    let scratch = try Scratch()
    let model = try scratch.tinyModel()
    let file = try SafetensorsFile(path: "\(scratch.path)/model.safetensors")
    let name = "blocks.0.attn.proj.bias"
    let items = try file.names.map { key in
      var floats = try file.floats(key)
      if key == name { (floats[1], floats[2], floats[3]) = (7e4, -1e5, 65519) }
      return TensorItem(name: key, shape: file.entry(key)?.shape ?? [], floats: floats)
    }
    try SafetensorsWriter.write(
      items, metadata: file.metadata, to: "\(scratch.path)/model.safetensors")
    let half = try scratch.espalier("convert", model, "--dtype", "f16", "--to", "half.safetensors")
    #expect(half.code == 0)
    #expect(
      half.complaint.contains("2 numbers are too large for float16")
        && half.complaint.contains("the first in '\(name)'"), "\(half.complaint)")
    // What is infinite is not sampled.
    try scratch.expectRefusal(
      ["sample", "half.safetensors", "--latents", "x.npy"],
      mentions: ["'\(name)' holds a value at [1]"])
    let rounded = try scratch.espalier(
      "convert", model, "--dtype", "bf16", "--to", "rounded.safetensors")
    #expect(rounded.code == 0 && !rounded.complaint.contains("too large"))
  }
}
