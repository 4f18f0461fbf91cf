import ArgumentParser
import Explorer
import Files
import Foundation
import Jobs
import Models
import Plans
import Runs
import TorchEngine
import TerminalUI

/// `espalier explore`: the interactive explorer, the default command.
struct ExploreCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "explore",
    abstract: "Explore a model's blocks, edit a graft plan, distil and look (the default).")

  @Argument(
    help: .init(modelHelp + " Without a model and a plan the last session is offered."))
  var model: String?
  @OptionGroup var family: FamilyOption
  @Option(help: "Open this plan, by default with the model that it was made for.") var plan: String?
  @Option(help: "The pretrained model that a graft was made of, if it has moved or is not named.")
  var teacher: String?
  @Option(help: "Images: auto, kitty, sixel, blocks, ascii or none; else as the settings say.")
  var graphics: GraphicsMode?
  @OptionGroup var runs: RunsOptions

  func run() throws {
    let planned = try plan.map { try GraftPlan.load(path: $0) }
    let name = family.name(of: model ?? planned?.model.path ?? "demo")
    guard ModelWeights.exists(name) else {
      throw model == nil
        ? FileError(
          "\(plan ?? ""): was made for \(name), which is no longer there; name its model before --plan"
        )
        : ValidationError("'\(name)' is neither a command nor a model file")
    }
    // Edits that a killed explorer left are offered before the last session, those of another model or plan than
    // the command names when they are opened.
    let wanted = plan.map { AtomicFile.absolute($0) }
    let left = RecoveryFile.abandoned().first {
      (wanted == nil || $0.unsaved.opening.plan == wanted)
        && (model == nil || $0.unsaved.opening.model == Self.permanent(name))
    }
    var question = left.map { Question.recover($0.unsaved, file: $0.file) }
    if question == nil, model == nil, plan == nil {
      question = LastSession.read().map(Question.lastSession)
    }
    var opening = Opening(model: Self.permanent(name), teacher: teacher, plan: plan)
    var recovered: (unsaved: UnsavedPlan, file: String)?
    while true {
      let state = try show(opening, asking: question, recovered)
      guard let next = state.next else { return Self.tell(state) }
      (opening, question) = (next, nil)
      if let left, left.unsaved.opening == next {
        recovered = (left.unsaved, left.file)
      }
    }
  }

  /// Shows a model and a plan, or unsaved edits that were taken up, until the explorer is left.
  private func show(
    _ opening: Opening, asking question: Question?,
    _ left: (unsaved: UnsavedPlan, file: String)?
  ) throws -> AppState {
    let opened = try ModelFiles(opening.model)
    opened.printNotes()
    let (files, reference, graft, missing) = try Self.subject(opened, teacher: opening.teacher)
    var document = PlanDocument(plan: GraftPlan(named: AppState.untitled, model: reference))
    if let left {
      try naming(left.file) { () throws(PlanError) in
        try left.unsaved.plan.check(against: reference)
      }
      document = PlanDocument(left.unsaved)
    } else if let plan = opening.plan {
      let loaded = try GraftPlan.load(path: plan)
      try naming(plan) { () throws(PlanError) in try loaded.check(against: reference) }
      document = PlanDocument(plan: loaded, path: plan)
    } else if let graft {
      try naming(opening.model) { () throws(PlanError) in try graft.check(against: reference) }
      document = PlanDocument(plan: graft)
    }
    let launcher = try RunLauncher(root: runs.root, requirements: JobRequirements.check)
    var configuration = try Configuration.load(Configuration.path())
    if let graphics { configuration.settings.graphics = graphics }
    let terminal = try Terminal(configuration.settings.wishes)
    defer { terminal.close() }
    var state = AppState(
      model: reference, subject: Opening(model: opening.model, teacher: opening.teacher),
      classNames: files.model.classNames, document: document, size: terminal.size,
      now: Date().timeIntervalSince1970)
    state.terminal = terminal.capabilities
    state.configuration = configuration
    state.history = CommandHistory(path: CommandHistory.path())
    state.prompts = CommandHistory(path: CommandHistory.path(ofPrompts: true))
    state.useChartSettings()
    state.restore(KeptLayout.read())
    state.missingTeacher = missing
    var effects = question == nil ? state.firstEffects() : []
    if let question {
      state.overlays.append(.confirm(question))
    } else if let missing {
      state.notice = .warning(
        "the teacher of this graft, \(missing), is not there: it can be looked at and sampled")
    } else if let left {
      // The explorer has kept them in a file of its own by then.
      effects.append(.removeUnsaved(file: left.file))
      state.notice = .note("the unsaved edits of \(document.title) are back; w saves them")
    } else if let run = opening.run, opening.plan == nil {
      effects += state.take(.openRun(id: run))
    }
    state.engines = try Engine.all().map(\.name)
    let performer = LiveEffects(
      launcher: launcher, model: reference, codeVersion: espalierVersion, models: .files
    ) { name, kind, plan in
      try Engine.named(name).require(stage: kind == .finetune ? 2 : 1, of: plan)
    }
    let session = ExplorerSession(state: state, terminal: terminal, performer: performer)
    session.run(effects)
    return session.state
  }

  /// The name of a model for later starts, whose current directory may be another.
  static func permanent(_ name: String) -> String {
    let prefix = ModelFamily.allCases.map { "\($0.rawValue):" }.first(where: name.hasPrefix) ?? ""
    let rest = String(name.dropFirst(prefix.count))
    let file = rest.split(separator: "#", maxSplits: 1).first.map(String.init) ?? rest
    return FileManager.default.fileExists(atPath: file) ? prefix + AtomicFile.absolute(rest) : name
  }

  /// Says what goes on, and what was kept, when the explorer has been left.
  private static func tell(_ state: AppState) {
    let alive = state.runs.records.filter { $0.isTraining && $0.isAlive }
    if let first = alive.first {
      let others = alive.count == 1 ? "" : " and \(alive.count - 1) more"
      let verb = alive.count == 1 ? "goes" : "go"
      printToStandardError(
        "\(first.name) (\(first.state.name), \(first.progressText))\(others) \(verb) on;"
          + " 'espalier runs' lists what runs, 'espalier' shows it again\n")
    }
    if state.unsaved != nil, !state.forgetsUnsaved {
      printToStandardError(
        "the unsaved changes of \(state.document.title) are kept; 'espalier' offers them again\n")
    }
  }

  /// Model and plan to show: a pretrained model, or the teacher and the plan of a graft; a graft
  /// without its teacher is shown by itself.
  static func subject(
    _ opened: ModelFiles, teacher: String?
  ) throws -> (files: ModelFiles, reference: ModelReference, graft: GraftPlan?, missing: String?) {
    let file = opened.model
    guard file.isGraft else { return (opened, try opened.reference(), nil, nil) }
    // The teacher of a graft without a plan is assumed to be the published model of its
    // architecture.
    let name = teacher ?? file.plan?.model.path ?? file.shape.publishedName ?? ""
    if teacher != nil || ModelWeights.exists(name) {
      let files = try ModelFiles(name)
      let reference = try files.reference()
      return (files, reference, file.plan ?? Self.plan(of: file, on: reference), nil)
    }
    let own = ModelReference(
      path: opened.name, shape: file.shape, contentHash: try opened.contentHash())
    return (
      opened, own, Self.plan(of: file, on: own), name.isEmpty ? "a model without a name" : name
    )
  }

  private static func plan(of file: any ModelFile, on reference: ModelReference) -> GraftPlan {
    let name = AtomicFile.stem(of: file.path)
    var plan = GraftPlan(named: file.plan?.name ?? name, model: reference)
    (plan.edits, plan.parallel) = (file.changes.edits, file.changes.parallel)
    return plan
  }
}

extension GraphicsMode: ExpressibleByArgument {}
