import Checkpoints
import Files
import Foundation
import Grafting
import Models
import Plans
import Runs
import TensorCore

/// The model of a request with its files, which are opened when it is loaded.
package struct SourceModel {
  package let files: ModelFiles
  package let source: ModelSource
  /// The plan that is grafted onto it, or that a bare graft was made with.
  package let plan: GraftPlan?
  /// Checkpoints of grafted operators, later ones overriding earlier ones.
  package let checkpoints: [String]

  /// Describes a model.
  package init(
    _ files: ModelFiles, _ source: ModelSource, plan: GraftPlan? = nil, checkpoints: [String] = []
  ) {
    (self.files, self.source, self.plan, self.checkpoints) = (files, source, plan, checkpoints)
  }

  /// Opens the model of a run's request.
  ///
  /// - Throws: `FileError` for missing files, `PlanError` for a plan that does not fit.
  init(_ source: ModelSource, in run: RunDirectory) throws {
    let files = try ModelFiles(source.path)
    let plan = try source.planPath.map { try GraftPlan.load(path: run.resolve($0)) }
    if let plan, !source.isBareGraft { try plan.check(against: try files.reference()) }
    self.init(
      files, source, plan: plan, checkpoints: try source.weights.map { try run.weightsPath($0) })
  }

  /// Loads the model and its metadata in float32.
  ///
  /// - Throws: `FileError`, `PlanError`.
  package func load() throws -> (model: any DiffusionTransformer, metadata: [String: String]) {
    let loaded = try unadapted()
    for path in source.adapters {
      try LoRAFile(path: path).merge(into: loaded.model, strength: Float(source.adapterScale))
    }
    return loaded
  }

  /// Loads the model for inference; the weights of a plan's graft are also kept in float32.
  package func network(_ precision: Precision) throws -> any DiffusionTransformer {
    guard plan != nil || !source.adapters.isEmpty else {
      return try files.model.network(forInference: precision)
    }
    let model = try load().model
    model.parameters.use(precision)
    return model
  }

  private func unadapted() throws -> (
    model: any DiffusionTransformer, metadata: [String: String]
  ) {
    let (file, metadata) = (files.model, try files.model.metadata())
    guard let plan else { return (try file.network(), metadata) }
    if source.isBareGraft {
      return (
        try file.network(changes: plan.changes, forInference: nil),
        try metadata.merging(DiTFile.metadata(of: plan)) { $1 }
      )
    }
    let graft = try Graft(plan: plan, teacher: try file.network(), checkpoints: checkpoints)
    if let last = checkpoints.last, !source.allowsFresh, let site = graft.untrained.first {
      throw FileError(
        "\(last): holds no trained weights of \(site.phrase) as the plan \(plan.name) has it; "
          + "give the checkpoint of a run of this plan, leave out --weights for fresh ones, or mix them by"
          + " --allow-mixture")
    }
    return (graft.model, try graft.metadata(teacher: metadata))
  }

  /// What an image depends on besides the sampler: digests of the model, its plan, weights, adapters and
  /// autoencoder.
  package func provenance() throws -> [String: String] {
    var entries = ["model": files.modelPath, "model_digest": try files.contentHash()]
    let cache = try ModelFiles.cacheDirectory()
    func digest(_ paths: [String]) throws -> String {
      try paths.map { try ContentHash.sha256(paths: [$0], keptIn: cache) }.joined(separator: " ")
    }
    entries["weights_average"] = try averaging()
    if let plan {
      entries["plan"] = plan.summary
      entries["plan_digest"] = ContentHash.sha256(try plan.json())
    }
    if !checkpoints.isEmpty {
      entries["weights"] = checkpoints.joined(separator: " ")
      entries["weights_digest"] = try digest(checkpoints)
    }
    if !source.adapters.isEmpty {
      entries["adapters"] = source.adapters.joined(separator: " ")
      entries["adapters_digest"] = try digest(source.adapters)
      entries["adapter_scale"] = "\(source.adapterScale)"
    }
    if let path = source.autoencoder ?? files.autoencoderPath {
      entries["autoencoder"] = path
      entries["autoencoder_digest"] = try digest(try AutoencoderKL.files(of: path))
    }
    return entries
  }

  /// What numbers state about a precision: that of the network's products, and that of the autoencoder where it
  /// differs; float32 where no weight is large enough for another.
  ///
  /// - Throws: `FileError` for files that cannot be read.
  package func stated(_ precision: Precision) throws -> [String: String] {
    func used(_ wanted: Precision, _ files: [any TensorFile]) -> String {
      let rule = PrecisionRule(wanted)
      let entries = files.lazy.flatMap { file in file.names.lazy.compactMap { file.entry($0) } }
      let isUsed = entries.contains {
        [2, 4].contains($0.shape.count) && !$0.name.contains("embedding_table")
          && rule.precision(forWeightOf: $0.count) == wanted
      }
      return (isUsed ? wanted : .float32).rawValue
    }
    let network = used(
      precision,
      try [files.model.tensors] + checkpoints.map { try ModelWeights(path: $0).tensors })
    var entries = ["precision": network]
    if let path = source.autoencoder ?? files.autoencoderPath {
      let own = used(precision.withoutInt8, [try AutoencoderKL.file(of: path)])
      if own != network { entries["autoencoder_precision"] = own }
    }
    return entries
  }

  /// Sites of a plan whose operators have no trained weights.
  package func untrained() throws -> [GraftSite] {
    guard let plan, !source.isBareGraft else { return [] }
    return try Graft.untrained(plan, checkpoints: checkpoints)
  }

  /// Whether the weights are moving averages of a training, as far as the files tell, and which were never trained.
  private func averaging() throws -> String {
    let fresh = try untrained()
    guard let plan, !fresh.isEmpty else { return trainedAveraging }
    guard fresh.count < plan.sites.count else { return "operators fresh (untrained)" }
    return "\(trainedAveraging); fresh (untrained): "
      + PlanWeights.list(fresh, depth: plan.model.shape.depth)
  }

  private var trainedAveraging: String {
    if files.model.tensors.container?.hasPrefix("ema") == true { return "EMA of the checkpoint" }
    if files.model.plan != nil || plan != nil {
      let isFinetuned =
        (try? files.model.metadata())?["finetuning_steps"] != nil
        || checkpoints.contains {
          (try? ModelWeights(path: $0))?.metadata["finetuning_steps"] != nil
        }
      return isFinetuned
        ? "EMA of the finetuning" : "operators as trained, the rest as in the model"
    }
    return files.name == ModelFiles.demo ? "EMA of the pretraining" : "as in the file"
  }
}
