import ArgumentParser
import Explorer
import Files
import Foundation
import Models
import Plans
import Runs
import TerminalUI

/// `espalier explore`: the interactive explorer, the default command.
struct ExploreCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "explore",
    abstract: "Explore a model's blocks, edit a graft plan, distil and look (the default).")

  @Argument(help: .init(modelHelp)) var model = "demo"
  @Option(help: "Open this plan.") var plan: String?
  @Option(help: "The pretrained model that a graft was made of, if it has moved or is not named.")
  var teacher: String?
  @Option(help: "Images: auto, kitty, sixel, blocks, ascii or none; else as the settings say.")
  var graphics: GraphicsMode?
  @OptionGroup var runs: RunsOptions

  func run() throws {
    guard ModelWeights.exists(model) else {
      throw ValidationError("'\(model)' is neither a command nor a model file")
    }
    let opened = try ModelFiles(model)
    opened.printNotes()
    let (files, reference, graft) = try subject(opened)
    let document: PlanDocument
    if let plan {
      let loaded = try GraftPlan.load(path: plan)
      try naming(plan) { () throws(PlanError) in try loaded.check(against: reference) }
      document = PlanDocument(plan: loaded, path: plan)
    } else if let graft {
      try naming(model) { () throws(PlanError) in try graft.check(against: reference) }
      document = PlanDocument(plan: graft)
    } else {
      document = PlanDocument(plan: GraftPlan(named: "untitled", model: reference), path: nil)
    }
    let classNames = files.model.classNames
    let launcher = try RunLauncher(root: runs.root)
    var configuration = try Configuration.load(Configuration.path())
    if let graphics { configuration.settings.graphics = graphics }
    let terminal = try Terminal(configuration.settings.wishes)
    defer { terminal.close() }
    var state = AppState(
      model: reference, classNames: classNames, document: document, size: terminal.size,
      now: Date().timeIntervalSince1970)
    state.terminal = terminal.capabilities
    state.configuration = configuration
    state.history = CommandHistory(path: CommandHistory.path())
    state.useChartSettings()
    let performer = LiveEffects(
      launcher: launcher, model: reference, codeVersion: espalierVersion)
    ExplorerSession(state: state, terminal: terminal, performer: performer).run(
      state.firstEffects())
  }

  /// Model and plan to show: a pretrained model, or the teacher and the plan of a graft; a graft
  /// without its teacher is shown by itself.
  private func subject(
    _ opened: ModelFiles
  ) throws -> (files: ModelFiles, reference: ModelReference, graft: GraftPlan?) {
    let file = opened.model
    guard file.isGraft else { return (opened, try opened.reference(), nil) }
    // The teacher of a graft without a plan is assumed to be the published model of its
    // architecture.
    let name = teacher ?? file.plan?.model.path ?? file.config.publishedName ?? ""
    if teacher != nil || ModelWeights.exists(name) {
      let files = try ModelFiles(name)
      let reference = try files.reference()
      if let plan = file.plan { return (files, reference, plan) }
      return (files, reference, plan(of: file, on: reference))
    }
    let own = ModelReference(
      path: opened.name, shape: file.config, contentHash: try opened.contentHash())
    return (opened, own, plan(of: file, on: own))
  }

  private func plan(of file: DiTFile, on reference: ModelReference) -> GraftPlan {
    let name = AtomicFile.stem(of: file.path)
    var plan = GraftPlan(named: file.plan?.name ?? name, model: reference)
    (plan.edits, plan.parallel) = (file.changes.edits, file.changes.parallel)
    return plan
  }
}

extension GraphicsMode: ExpressibleByArgument {}
