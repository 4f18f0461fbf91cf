import ArgumentParser
import Explorer
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
  @Option(help: "Images: auto, sixel, blocks or none.") var graphics = GraphicsMode.auto
  @OptionGroup var runs: RunsOptions

  func run() throws {
    guard ModelFiles.exists(model) else {
      throw ValidationError("'\(model)' is neither a command nor a model file")
    }
    var files = try ModelFiles(model)
    // Of a grafted model it shows the teacher, and the graft as a plan of it.
    let graft = try files.open().plan()
    if let graft { files = try ModelFiles(graft.model.path) }
    let reference = try files.reference()
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
    let classNames = try files.open().classNames
    let executable = try WorkerLauncher.currentExecutable()
    let terminal = try Terminal(graphics: graphics)
    defer { terminal.close() }
    let state = AppState(
      model: reference, classNames: classNames, document: document, size: terminal.size,
      now: Date().timeIntervalSince1970)
    let performer = LiveEffects(
      root: runs.root, model: reference, executable: executable, codeVersion: espalierVersion)
    ExplorerSession(state: state, terminal: terminal, performer: performer).run(
      state.firstEffects())
  }
}

extension GraphicsMode: ExpressibleByArgument {}
