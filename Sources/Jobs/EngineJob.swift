import Datasets
import Files
import Foundation
import Models
import Plans
import Runs
import TorchEngine

/// A run of an engine other than the native one: this process prepares the data, starts the engine
/// as its child, passes signals on, and ends the run if the child has not.
struct EngineJob {
  let context: JobContext
  let engine: Engine

  /// What the engine is told by its environment.
  private enum Variable {
    /// The run whose lock, worker record and hook belong to the parent.
    static let claimed = "ESPALIER_RUN_CLAIMED"
    /// The folder of the shipped model.
    static let demo = "ESPALIER_DEMO"
  }

  /// What the engine needs besides the run directory.
  struct Preparation {
    /// Environment of its processes.
    var variables: [String: String]
    /// Names in the cache of the latents that were encoded for it.
    var caches: [String] = []
    /// Identities of encoded folders of images, by path.
    var identities: [String: String] = [:]
  }

  /// Encodes the training data that the engine cannot.
  func prepare(_ request: JobRequest) throws -> Preparation {
    var prepared = Preparation(variables: [Variable.claimed: context.run.path])
    switch request.job {
    case .distill(let path), .finetune(let path, _):
      let (plan, files) = try context.plan(at: path)
      if plan.model.path == ModelFiles.demo {
        prepared.variables[Variable.demo] = AtomicFile.directory(of: files.modelPath)
      }
      if plan.data?.isSelf == true { break }
      let isDistillation = request.job.kind == .distill
      let samples =
        isDistillation
        ? plan.stage1.drawnSamples : plan.stage2.steps * plan.stage2.batchSize
      let heldOut = isDistillation ? plan.stage1.heldOutSamples : plan.stage2.heldOutSamples
      let data = try context.trainingData(
        plan.data, for: files, teacher: try files.model.network(), samples: samples,
        heldOut: heldOut)
      prepared.identities = try write(data, of: plan.data)
      prepared.caches =
        plan.data == nil
        ? TrainingData.proceduralCaches(samples: samples, heldOut: heldOut)
        : prepared.identities.values.map { "images-\($0.prefix(24))" }
    case .preview, .analyze, .library, .search, .measure, .report, .sample, .evaluate:
      throw FileError(
        "\(context.run.path): the engine \(engine.name) does no job of this kind; leave it to the native"
          + " engine")
    }
    return prepared
  }

  /// Writes `data.json`: identities of folders of images by path, under which the encoded latents
  /// are in the cache.
  private func write(_ data: TrainingData, of settings: DataSettings?) throws -> [String: String] {
    var identities: [String: String] = [:]
    for (path, set) in [(settings?.path, data.training), (settings?.heldOut, data.heldOut)] {
      guard let path, !LatentFiles.isPresent(at: path) else { continue }
      // That of a split set has a suffix.
      identities[path] = set.identity.split(separator: " ").first.map(String.init)
    }
    let list = identities.sorted { $0.key < $1.key }
      .map { "\($0.key.jsonQuoted): \($0.value.jsonQuoted)" }.joined(separator: ", ")
    try context.whenRoom {
      try AtomicFile.write(Data("{\(list)}\n".utf8), to: "\(context.run.path)/data.json")
    }
    return identities
  }

  /// Starts the engine; its output goes to that of this process, the log of the run.
  func start(_ variables: [String: String]) throws -> Process {
    let ranks =
      !engine.launcher.isEmpty
      ? "the ranks" : engine.ranks == 1 ? "1 rank" : "\(engine.ranks) ranks"
    try context.emit(.message("starting \(ranks) of engine \(engine.name)"))
    let process = try engine.process(
      engine.command(run: context.run.path), environment: variables)
    process.standardInput = FileHandle.nullDevice
    try engine.start(process)
    return process
  }

  /// The sentence for a child that ended without an end of the run.
  func ending(_ process: Process) -> String {
    let how =
      process.terminationReason == .uncaughtSignal
      ? "was killed by signal \(process.terminationStatus)"
      : "ended with code \(process.terminationStatus)"
    let last = context.run.logTail().split(separator: "\n").last.map { " (\($0.prefix(200)))" }
    return
      "\(context.run.path): the engine \(engine.name) \(how)\(last ?? ""); see \(context.run.logPath);"
      + " 'espalier runs retry \(context.run.id)' goes on from the last checkpoint"
  }
}
