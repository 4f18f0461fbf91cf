import Datasets
import Files
import Foundation
import Grafting
import Models
import Plans
import Runs
import TensorCore
import Text

extension JobContext {
  /// Reads the plan of the run and opens its model.
  ///
  /// - Throws: `PlanError` for a plan that cannot be read, `FileError` if the weights of the model
  ///   have changed since the run was made, `FileError` if the model is missing.
  func plan(at path: String) throws -> (GraftPlan, ModelFiles) {
    let plan = try GraftPlan.load(path: run.resolve(path))
    let files = try ModelFiles(plan.model.path)
    let actual = try files.reference()
    guard plan.model.contentHash == actual.contentHash else {
      throw FileError(
        "\(files.modelPath): its weights have changed since the run was made, its hash was"
          + " \(plan.model.contentHash.prefix(12)) and is \(actual.contentHash.prefix(12)); restore the"
          + " file, or start a new run of a plan for these weights")
    }
    try plan.check(against: actual)
    return (plan, files)
  }

  /// Precision of the run's large matrix products: that of its request, otherwise the fastest of
  /// the CPU, which is then stored in the request, so that the run resumes with it on any machine.
  ///
  /// - Throws: `FileError` for an invalid name, or if the request cannot be written.
  func precision() throws -> Precision {
    var request = try run.request()
    if let name = request.precision {
      let kind = request.job.kind
      guard let precision = Precision(rawValue: name), precision != .int8 || kind.hasInt8 else {
        throw FileError(
          "\(run.requestPath): precision is '\(name)', expected fp32\(kind.hasInt8 ? ", bf16 or int8" : " or bf16");"
            + " correct it, or take it out")
      }
      print("large products in \(precision)")
      return precision
    }
    // Runs begun without a stored precision used float32.
    let precision = run.hasBegun ? Precision.float32 : .fastest
    request.precision = precision.rawValue
    let resolved = request
    try whenRoom { try run.writeRequest(resolved) }
    print("large products in \(precision)")
    return precision
  }

  /// Fits the output layers of sites whose initialisation in the plan is a fit in closed form.
  ///
  /// - Parameters:
  ///   - graft: Teacher and graft, in the precision of the run.
  ///   - sites: Sites without trained weights.
  ///   - dataset: Source of the samples.
  /// - Throws: `JobInterruption.cancelled`, and as `RidgeFit`.
  func fitInitially(_ graft: Graft, _ sites: [GraftSite], _ dataset: LatentDataset) throws {
    let fit = RidgeFit(graft)
    let targets = fit.initialTargets(sites)
    guard !targets.isEmpty else { return }
    let settings = graft.plan.stage1
    var throttle = Throttle()
    let unexplained = try fit(
      targets,
      on: TeacherActivations(
        teacher: graft.teacher, dataset: dataset, samples: settings.ridgeSamples,
        seed: graft.plan.seed, labelDropout: settings.labelDropout)
    ) { done, total in
      try checkpoint(step: 0)
      if throttle.isDue() {
        try emit(.progress(done: done, total: total, label: "fitting output layers"))
      }
    }
    let shares = unexplained.sorted { $0.key < $1.key }
      .map { "\($0.key) \(String(format: "%.1f", 100 * (1 - $0.value)))" }
    try emit(
      .message(
        "fitted output layers in closed form; percent of the teacher's variance explained:"
          + " \(shares.joined(separator: ", "))"))
  }

  /// Opens the data of a plan, with events for progress and skipped images.
  ///
  /// - Parameters:
  ///   - settings: The plan's data; nil for the procedural images.
  ///   - files: The model that is trained.
  ///   - teacher: Its network.
  ///   - samples: Total number of samples that the training draws.
  ///   - heldOut: Number of samples of the held-out loss.
  /// - Returns: The data as latents.
  /// - Throws: `JobInterruption.cancelled`, and as `TrainingData` does.
  func trainingData(
    _ settings: DataSettings?, for files: ModelFiles,
    teacher: @autoclosure () throws -> any DiffusionTransformer, samples: Int, heldOut: Int
  ) throws -> TrainingData {
    var throttle = Throttle()
    let data = try whenRoom {
      try TrainingData(
        settings, for: files, teacher: try teacher(), samples: samples, heldOut: heldOut,
        checkpoint: run.hasBegun ? run.latestPath : nil
      ) { done, total, label in
        try checkpoint(step: 0)
        if throttle.isDue() { try emit(.progress(done: done, total: total, label: label)) }
      }
    }
    if !data.skipped.isEmpty {
      let list = data.skipped.map(\.printable).joined(separator: "\n") + "\n"
      try whenRoom { try AtomicFile.write(Data(list.utf8), to: "\(run.path)/skipped.txt") }
      try emit(
        .message(
          "\(data.skipped.count) files cannot be used as images and are left out, see skipped.txt"))
    }
    for note in data.notes { try emit(.message(note)) }
    return data
  }

  /// Reports the sites that start with fresh weights.
  ///
  /// - Throws: `FileError` if the request promises weights of one of them; errors of `emit`.
  func report(untrained sites: [GraftSite]) throws {
    for origin in try run.request().origins ?? [] {
      guard let site = sites.first(where: origin.sites.contains) else { continue }
      throw FileError(
        "\(run.path): \(origin.run) was to provide the weights of \(site.phrase), which are no longer"
          + " in its checkpoint; see 'espalier runs show \(origin.run)', then start the run again")
    }
    guard !sites.isEmpty else { return }
    try emit(.message("untrained: \(sites.map(\.description).joined(separator: ", "))"))
  }
}
