import ArgumentParser
import Dispatch
import Files
import Foundation
import Jobs
import Models
import Plans
import Runs
import TorchEngine

/// `espalier chain`: both stages of a plan, measurements and a report, as queued runs.
struct ChainCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "chain",
    abstract:
      "Distil and finetune a plan, measure the graft and write its report, one after the other.",
    discussion: """
      Queues four runs, each after the one before it, and follows them. One that does not end as done \
      stops those after it, which say why; 'espalier runs resume' of that one lets the chain go on. \
      Ctrl-C asks the run that goes on to save a checkpoint and stop; --detach returns at once.
      """)

  @Argument(help: "The plan file.") var plan: String
  @Option(help: "\(DataSettings.help) (default: the plan's).") var data: String?
  @Option(help: "The HTML file of the report (default: report.html in the last run).")
  var output: String?
  @OptionGroup var drawing: MeasuringOptions
  @Option(help: "Images of each sample grid, at most one of every class; 0 for no grids.")
  var images = 10
  @Option(help: "Priority in the queue; higher ones go first.") var priority = 0
  @Flag(help: "Queue the runs and return; follow them with 'espalier runs'.") var detach = false
  @OptionGroup var precision: PrecisionOptions
  @Option(help: "Engine that trains: native, or one of 'espalier engines'.") var engine: String?
  @OptionGroup var runs: RunsOptions
  @OptionGroup var format: OutputOptions

  func validate() throws {
    try precision.require(for: .distill)
    try require("--priority", priority, in: QueuePlace.priorities)
    try require("--images", images, in: ReportRequest.imageRange)
  }

  func run() throws {
    var loaded = try GraftPlan.load(path: plan)
    if let data { try loaded.train(on: data) }
    try naming(plan) { () throws(PlanError) in try loaded.requireChanges() }
    try loaded.check(against: try ModelFiles(loaded.model.path), file: plan)
    if let output { try AtomicFile.requireDestination(output) }
    let chosen = try engine == Engine.native ? nil : engine.map { try Engine.named($0) }
    for stage in 1...2 { try chosen?.require(stage: stage, of: loaded) }
    let request = JobRequest(
      job: .distill(planPath: "plan.json"), name: loaded.name, codeVersion: espalierVersion,
      seed: loaded.seed, modelHash: loaded.model.contentHash, precision: precision.chosen?.rawValue,
      engine: chosen?.name)
    let report = ReportRequest(
      samples: drawing.samples, steps: drawing.steps, images: images,
      page: output.map { AtomicFile.absolute($0) })
    let chain = try RunLauncher(root: runs.root, requirements: JobRequirements.check).launchChain(
      loaded, like: request, priority: priority, report: report)
    guard detach else { return try follow(chain) }
    if format.json { return try format.printJSON(["runs": chain.map(\.path)]) }
    for run in chain { print(run.path) }
  }

  /// Shows the progress of the chain until nothing of it goes on.
  private func follow(_ runs: [RunDirectory]) throws {
    signal(SIGINT, SIG_IGN)
    let interrupt = DispatchSource.makeSignalSource(signal: SIGINT, queue: .global())
    interrupt.setEventHandler {
      _ = try? runs.first { !$0.summary().state.isEnded }?.requestCancellation()
      signal(SIGINT, SIG_DFL)
    }
    interrupt.resume()
    defer { interrupt.cancel() }
    let console = ProgressLine()
    var store = RunStore(root: self.runs.root, readsPlans: true)
    while true {
      store.look()
      guard let id = try runs[0].request().chain?.id,
        let chain = RunChain(id, among: store.summaries)
      else { throw FileError("\(runs[0].path): is gone; 'espalier runs' lists the others") }
      guard chain.isOver else {
        console.update(chain.line)
        Thread.sleep(forTimeInterval: 0.2)
        continue
      }
      console.finish()
      if format.json {
        try format.printJSON(
          chain.runs.compactMap { run in
            store.run(run.id).map { RunReport($0, run) }
          })
      }
      guard let reason = chain.reason, let current = chain.current else {
        if !format.json { print(chain.runs.last?.end?.text ?? "done") }
        return
      }
      throw FileError(
        "\(plan): the chain has stopped, \(reason); 'espalier runs resume \(current.id)' lets it go on"
      )
    }
  }
}

extension RunChain {
  /// Progress in one line.
  fileprivate var line: String {
    let name = current?.kind?.rawValue ?? ""
    let place = "\(min(doneCount + 1, runs.count)) of \(runs.count), \(name)"
    guard let current else { return place }
    var text = "\(place): \(current.stateText)  \(current.progressText)"
    if let loss = current.loss { text += "  loss \(short(loss))" }
    return text + (secondsLeft.map { "  " + left($0) } ?? "")
  }

  private func left(_ seconds: Double) -> String {
    let rest = unknown.isEmpty ? "" : " and \(unknown.map(\.rawValue).joined(separator: ", "))"
    return String(format: "%.0f s", seconds) + "\(rest) left of all"
  }
}

extension GraftPlan {
  /// Throws for a plan that changes nothing, so that there is nothing to distil.
  func requireChanges() throws(PlanError) {
    guard isEmpty else { return }
    throw PlanError(
      key: "blocks",
      "no slot is edited and no blocks are parallel, so there is nothing to distil; put an operator "
        + "into a slot with 'espalier plan set' or see 'espalier plan parallel'")
  }
}
