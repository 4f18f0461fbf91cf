import ArgumentParser
import Files
import Foundation
import Models
import Plans
import Runs
import Text

/// `espalier plan`: makes, edits, shows and checks plans without a terminal.
struct PlanCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "plan", abstract: "Make, edit, show and check graft plans.",
    subcommands: [
      New.self, Set.self, Parallel.self, Show.self, Validate.self, Operators.self,
      ListSettings.self, Import.self,
      Export.self,
    ])

  struct New: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Write an empty plan for a model.")

    @Argument(help: "The plan file to write.") var plan: String
    @Option(help: "The model: demo, the path of the weights, or a folder of diffusers.")
    var model = "demo"
    @OptionGroup var family: FamilyOption
    @Option(help: "The plan's name (default: the file's).") var name: String?
    @Option(help: "Seed of fresh weights and training samples.") var seed: UInt64 = 0
    @Flag(help: "Replace an existing file.") var force = false
    @OptionGroup var output: OutputOptions

    func run() throws {
      if !force, FileManager.default.fileExists(atPath: plan) {
        throw ValidationError("\(plan) exists; add --force to replace it")
      }
      let title = name ?? AtomicFile.stem(of: plan)
      var new = GraftPlan(named: title, model: try ModelFiles(family.name(of: model)).reference())
      new.seed = seed
      try new.validate()
      try new.save(to: plan)
      try PlanSummary(new).show(output)
    }
  }

  struct Set: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Put an operator into slots of a plan, or clear them, or change its settings.",
      discussion: """
        Settings are given as KEY=VALUE, by the keys that the plan file and its errors have, such as \
        stage1.steps=500 stage1.overrides.7.mlp.loss=l1 7.attention.config.window_left=8. The value \
        null removes data, data.held_out or an override. Paths count from the current directory.

        \(SettingsTables.help)
        """)

    @Argument(help: "The plan file to change.") var plan: String
    @Argument(help: "Settings to change, as KEY=VALUE.") var settings: [String] = []
    @Option(help: "Blocks: \(SlotSelection.forms).") var blocks: String?
    @Option(help: "The operator: \(OperatorCatalog.all.map(\.name).joined(separator: ", ")).")
    var `operator`: String?
    @Option(help: "The slot, for an operator that fits both: attention or mlp.") var slot: Slot?
    @Option(help: "A setting of the operator as key=value; repeatable.") var config: [String] = []
    @Option(help: "The slot to clear: attention or mlp.") var clear: Slot?
    @Option(help: "\(DataSettings.help).") var data: String?
    @Option(
      help: "What the operators start from: own or transferred weights, ridge or transferred_ridge."
    )
    var initialization: Initialization?
    @Option(
      help:
        "Settings of both stages of the paper, of the released configurations, or for short trainings."
    )
    var preset: TrainingPreset?
    @Option(help: "The same as stage1.steps=N.") var steps: Int?
    @Option(help: "The same as stage1.batch_size=N.") var batch: Int?
    @Option(help: "The same as stage1.learning_rate=N.") var learningRate: Double?
    @Option(help: "The same as seed=N.") var seed: UInt64?
    @OptionGroup var output: OutputOptions

    /// Values of `--set` and of the options for single settings.
    private func assignments() throws -> [(key: String, value: String)] {
      let options: [(key: String, value: String?)] = [
        ("stage1.steps", steps.map { "\($0)" }), ("stage1.batch_size", batch.map { "\($0)" }),
        ("stage1.learning_rate", learningRate.map { "\($0)" }), ("seed", seed.map { "\($0)" }),
      ]
      let given = options.compactMap { option in option.value.map { (option.key, $0) } }
      return try given
        + settings.map { text in
          let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
          guard parts.count == 2 else {
            throw ValidationError(
              "'\(text)' is not of the form KEY=VALUE, for example stage1.steps=500")
          }
          return (String(parts[0]), String(parts[1]))
        }
    }

    /// Checks combinations of options, after parsing has reported unknown ones.
    private func checkOptions() throws {
      if let name = self.operator, OperatorCatalog.descriptor(named: name) == nil {
        let known = OperatorCatalog.all.map(\.name).joined(separator: ", ")
        throw ValidationError("--operator: '\(name)' is unknown, expected one of \(known)")
      }
      let hasSettings = try data != nil || preset != nil || !assignments().isEmpty
      switch (self.operator, clear) {
      case (.some, .some): throw ValidationError("give either --operator or --clear, not both")
      case (.some, nil) where blocks == nil:
        throw ValidationError("--operator needs --blocks, for example --blocks odd")
      case (nil, nil) where blocks != nil:
        throw ValidationError("--blocks needs --operator or --clear")
      case (nil, nil) where !hasSettings && config.isEmpty:
        throw ValidationError(
          "nothing to change; give --blocks with --operator, --clear, or a setting such as"
            + " stage1.steps=500")
      default: break
      }
      guard config.isEmpty || self.operator != nil else {
        throw ValidationError("--config needs --operator, whose settings it gives")
      }
      guard initialization == nil || self.operator != nil else {
        throw ValidationError("--initialization needs --operator, whose start it gives")
      }
      guard slot == nil || self.operator != nil else {
        throw ValidationError("--slot needs --operator, whose slot it gives")
      }
    }

    /// Slot of the operator: its only one, or the one given.
    private func slot(of descriptor: OperatorDescriptor) throws -> Slot {
      if let slot = slot ?? (descriptor.slots.count == 1 ? descriptor.slots.first : nil) {
        return slot
      }
      throw ValidationError(
        "\(descriptor.name) fits both slots; add --slot attention or --slot mlp")
    }

    func run() throws {
      try checkOptions()
      let assignments = try assignments()
      let changed = try GraftPlan.update(path: plan) { changed in
        if let descriptor = self.operator.flatMap(OperatorCatalog.descriptor(named:)) {
          try put(descriptor, in: &changed)
        } else if let clear {
          for block in try selectedBlocks(of: changed, clear) {
            changed.edits[SlotID(block: block, slot: clear)] = nil
          }
        }
        if let preset { changed.apply(preset) }
        try naming(plan) { () throws(PlanError) in
          if let data { try changed.train(on: data) }
          for (key, value) in assignments { try changed.set(key, to: value) }
        }
      }
      changed.printNotes()
      try PlanSummary(changed).show(output)
    }

    /// Sets the operator with its settings in the chosen slots.
    private func put(_ descriptor: OperatorDescriptor, in changed: inout GraftPlan) throws {
      var spec = descriptor.defaultSpec
      for entry in config {
        let parts = entry.split(separator: "=", maxSplits: 1).map(String.init)
        guard parts.count == 2,
          let value = OperatorCatalog.field(parts[0], of: spec.name)?.value(of: parts[1])
            ?? Double(parts[1])
        else {
          throw ValidationError(
            "--config: '\(entry)' is not of the form key=number, for example "
              + (descriptor.fields.first.map { "\($0.key)=\($0.initial.json)" } ?? "key=1"))
        }
        spec.config[parts[0]] = value
      }
      let slot = try slot(of: descriptor)
      for block in try selectedBlocks(of: changed, slot) {
        let id = SlotID(block: block, slot: slot)
        changed.edits[id] = spec
        let start = initialization.flatMap { $0 == .own ? nil : $0.rawValue }
        try changed.set("stage1.overrides.\(id).init", to: start ?? "null")
      }
    }

    private func selectedBlocks(of plan: GraftPlan, _ slot: Slot) throws -> [Int] {
      try PlanCommand.blocks(blocks ?? "all", of: plan, slot)
    }
  }

  /// Blocks whose slots of one kind are selected by the option `--blocks`.
  ///
  /// Scores are those of the model's cached statistics.
  static func blocks(_ text: String, of plan: GraftPlan, _ slot: Slot) throws(PlanError) -> [Int] {
    let path = ModelAnalysis.cachePath(modelHash: plan.model.contentHash)
    let scores = SlotScores(
      analysis: try? ModelAnalysis.load(path: path),
      remedy: "'espalier analyze \(plan.model.path)' measures the model")
    do throws(PlanError) {
      return try SlotSelection.blocks(
        text, depth: plan.model.shape.depth, slot: slot, scores: scores)
    } catch {
      throw PlanError(key: "--blocks", error.message)
    }
  }

  struct Show: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Show a plan's edits and what they cost.")

    @Argument(help: "The plan file.") var plan: String
    @OptionGroup var output: OutputOptions

    func run() throws { try PlanSummary(try GraftPlan.load(path: plan)).show(output) }
  }

  struct Validate: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Check a plan, and that it belongs to its model.")

    @Argument(help: "The plan file.") var plan: String
    @Option(help: "Check against this model instead of the plan's own path.") var model: String?
    @OptionGroup var output: OutputOptions

    private struct Verdict: Encodable {
      let valid: Bool
      /// Keys of stated settings that have no effect.
      var withoutEffect: [String]?
      /// What is wrong.
      var error: String?
    }

    func run() throws {
      let loaded: GraftPlan
      do {
        loaded = try GraftPlan.load(path: plan)
        try loaded.check(against: try ModelFiles(model ?? loaded.model.path), file: plan)
      } catch {
        if output.json { try output.printJSON(Verdict(valid: false, error: "\(error)")) }
        throw error
      }
      if output.json {
        try output.printJSON(
          Verdict(valid: true, withoutEffect: loaded.withoutEffect.map(\.key)))
      } else {
        loaded.printNotes()
        print(
          "\(plan): valid, \(loaded.edits.count) of \(loaded.model.shape.slots.count) slots edited, "
            + "\(loaded.parallel.count) pairs of blocks parallel")
      }
    }
  }
}

extension GraftPlan {
  /// Says on standard error which stated settings have no effect.
  fileprivate func printNotes() {
    for note in notes { printToStandardError("espalier: note: \(note)\n") }
  }
}

extension Slot: ExpressibleByArgument {}
extension Initialization: ExpressibleByArgument {}
extension TrainingPreset: ExpressibleByArgument {}

/// Output of `plan show`.
struct PlanSummary: Encodable {
  struct Edit: Encodable {
    let block: Int, slot, `operator`, label: String, config: [String: Double]
  }
  struct Pair: Encodable {
    let blocks: [Int], merge: String
  }
  let name: String
  let model: String
  let edits: [Edit]
  let parallel: [Pair]
  let depth, originalDepth: Int
  let parameters, originalParameters: Int
  let flops, originalFlops: Double
  /// The operators of each kind of slot, in all blocks.
  let operators: [String: Operators]

  /// Cost of the operators in one kind of slot, split as in the paper's Table 4.
  struct Operators: Encodable {
    let parameters, originalParameters: Int
    let coreFlops, originalCoreFlops, projectionFlops, originalProjectionFlops: Double

    init(_ cost: (original: OperatorCost, edited: OperatorCost)) {
      (originalParameters, parameters) = (cost.original.parameters, cost.edited.parameters)
      (originalCoreFlops, coreFlops) = (cost.original.coreFlops, cost.edited.coreFlops)
      projectionFlops = cost.edited.projectionFlops
      originalProjectionFlops = cost.original.projectionFlops
    }
  }

  init(_ plan: GraftPlan) {
    name = plan.name
    model = plan.model.path
    edits = plan.edits.sorted { $0.key < $1.key }.map { id, spec in
      Edit(
        block: id.block, slot: id.slot.rawValue, operator: spec.name,
        label: OperatorCatalog.label(spec),
        config: spec.config)
    }
    parallel = plan.parallel.sorted { $0.key < $1.key }.map { pair, merge in
      Pair(blocks: pair.blocks, merge: merge.rawValue)
    }
    (originalDepth, depth) = (plan.model.shape.depth, plan.depth)
    let cost = plan.cost()
    (originalParameters, parameters) = (cost.original.parameters, cost.edited.parameters)
    (originalFlops, flops) = (cost.original.flops, cost.edited.flops)
    operators = Dictionary(
      uniqueKeysWithValues: Slot.allCases.map { ($0.rawValue, Operators(plan.cost(of: $0))) })
  }

  func show(_ output: OutputOptions) throws {
    if output.json { return try output.printJSON(self) }
    let pairs = parallel.isEmpty ? "" : ", \(parallel.count) pairs of blocks parallel"
    print("\(name) (model \(model)): \(edits.count) slots edited\(pairs)")
    for edit in edits {
      let slot = TextWidth.pad(edit.slot, 10)
      print(String(format: "  %3d  ", edit.block) + "\(slot) \(edit.label)")
    }
    for pair in parallel {
      let blocks = pair.blocks.map(String.init).joined(separator: "+")
      print("  \(blocks)  parallel, merged by \(pair.merge)")
    }
    print(
      "parameters \(parameters) (\(change(Double(parameters), from: Double(originalParameters)))), "
        + "FLOPs per image \(short(flops)) (\(change(flops, from: originalFlops)))"
        + (depth == originalDepth ? "" : ", depth \(depth) (of \(originalDepth))"))
    for slot in Slot.allCases where edits.contains(where: { $0.slot == slot.rawValue }) {
      guard let cost = operators[slot.rawValue] else { continue }
      let parameters = change(Double(cost.parameters), from: Double(cost.originalParameters))
      let core = change(cost.coreFlops, from: cost.originalCoreFlops)
      let rest = change(cost.projectionFlops, from: cost.originalProjectionFlops)
      print(
        "\(slot.rawValue) operators: core FLOPs \(short(cost.coreFlops)) (\(core)), "
          + (cost.projectionFlops == 0 && cost.originalProjectionFlops == 0
            ? "" : "projections and featurizers \(short(cost.projectionFlops)) (\(rest)), ")
          + "parameters \(cost.parameters) (\(parameters))")
    }
  }
}
