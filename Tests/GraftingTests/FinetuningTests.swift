import Autograd
import Checkpoints
import Datasets
import Files
import Foundation
import Grafting
import Models
import Nn
import Operators
import Plans
import Sampling
import TensorCore
import TestSupport
import Testing
import Training

@MainActor @Suite("Finetuning")
struct FinetuningTests {
  private let attention = SlotID(block: 1, slot: .attention)
  private let mlp = SlotID(block: 0, slot: .mlp)

  private func plan(_ change: (inout Stage2Settings) -> Void = { _ in }) -> GraftPlan {
    var plan = TinyModel.plan([attention: OperatorSpec("hyena_x"), mlp: OperatorSpec("mlp")])
    plan.stage2.steps = 12
    plan.stage2.batchSize = 6
    plan.stage2.warmupSteps = 3
    plan.stage2.learningRate = 2e-3
    plan.stage2.heldOutSamples = 10
    plan.stage2.loraRank = 3
    plan.stage2.loraAlpha = 6
    change(&plan.stage2)
    return plan
  }

  private func finetuning(_ plan: GraftPlan, teacher: DiT? = nil) throws -> Finetuning {
    try Finetuning(
      graft: try Graft(fresh: plan, teacher: try teacher ?? TinyModel.make()),
      dataset: TinyModel.latents(seed: 1), heldOut: TinyModel.latents(seed: 2))
  }

  private func values(_ finetuning: Finetuning) -> [[Float]] {
    finetuning.model.parameters.flatMap { [$0] + $0.trained }.map(\.value.values)
  }

  private func withFolder(_ body: (String) throws -> Void) throws {
    let folder = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    try body(folder.path)
  }

  /// Every way to train, each with something else switched on.
  nonisolated static let ways: [@Sendable (inout Stage2Settings) -> Void] = [
    { $0.trained = .all },
    {
      $0.trained = .grafts
      $0.recompute = true
    },
    {
      $0.trained = .graftsAndNorms
      $0.distillationWeight = 0.5
    },
    {
      $0.trained = .lastBlocks
      $0.milestones = [0.5]
    },
    {
      $0.trained = .lora
      $0.loraTargets = ModelFamily.dit.adaptedLayers
      $0.distillationWeight = 0.3
      $0.emaWarmup = false
    },
    {
      $0.diffusionWeight = 0
      $0.distillationWeight = 1
      $0.distillsNull = true
      $0.inheritedRate = 0.3
    },
    {
      $0.diffusionWeight = 0.5
      $0.featureWeight = 2
      $0.featureOutliers = 1.5
      $0.recompute = true
    },
    {
      $0.optimizer = .muon
      $0.weightDecay = 0.01
      $0.inheritedRate = 0.5
      $0.diffusionWeight = 0
      $0.distillationWeight = 1
      $0.varianceWeight = 0.1
      $0.teacherSamples = 18
    },
  ]

  /// Interrupted after any step and taken up from the file by another process's object, it goes on as if
  /// nothing had happened: all losses and all weights are the same to the last bit.
  @Test(arguments: ways.indices)
  func resumedRunsAreTheSameToTheLastBit(way: Int) throws {
    let plan = plan(Self.ways[way])
    try withFolder { folder in
      let whole = try finetuning(plan)
      var losses: [Double] = []
      var norms: [Double] = []
      var checkpoints: [Int: String] = [:]
      for step in 0..<plan.stage2.steps {
        if [0, 1, 5, 11].contains(step) {
          let path = "\(folder)/\(step).safetensors"
          try whole.saveCheckpoint(to: path)
          checkpoints[step] = path
        }
        let report = whole.trainStep()
        losses.append(report.loss)
        norms.append(report.gradientNorm)
      }
      let (end, heldOut) = (values(whole), whole.heldOutLoss())
      try whole.saveModel(to: folder + "/whole.safetensors", teacherMetadata: [:])
      let bytes = try Data(contentsOf: URL(fileURLWithPath: folder + "/whole.safetensors"))
      for (step, path) in checkpoints {
        let resumed = try finetuning(plan)
        try resumed.resume(from: path)
        #expect(resumed.step == step)
        for index in step..<plan.stage2.steps {
          let report = resumed.trainStep()
          #expect(report.loss == losses[index] && report.gradientNorm == norms[index], "\(index)")
        }
        #expect(values(resumed) == end && resumed.heldOutLoss() == heldOut)
        try resumed.saveModel(to: folder + "/again.safetensors", teacherMetadata: [:])
        #expect(
          try Data(contentsOf: URL(fileURLWithPath: folder + "/again.safetensors")) == bytes)
      }
    }
  }

  @Test func checkpointsOfOtherGeneratorsAreRefused() throws {
    try withFolder { folder in
      let (run, path) = (try finetuning(plan()), folder + "/checkpoint.safetensors")
      try run.saveCheckpoint(to: path)
      try PretrainingTests.replaceGenerator(in: path, by: "dice")
      let error = #expect(throws: FileError.self) { try run.resume(from: path) }
      #expect(error?.message.contains("is 'dice', expected 'philox4x32-10'") == true)
    }
  }

  @Test(arguments: ways.indices)
  func recomputingIsTheSameToTheLastBit(way: Int) throws {
    let settings = plan(Self.ways[way])
    func train(_ recompute: Bool) throws -> ([Double], [[Float]]) {
      var plan = settings
      plan.stage2.recompute = recompute
      let run = try finetuning(plan)
      let reports = (0..<4).map { _ in run.trainStep() }
      return (reports.flatMap { [$0.loss, $0.gradientNorm] }, values(run))
    }
    let (kept, again) = (try train(false), try train(true))
    #expect(kept.0 == again.0 && kept.1 == again.1)
  }

  /// What moves, and that the teacher never does.
  @Test(arguments: ways.indices)
  func trainsWhatThePlanSays(way: Int) throws {
    let plan = plan(Self.ways[way])
    let teacher = try TinyModel.make()
    let kept = teacher.parameters.map(\.value.values)
    let run = try finetuning(plan, teacher: teacher)
    let before = Dictionary(
      uniqueKeysWithValues: run.model.parameters.map { ($0.name, $0.value.values) })
    for _ in 0..<3 { _ = run.trainStep() }
    let grafts = ["blocks.1.attn.", "blocks.0.mlp."]
    for parameter in run.model.parameters {
      let name = parameter.name
      let isGraft = grafts.contains(where: name.hasPrefix)
      let isTrained =
        switch plan.stage2.trained {
        case .all: name != "pos_embed"
        case .grafts, .lora: isGraft
        case .graftsAndNorms: isGraft || name.contains("adaLN_modulation")
        case .lastBlocks: name.hasPrefix("blocks.1.") || name.hasPrefix("final_layer.")
        }
      #expect((parameter.value.values != before[name]) == isTrained, "\(name)")
      let isAdapted =
        plan.stage2.trained == .lora && !isGraft && name.hasPrefix("blocks.")
        && name.hasSuffix(".weight")
      #expect((parameter.adapter != nil) == isAdapted, "\(name)")
      if let adapter = parameter.adapter {
        #expect(adapter.scale == 2 && adapter.down.value.shape[0] == 3)
        #expect(adapter.up.value.values.contains { $0 != 0 }, "\(name)")
      }
    }
    #expect(teacher.parameters.map(\.value.values) == kept)
    for parameter in teacher.parameters {
      #expect(parameter.gradient == nil && parameter.isFrozen == (parameter.name == "pos_embed"))
    }
  }

  /// The first steps by the definition: no averages, no parts, the same optimizer and batches.
  @Test func trainsByTheDefinition() throws {
    let plan = plan {
      $0.microBatch = 6
      $0.milestones = [0.25]
      $0.distillationWeight = 0.4
      $0.weightDecay = 0.01
    }
    let teacher = try TinyModel.make()
    let run = try finetuning(plan, teacher: teacher)
    let model = try Graft(fresh: plan, teacher: teacher).model
    let trained = model.parameters.filter { !$0.isFrozen }
    for parameter in trained { parameter.update { $0 = $0.copied() } }
    let optimizer = AdamW(trained, weightDecay: 0.01)
    let diffusion = try GaussianDiffusion(spacing: "")
    let dataset = TinyModel.latents(seed: 1)
    for step in 0..<5 {
      let batch = dataset.batch(
        0..<6, seed: plan.seed, name: "stage2/\(step)", nullClass: 3, labelDropout: 0.1)
      let noisy = diffusion.noisy(batch.latents, noise: batch.noise, steps: batch.steps)
      let conditioning = Conditioning(
        timesteps: batch.steps.map(Float.init), labels: batch.labels)
      let tape = Tape()
      let output = model(Value(constant: noisy), conditioning, on: tape)
      let target = teacher.predict(noisy, conditioning)
      let gradient = diffusion.lossGradient(
        modelOutput: output.tensor, start: batch.latents, latents: noisy, noise: batch.noise,
        steps: batch.steps)
      var distance = 0.0
      for index in 0..<gradient.count {
        let difference = output.tensor[index] - target[index]
        distance += Double(difference) * Double(difference) / Double(gradient.count)
        gradient[index] += 0.4 * 2 * difference / Float(gradient.count)
      }
      let terms = diffusion.trainingLoss(
        modelOutput: output.tensor, start: batch.latents, latents: noisy, noise: batch.noise,
        steps: batch.steps)
      let mean = terms.loss.reduce(0) { $0 + Double($1) } / 6
      tape.backward(output, gradient)
      let rate = 2e-3 * min(1, Double(step + 1) / 3) * (step >= 3 ? 0.5 : 1)
      let norm = optimizer.step(rate: Float(rate), clipNorm: 10)
      let report = run.trainStep()
      #expect(abs(report.losses.distillation - distance) < 1e-5 * distance)
      #expect(abs(report.loss - mean - 0.4 * distance) < 1e-5 * report.loss, "step \(step)")
      #expect(abs(report.gradientNorm - norm) < 1e-4 * norm)
    }
  }

  /// All of the teacher's terms by their definitions, in double precision where they are sums.
  @Test func theTeachersTermsByTheirDefinitions() throws {
    let plan = plan {
      $0.microBatch = 4
      $0.steps = 4
      $0.clipNorm = 1e9
      $0.diffusionWeight = 0.7
      $0.distillationWeight = 0.4
      $0.distillsNull = true
      $0.varianceWeight = 0.2
      $0.featureWeight = 0.3
      $0.featureOutliers = 1.2
      $0.inheritedRate = 0.1
      $0.weightDecay = 0.01
    }
    let teacher = try TinyModel.make()
    let run = try finetuning(plan, teacher: teacher)
    let model = try #require(try Graft(fresh: plan, teacher: teacher).model as? DiT)
    let trained = model.parameters.filter { !$0.isFrozen }
    for parameter in trained { parameter.update { $0 = $0.copied() } }
    let grafts = ["blocks.1.attn.", "blocks.0.mlp."]
    // One optimizer for each rate, without clipping.
    let new = AdamW(
      trained.filter { p in grafts.contains(where: p.name.hasPrefix) }, weightDecay: 0.01)
    let old = AdamW(
      trained.filter { p in !grafts.contains(where: p.name.hasPrefix) }, weightDecay: 0.01)
    let diffusion = try GaussianDiffusion(spacing: "")
    let dataset = TinyModel.latents(seed: 1)
    for step in 0..<4 {
      let batches = [0.1, 1].map {
        dataset.batch(
          0..<6, seed: plan.seed, name: "stage2/\(step)", nullClass: 3, labelDropout: $0)
      }
      #expect(batches[1].labels == [Int](repeating: 3, count: 6))
      let noisy = diffusion.noisy(
        batches[0].latents, noise: batches[0].noise, steps: batches[0].steps)
      let tape = Tape()
      var seeds: [(Value, Tensor)] = []
      var (loss, distance, apart) = (0.0, 0.0, 0.0)
      for (index, batch) in batches.enumerated() {
        let conditioning = Conditioning(
          timesteps: batch.steps.map(Float.init), labels: batch.labels)
        var found: [String: Value] = [:]
        var wanted: [String: Value] = [:]
        let output = model(
          Value(constant: noisy), conditioning, on: tape, observe: { found[$0] = $1 })
        let target = teacher(
          Value(constant: noisy), conditioning, on: Tape(recording: false),
          observe: { wanted[$0] = $1 }
        ).tensor
        var gradient = Tensor.zeros(output.shape)
        if index == 0 {
          gradient = diffusion.lossGradient(
            modelOutput: output.tensor, start: batch.latents, latents: noisy, noise: batch.noise,
            steps: batch.steps)
          for k in 0..<gradient.count { gradient[k] *= 0.7 }
          let terms = diffusion.trainingLoss(
            modelOutput: output.tensor, start: batch.latents, latents: noisy, noise: batch.noise,
            steps: batch.steps)
          loss = terms.loss.reduce(0) { $0 + Double($1) } / 6
        }
        let plane = output.shape[2] * output.shape[3]
        for k in 0..<gradient.count {
          let difference = Double(output.tensor[k] - target[k])
          let isNoise = k / plane % output.shape[1] < noisy.shape[1]
          let share = 0.5 * (isNoise ? 1 : 0.2) / Double(gradient.count)
          distance += share * difference * difference
          gradient[k] += Float(share * 0.4 * 2 * difference)
        }
        seeds.append((output, gradient))
        // Both blocks have a replaced operator, so both count.
        for name in ["blocks.0.out", "blocks.1.out"] {
          let value = try #require(found[name])
          let (s, t) = (value.tensor, try #require(wanted[name]).tensor)
          let slope = Tensor.zeros(s.shape)
          let width = s.count / 6
          for row in 0..<6 {
            let places = (row * width)..<((row + 1) * width)
            let mean = places.reduce(0) { $0 + Double(t[$1]) } / Double(width)
            let variance =
              places.reduce(0) { $0 + (Double(t[$1]) - mean) * (Double(t[$1]) - mean) }
              / Double(width)
            let kept = places.filter { abs(Double(t[$0]) - mean) <= 1.2 * variance.squareRoot() }
            #expect(kept.count > width / 2 && kept.count < width)
            let scale = kept.reduce(0) { $0 + Double(t[$1]) * Double(t[$1]) }
            for k in kept {
              let difference = Double(s[k]) - Double(t[k])
              apart += difference * difference / scale / 6 / 2 / 2
              let weight = 0.3 * (1 - Double(step) / 4)
              slope[k] = Float(weight * 2 * difference / scale / 6 / 2 / 2)
            }
          }
          seeds.append((value, slope))
        }
      }
      tape.backward(seeds)
      let rate = 2e-3 * min(1, Double(step + 1) / 3)
      let norms = [new.step(rate: Float(rate)), old.step(rate: Float(0.1 * rate))]
      let report = run.trainStep()
      let all = 0.7 * loss + 0.4 * distance + 0.3 * (1 - Double(step) / 4) * apart
      #expect(abs(report.losses.distillation - distance) < 1e-5 * distance, "step \(step)")
      #expect(abs(report.losses.features - apart) < 1e-5 * apart, "step \(step)")
      #expect(abs(report.loss - all) < 1e-5 * all, "step \(step)")
      let norm = (norms[0] * norms[0] + norms[1] * norms[1]).squareRoot()
      #expect(abs(report.gradientNorm - norm) < 1e-4 * norm, "step \(step)")
    }
  }

  /// Batches come again after as many samples as the plan says, and the teacher is not asked a second time.
  @Test func theTeachersOutputsAreKept() throws {
    let plan = plan {
      $0.diffusionWeight = 0
      $0.distillationWeight = 1
      $0.teacherSamples = 12
      $0.microBatch = 4
      $0.learningRate = 1e-12
    }
    let teacher = try TinyModel.make()
    let run = try finetuning(plan, teacher: teacher)
    let first = (0..<2).map { _ in run.trainStep().loss }
    for parameter in teacher.parameters {
      parameter.update { value in value = Tensor(value.values.map { $0 + 1 }, shape: value.shape) }
    }
    let again = (0..<4).map { _ in run.trainStep().loss }
    #expect(abs(first[0] - first[1]) > 0.01 * first[0])
    for (index, loss) in again.enumerated() {
      #expect(abs(loss - first[index % 2]) < 1e-4 * loss, "\(index)")
    }
    // A teacher that had been asked again would have said something else.
    let other = try finetuning(plan, teacher: teacher)
    #expect(abs(other.trainStep().loss - first[0]) > 0.01 * first[0])
  }

  /// Without the diffusion loss a graft comes closer to its teacher, and the held-out loss says how close.
  @Test func distillationAloneLearnsTheTeacher() throws {
    let plan = plan {
      $0.diffusionWeight = 0
      $0.distillationWeight = 1
      $0.distillsNull = true
      $0.learningRate = 5e-3
      $0.batchSize = 12
    }
    let teacher = try TinyModel.make()
    let run = try finetuning(plan, teacher: teacher)
    let before = run.heldOutLoss()
    // The teacher itself is at no distance.
    var same = plan
    same.edits = [:]
    #expect(try finetuning(same, teacher: teacher).heldOutLoss() == 0)
    for _ in 0..<30 { _ = run.trainStep() }
    #expect(run.heldOutLoss() < 0.75 * before)
  }

  /// An error of the teacher's outputs in outliers alone costs nothing.
  @Test func outliersAreLeftOut() throws {
    let wanted = RandomStream(seed: 3, "features").normal([2, 5, 8])
    wanted[7] = 40
    let found = wanted.copied()
    found[7] = -3
    func distance(_ deviations: Double) throws -> (loss: Double, gradient: Tensor) {
      Distillation(
        teacher: try TinyModel.make(), weight: 1, outlierDeviations: deviations
      ).relativeDistance(found, wanted)
    }
    let (all, kept) = (try distance(0), try distance(3))
    #expect(all.loss > 0.3 && all.gradient[7] < 0)
    #expect(kept.loss == 0 && kept.gradient.values.allSatisfy { $0 == 0 })
  }

  /// An exported model has the keys of a plain one and draws what the finetuned one with its averages does.
  @Test func adaptersAreMergedOnExport() throws {
    let plan = plan {
      $0.trained = .lora
      $0.loraTargets = [.qkv, .fc2, .modulation]
      $0.learningRate = 0.05
    }
    try withFolder { folder in
      let teacher = try TinyModel.make()
      let run = try finetuning(plan, teacher: teacher)
      for _ in 0..<6 { _ = run.trainStep() }
      let path = folder + "/model.safetensors"
      try run.saveModel(
        to: path,
        teacherMetadata: try DiTFile.metadata(
          config: TinyModel.config, classNames: [], name: "tiny"))
      let file = try DiTFile(path: path)
      #expect(file.plan == plan)
      #expect(Set(file.tensors.names) == Set(run.model.parameters.map(\.name)))
      let loaded = try file.load()
      // The held-out loss is that of the averaged weights.
      var measured = plan
      measured.stage2.trained = .all
      let graft = try Graft(plan: measured, teacher: teacher, checkpoints: [path])
      #expect(loaded.parameters.map(\.value.values) == graft.model.parameters.map(\.value.values))
      let exported = try Finetuning(
        graft: graft, dataset: TinyModel.latents(seed: 1), heldOut: TinyModel.latents(seed: 2))
      let (before, after) = (
        try finetuning(plan, teacher: teacher).heldOutLoss(), exported.heldOutLoss()
      )
      #expect(abs(after - run.heldOutLoss()) < 1e-5 * after)
      #expect(abs(after - before) > 1e-3 * before, "nothing was learnt")
    }
  }

  /// A model that was finetuned everywhere gives a graft all its weights, operators alone give theirs.
  @Test func wholeModelsGiveAllTheirWeights() throws {
    try withFolder { folder in
      let teacher = try TinyModel.make()
      let run = try finetuning(plan(), teacher: teacher)
      for _ in 0..<3 { _ = run.trainStep() }
      let path = folder + "/model.safetensors"
      try run.saveModel(to: path, teacherMetadata: [:])
      let file = try SafetensorsFile(path: path)
      func stored(_ name: String) throws -> [Float] { try file.floats(name) }

      let same = try Graft(plan: plan(), teacher: teacher, checkpoints: [path])
      #expect(same.untrained.isEmpty)
      for parameter in same.model.parameters {
        #expect(try parameter.value.values == stored(parameter.name), "\(parameter.name)")
      }
      // One slot is replaced otherwise, one has the teacher's operator back.
      var other = plan()
      other.edits[attention] = OperatorSpec("swa")
      other.edits[mlp] = nil
      let mixed = try Graft(plan: other, teacher: teacher, checkpoints: [path])
      #expect(mixed.untrained == [.slot(attention)])
      let teachers = Dictionary(
        uniqueKeysWithValues: teacher.parameters.map { ($0.name, $0.value.values) })
      for parameter in mixed.model.parameters where !parameter.name.hasPrefix("blocks.1.attn.") {
        let isTeachers = parameter.name.hasPrefix("blocks.0.mlp.")
        let expected = isTeachers ? teachers[parameter.name] : try stored(parameter.name)
        #expect(parameter.value.values == expected, "\(parameter.name)")
      }
      var foreign = plan()
      foreign.model.contentHash = "else"
      let error = #expect(throws: FileError.self) {
        try Graft(plan: foreign, teacher: teacher, checkpoints: [path])
      }
      #expect(error?.message.contains("was grafted from another model") == true)
    }
  }

  @Test func learns() throws {
    let plan = plan {
      $0.learningRate = 1e-2
      $0.batchSize = 16
    }
    let run = try finetuning(plan)
    let before = run.heldOutLoss()
    #expect(run.heldOutLoss() == before)
    for _ in 0..<40 { _ = run.trainStep() }
    #expect(run.heldOutLoss() < 0.8 * before)
  }

  @Test func aBatchThatIsNotFiniteLeavesTheWeightsAlone() throws {
    let broken = TinyModel.latents(seed: 1).latents([0])
    broken[3] = .nan
    let latents = LatentDataset(latents: broken, labels: [0])
    let run = try Finetuning(
      graft: try Graft(fresh: plan(), teacher: try TinyModel.make()), dataset: latents,
      heldOut: TinyModel.latents(seed: 2))
    let before = values(run)
    #expect(run.firstNonFinitePlace() == nil)
    let report = run.trainStep()
    #expect(!report.loss.isFinite && !report.gradientNorm.isFinite)
    #expect(run.firstNonFinitePlace() == "x_embedder.out")
    #expect(values(run) == before)
    #expect(run.faultInData()?.contains("sample 0 of the training data") == true)
  }

  /// The loss may still be finite where the way back is not.
  @Test func spoiltWeightsAreNoSoundModel() throws {
    let run = try finetuning(plan())
    #expect(run.isSound() && run.isSound())
    let before = run.heldOutLoss()
    let weight = try #require(run.model.parameters.first { $0.name == "final_layer.linear.weight" })
    let good = weight.value.copied()
    weight.update { $0.fill(1e30) }
    #expect(!run.isSound())
    weight.assign(good)
    #expect(run.isSound() && run.heldOutLoss() == before)
  }

  @Test func refusals() throws {
    var empty = plan { $0.trained = .grafts }
    empty.edits = [:]
    let nothing = #expect(throws: PlanError.self) { try finetuning(empty) }
    #expect(nothing?.key == "stage2.trained")
    empty.stage2.trained = .lora
    #expect(throws: Never.self) { try finetuning(empty) }

    let nothingToLearn = #expect(throws: PlanError.self) {
      try plan { $0.diffusionWeight = 0 }.validate()
    }
    #expect(nothingToLearn?.key == "stage2.diffusion_weight")
    var unconditional = plan { $0.distillsNull = true }
    unconditional.model.shape.hasNullClass = false
    let noNull = #expect(throws: PlanError.self) { try unconditional.validate() }
    #expect(noNull?.key == "stage2.distill_null")
    var own = plan()
    own.data = DataSettings(path: DataSettings.own)
    let noClean = #expect(throws: PlanError.self) { try finetuning(own) }
    #expect(noClean?.key == "stage2.diffusion_weight")

    try withFolder { folder in
      let path = folder + "/checkpoint.safetensors"
      let run = try finetuning(plan())
      try run.saveCheckpoint(to: path)
      let other = try finetuning(plan { $0.emaDecay = 0.5 })
      let changed = #expect(throws: FileError.self) { try other.resume(from: path) }
      #expect(changed?.message.contains("was written for another plan") == true)
      try run.saveModel(to: path, teacherMetadata: [:])
      let model = #expect(throws: FileError.self) { try run.resume(from: path) }
      #expect(model?.message.contains("is no stage 2 checkpoint") == true)
    }
  }

  /// A checkpoint gives the averaged weights, as the model that is saved with it does.
  @Test func checkpointsAreWeights() throws {
    try withFolder { folder in
      let plan = plan { $0.trained = .all }
      let teacher = try TinyModel.make()
      let run = try finetuning(plan, teacher: teacher)
      for _ in 0..<3 { _ = run.trainStep() }
      try run.saveCheckpoint(to: folder + "/checkpoint.safetensors")
      try run.saveModel(to: folder + "/model.safetensors", teacherMetadata: [:])
      let models = try ["checkpoint", "model"].map {
        try Graft(plan: plan, teacher: teacher, checkpoints: [folder + "/\($0).safetensors"])
      }
      #expect(models.allSatisfy { $0.untrained.isEmpty })
      for (found, expected) in zip(models[0].model.parameters, models[1].model.parameters) {
        #expect(found.value.values == expected.value.values, "\(found.name)")
      }
      let start = try Graft(fresh: plan, teacher: teacher).model.parameters
      #expect(
        zip(models[0].model.parameters, start).contains { $0.value.values != $1.value.values })
    }
  }
}
