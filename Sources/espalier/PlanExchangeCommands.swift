import ArgumentParser
import Checkpoints
import Files
import Foundation
import Models
import OfficialFormat
import Plans

extension PlanCommand {
  /// `espalier plan import`: a configuration of the official repository as a plan.
  struct Import: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Make a plan of a YAML configuration of the official grafting repository.",
      discussion: """
        Reads the sampling and stage-2 configurations (operator, model name, block indexes, seed, \
        weights). The operator's own file is looked for in the working directory, beside the file \
        and in the folders above it. What a plan cannot express is refused with its line and key.
        """)

    @Argument(help: "The YAML file.") var yaml: String
    @Argument(help: "The plan file to write.") var plan: String
    @Option(help: "The pretrained model that the graft is for.") var model: String
    @Option(help: "The operator's YAML file, if it lies elsewhere.") var operatorConfig: String?
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
        path: yaml, operatorConfig: operatorConfig, shape: reference.shape)
      let title = URL(fileURLWithPath: yaml).deletingPathExtension().lastPathComponent
      let new = try graft.plan(named: title, model: reference)
      if let weights {
        guard !graft.weights.isEmpty else {
          throw PlanError(
            key: "graft_weights", "\(yaml) names no checkpoints to gather; leave out --weights")
        }
        try OfficialWeights.gather(graft, in: weightsRoot, to: weights)
      }
      try new.save(to: plan)
      for warning in graft.warnings { note("warning: \(warning)") }
      if let checkpoint = graft.graftedCheckpoint {
        note("the configuration names a grafted model: \(checkpoint)")
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

  /// `espalier plan export`: a plan as configurations of the official repository.
  struct Export: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract:
        "Write a plan as YAML of the official grafting repository: graft.yaml and operator.yaml.",
      discussion: """
        The official format holds one operator in one slot of a published model; another plan is \
        refused with the reason. With --weights, every edited block's operator is written as a \
        stage-1 checkpoint block_<i>.pt, which graft.yaml names.
        """)

    @Argument(help: "The plan file.") var plan: String
    @Argument(help: "The folder to write to.") var folder: String
    @Option(help: "Operators or grafted model of a run of this plan.") var weights: String?
    @Option(help: "A grafted model's official checkpoint that graft.yaml shall name.")
    var graftedCheckpoint: String?
    @Flag(help: "Replace existing files.") var force = false

    func run() throws {
      let plan = try GraftPlan.load(path: plan)
      let graftPath = "\(folder)/graft.yaml"
      let operatorPath = "\(folder)/operator.yaml"
      // Says why a plan cannot be expressed before anything is written.
      _ = try OfficialExport(plan, operatorConfigPath: operatorPath)
      for path in [graftPath, operatorPath] where !force {
        if FileManager.default.fileExists(atPath: path) {
          throw ValidationError("\(path) exists; add --force to replace it")
        }
      }
      let file = try weights.map { try Checkpoint.open($0) }
      try AtomicFile.makeDirectory(folder)
      let paths = try file.map { try OfficialWeights.scatter(plan, from: $0, to: folder) } ?? [:]
      let export = try OfficialExport(
        plan, operatorConfigPath: operatorPath, weights: paths, graftedCheckpoint: graftedCheckpoint
      )
      try AtomicFile.write(Data(export.operatorConfig.utf8), to: operatorPath)
      try AtomicFile.write(Data(export.graft.utf8), to: graftPath)
      print(graftPath)
    }
  }
}
