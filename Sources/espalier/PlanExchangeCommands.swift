import ArgumentParser
import Checkpoints
import Files
import Foundation
import Models
import OfficialFormat
import Plans

extension PlanCommand {
  /// `espalier plan import`: converts a configuration of the official repository to a plan.
  struct Import: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Make a plan of a YAML configuration of the official grafting repository.",
      discussion: """
        Reads the sampling, stage-1 and stage-2 configurations (operator, model name, block indexes, \
        seed, weights, rates, weight decay) and tells what it does not take over. The operator's own \
        file is looked for in the working directory, beside the file and in the folders above it; \
        what it leaves out is as in the official constructors. What a plan cannot express is refused \
        with its line and key.
        """)

    @Argument(help: "The YAML file.") var yaml: String
    @Argument(help: "The plan file to write.") var plan: String
    @Option(help: "The pretrained model that the graft is for.") var model: String
    @Option(help: "The operator's YAML file, if it lies elsewhere.") var operatorConfig: String?
    @Option(
      help: "The blocks of a stage-1 configuration, which names none: \(SlotSelection.forms).")
    var blocks: String?
    @Option(help: "Gather the stage-1 checkpoints of graft_weights in this safetensors file.")
    var weights: String?
    @Option(help: "Where relative paths of graft_weights start (default: the working directory).")
    var weightsRoot = "."
    @Flag(help: "Replace an existing file.") var force = false
    @OptionGroup var output: OutputOptions

    func run() throws {
      for path in [plan, weights].compactMap(\.self) where !force {
        if FileManager.default.fileExists(atPath: path) {
          throw ValidationError("\(path) exists; add --force to replace it")
        }
      }
      let reference = try ModelFiles(model).reference()
      let graft = try OfficialGraft(
        path: yaml, operatorConfig: operatorConfig, shape: reference.shape,
        blocks: try blocks.map {
          try PlanCommand.blocks($0, of: GraftPlan(named: "", model: reference), .attention)
        })
      let title = AtomicFile.stem(of: yaml)
      let new = try graft.plan(named: title, model: reference)
      if let weights {
        guard !graft.weights.isEmpty else {
          throw PlanError(
            key: "graft_weights", "\(yaml) names no checkpoints to gather; leave out --weights")
        }
        try OfficialWeights.gather(graft, as: new, in: weightsRoot, to: weights)
      }
      try new.save(to: plan)
      for warning in graft.warnings { note("warning: \(warning)") }
      if let checkpoint = graft.graftedCheckpoint {
        note(
          "the configuration names a grafted model, which samples as it is: espalier sample"
            + " \(checkpoint) --plan \(plan)")
      }
      if !graft.weights.isEmpty, weights == nil {
        note(
          "the configuration names \(graft.weights.count) stage-1 checkpoints; --weights gathers")
      }
      try PlanSummary(new).show(output)
    }

    private func note(_ text: String) {
      printToStandardError("espalier: \(text)\n")
    }
  }

  /// `espalier plan export`: converts a plan to configurations of the official repository.
  struct Export: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract:
        "Write a plan as YAML of the official grafting repository: graft.yaml and operator.yaml.",
      discussion: """
        The official format holds one operator in one slot of a published model; another plan is \
        refused with the reason. With --weights, every edited block's operator is written as a \
        stage-1 checkpoint block_<i>.pt, which graft.yaml names. With --grafted-checkpoint, the grafted \
        model is written as model.pt with the entry 'ema', as the released ones are.
        """)

    @Argument(help: "The plan file.") var plan: String
    @Argument(help: "The folder to write to.") var folder: String
    @Option(help: "Operators or grafted model of a run of this plan.") var weights: String?
    @Option(help: "A grafted model of this plan, that graft.yaml shall name as model.pt.")
    var graftedCheckpoint: String?
    @Flag(help: "Replace existing files.") var force = false

    func run() throws {
      let plan = try GraftPlan.load(path: plan)
      let graftPath = "\(folder)/graft.yaml"
      let operatorPath = "\(folder)/operator.yaml"
      // Throws for an unsupported plan before any file is written.
      _ = try OfficialExport(plan, operatorConfigPath: operatorPath)
      let modelPath = "\(folder)/model.pt"
      let written = [graftPath, operatorPath] + (graftedCheckpoint == nil ? [] : [modelPath])
      for path in written where !force {
        if FileManager.default.fileExists(atPath: path) {
          throw ValidationError("\(path) exists; add --force to replace it")
        }
      }
      let weights = try weights.map { try ModelWeights(path: $0).tensors }
      let model = try graftedCheckpoint.map { try grafted($0, plan) }
      try AtomicFile.together {
        try AtomicFile.makeDirectory(folder)
        let paths =
          try weights.map { try OfficialWeights.scatter(plan, from: $0, to: folder) } ?? [:]
        if let model {
          _ = try ModelWriter.write(
            model.network, metadata: model.metadata, classNames: [], as: .init(entry: "ema"),
            to: modelPath)
        }
        let export = try OfficialExport(
          plan, operatorConfigPath: operatorPath, weights: paths,
          graftedCheckpoint: model == nil ? nil : modelPath)
        try AtomicFile.write(Data(export.operatorConfig.utf8), to: operatorPath)
        try AtomicFile.write(Data(export.graft.utf8), to: graftPath)
      }
      print(graftPath)
    }

    /// A grafted model of a plan, with its metadata.
    private func grafted(
      _ path: String, _ plan: GraftPlan
    ) throws -> (network: any DiffusionTransformer, metadata: [String: String]) {
      let file = try ModelWeights(named: path).model()
      try file.requireAgreement(with: plan, self.plan)
      return (
        try file.network(changes: plan.changes, forInference: nil),
        try file.metadata().merging(DiTFile.metadata(of: plan)) { $1 }
      )
    }
  }
}
