import Checkpoints
import Files
import Foundation
import Nn
import Plans
import TensorCore

/// DiT, SiT or LightningDiT on disk: a file of weights in any format, or a folder of diffusers.
///
/// The configuration is read from the metadata of the file, otherwise from `NAME.json` next to it,
/// otherwise from the `config.json` of diffusers, otherwise inferred from names and shapes of the
/// weights; the changes of a graft are read from its plan, otherwise inferred.
package struct DiTFile: ModelFile {
  /// The weights.
  package let weights: ModelWeights
  package let config: ModelShape
  /// Names of the classes, if known.
  package let classNames: [String]
  /// Naming of the parameters in the file.
  package let naming: DiTNaming
  /// All files of the model.
  package let files: [String]
  /// The plan of a grafted model; nil for a pretrained model, and for a graft without a plan.
  package let plan: GraftPlan?
  /// Changes to the pretrained model; empty for a pretrained model.
  package let changes: GraftPlan.Changes
  /// Assumptions, in sentences.
  package let notes: [String]
  /// Operators inferred from the weights; empty if the file has a plan.
  package let operators: [SlotID: OperatorSpec]

  package var shape: ModelShape { config }
  package var namingName: String { naming.rawValue }

  /// Metadata key of the plan of a grafted model.
  package static let planKey = "espalier_plan"

  /// The metadata of a model file.
  package static func metadata(config: ModelShape, classNames: [String], name: String) throws
    -> [String: String]
  {
    ["config": try StatedShape(config, classNames: classNames, name: name).json()]
  }

  /// The metadata entry of a plan.
  ///
  /// - Throws: `PlanError` for a plan that is not valid.
  package static func metadata(of plan: GraftPlan) throws -> [String: String] {
    [planKey: String(decoding: try plan.json(), as: UTF8.self)]
  }

  /// Opens a model and reads its configuration; the tensors stay on disk.
  ///
  /// - Parameters:
  ///   - path: The file or folder.
  ///   - numHeads: Attention heads of a model without a configuration whose size is not a published
  ///     one.
  /// - Throws: `FileError` if the file is not a DiT or its configuration is invalid, `PlanError` if
  ///   its plan is invalid.
  package init(path: String, numHeads: Int? = nil) throws {
    try self.init(ModelWeights(path: path), numHeads: numHeads)
  }

  /// Makes a model file from open weights.
  package init(_ weights: ModelWeights, numHeads: Int? = nil) throws {
    let (tensors, path) = (weights.tensors, weights.path)
    try weights.requirePlain()
    let recognition = try FamilyRecognition(weights)
    let text = weights.metadata["config"]
    let own = try text.flatMap { text throws(FileError) in
      try StatedShape(text, file: path)
    }
    var stated = own ?? StatedShape()
    stated.add(arguments: tensors.values)
    stated.numHeads = numHeads ?? stated.numHeads
    var files = weights.files
    let plan = try weights.metadata[Self.planKey].map {
      try GraftPlan.parse($0, file: "\(path) (embedded plan)")
    }
    naming = DiTKeyMap.isDiffusers(tensors) ? .diffusers : .official
    var notes = [tensors.note].compactMap(\.self) + (recognition?.notes ?? [])
    var operators: [SlotID: OperatorSpec] = [:]
    var config: ModelShape
    if naming == .diffusers {
      try weights.folder?.requireKnownScheduler()
      if let complete = stated.complete {
        config = complete
        try config.validate(file: path)
      } else {
        let place = "\(AtomicFile.directory(of: path))/config.json"
        config = try DiffusersFolder.config(place)
        files.append(place)
      }
      changes = plan?.changes ?? GraftPlan.Changes()
    } else if let plan, let complete = stated.complete {
      (config, changes) = (complete, plan.changes)
      try config.validate(file: path)
    } else {
      let detected = try DetectedDiT(in: tensors, stated: stated)
      (config, changes) = (detected.shape, plan?.changes ?? detected.changes)
      if plan == nil { notes += detected.notes }
      operators = detected.operators
    }
    config.family = recognition?.family ?? .dit
    config.reversedTime =
      stated.reversedTime
      ?? (config.family.prediction == .velocity && recognition?.reversesTime == true)
    self.config = config
    let names = stated.classNames ?? weights.folder?.classNames ?? []
    classNames = names.count == config.numClasses ? names : []
    self.weights = weights
    self.files = files
    self.plan = plan
    self.notes = notes
    self.operators = operators
  }

  /// The metadata of the file, with the configuration.
  ///
  /// - Throws: Never in practice; encoding could.
  package func metadata() throws -> [String: String] {
    var metadata = weights.metadata
    let name = config.publishedName ?? config.family.rawValue
    metadata.merge(
      try Self.metadata(config: config, classNames: classNames, name: name)
    ) { text, new in
      let stated = try? StatedShape(text, file: path)
      return stated?.complete == nil || stated?.family != config.family.rawValue ? new : text
    }
    return metadata
  }

  /// Loads the model with the replacement operators and parallel blocks that it has.
  ///
  /// - Parameters:
  ///   - changes: Changes to the pretrained model, for settings that the weights do not determine;
  ///     nil selects those of the file.
  ///   - precision: Precision of a model for inference only, see `SealedWeights`; nil for a model
  ///     that may be trained.
  /// - Returns: The model.
  /// - Throws: `FileError` for a missing, unexpected or wrongly shaped tensor, `PlanError` for an
  ///   operator that cannot be built.
  package func load(
    changes: GraftPlan.Changes? = nil, forInference precision: Precision? = nil
  ) throws -> DiT {
    let changes = changes ?? self.changes
    let plain = FileWeights(tensors)
    let file = tensors
    // A file in the official naming may lack the position table, which is a constant.
    let named =
      naming == .diffusers
      ? DiTKeyMap.renamed(plain)
      : RenamedWeights(plain) {
        $0 == DiTKeyMap.positionTable && file.entry($0) == nil ? [] : [$0]
      }
    guard changes.parallel.isEmpty || naming == .official else {
      throw FileError(
        "\(path): has parallel blocks, for which diffusers has no names; use the model's own file")
    }
    let model = try named.loading(precision) {
      try DiT(config: config, edits: changes.edits, parallel: changes.parallel, weights: $0)
    }
    var known = Set(model.parameters.map(\.name))
    if naming == .diffusers {
      try DiTKeyMap.requireSharedEmbedders(tensors, depth: config.depth)
      known = [DiTKeyMap.storedPositionTable]
      for parameter in model.parameters {
        let copies = DiTKeyMap.isEmbedder(parameter.name) ? config.depth : 1
        for block in 0..<copies {
          known.formUnion(
            DiTKeyMap.diffusersKeys(parameter.name, embeddersOf: block) ?? [parameter.name])
        }
      }
    }
    if let extra = tensors.names.first(where: {
      !known.contains($0) && !FamilyRecognition.isLeftOut($0)
    }) {
      throw FileError(
        "\(path): tensor '\(extra)' belongs to no parameter of this model; "
          + "check that the file holds a DiT of depth \(config.depth)")
    }
    return model
  }

  package func network(
    changes: GraftPlan.Changes?, forInference precision: Precision?
  ) throws -> any DiffusionTransformer {
    try load(changes: changes, forInference: precision)
  }
}

extension StatedShape {
  /// The architecture, if it is stated completely.
  fileprivate var complete: ModelShape? {
    guard let depth, let hiddenSize, let numHeads, let patchSize, let inputSize, let inChannels,
      let numClasses, let learnSigma, let mlpRatio
    else { return nil }
    var shape = ModelShape(
      depth: depth, hiddenSize: hiddenSize, numHeads: numHeads, patchSize: patchSize,
      inputSize: inputSize, inChannels: inChannels, numClasses: numClasses, learnSigma: learnSigma,
      mlpRatio: mlpRatio)
    shape.hasNullClass = hasNullClass ?? true
    shape.frequencyShift = frequencyShift ?? 0
    shape.mlpNormEpsilon = mlpNormEpsilon ?? ModelShape.officialEpsilon
    (shape.rmsNorm, shape.queryKeyNorm) = (rmsNorm ?? false, qkNorm ?? false)
    (shape.rotary, shape.swiglu) = (rotary ?? false, swiglu ?? false)
    (shape.mlpBias, shape.blockShift) = (mlpBias ?? true, blockShift ?? true)
    return shape
  }
}
