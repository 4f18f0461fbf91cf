import Autograd
import Checkpoints
import Files
import Foundation
import Models
import Nn
import Operators
import Plans
import TensorCore

/// Teacher and the grafted model of a plan, with replacement operators and parallel blocks.
package final class Graft {
  package let plan: GraftPlan
  package let teacher: any DiffusionTransformer
  /// The grafted model; it shares all weights outside the sites of the plan with the teacher.
  package let model: any DiffusionTransformer
  /// Precision of the products in large linear layers of teacher and model.
  package private(set) var precision = Precision.float32
  /// Sites without weights in any checkpoint: operators and merges have initial weights, parallel
  /// blocks those of the teacher.
  package let untrained: [GraftSite]

  /// Builds a graft whose operators are initialised from the seed of the plan, or by transfer from
  /// the replaced operators where the plan says so; parallel blocks start from the teacher's
  /// weights.
  ///
  /// - Throws: as `init(plan:teacher:checkpoints:)`.
  package convenience init(fresh plan: GraftPlan, teacher: any DiffusionTransformer) throws {
    try self.init(plan: plan, teacher: teacher, checkpoints: [])
  }

  /// Builds a graft with weights from checkpoints of runs, later ones overriding earlier ones.
  ///
  /// The weights of a site are loaded from a checkpoint with the same operator and settings there
  /// and, for a pair, the same merge. All other sites are listed in `untrained`.
  ///
  /// - Parameters:
  ///   - plan: A valid plan for this teacher.
  ///   - teacher: The pretrained model.
  ///   - checkpoints: Checkpoints, operators or grafted models of runs.
  /// - Throws: `FileError` for a file that cannot be read or holds no plan, `PlanError` for an
  ///   operator that cannot be built, or a teacher that has parallel blocks itself.
  package init(
    plan: GraftPlan, teacher: any DiffusionTransformer, checkpoints: [String]
  ) throws {
    guard teacher.merges.isEmpty else {
      throw PlanError(
        key: "model.path",
        "\(plan.model.path) has parallel blocks, and only pretrained models can be grafted;"
          + " make one plan of all changes for its teacher")
    }
    self.plan = plan
    self.teacher = teacher
    let pairs = plan.parallel.keys.map(GraftSite.pair)
    var source: any WeightSource = OverlayWeights(
      top: StartWeights(plan: plan, teacher: teacher),
      holds: Keys(
        below: plan.edits.keys.map(\.checkpointPrefix) + plan.parallel.keys.map(\.mergePrefix)),
      base: TeacherWeights(
        teacher, copied: pairs.flatMap(\.checkpointPrefixes), origin: plan.model.path))
    var untrained = Set(plan.sites)
    for path in checkpoints {
      let (file, shared, others) = try Self.trained(at: path, for: plan)
      var holds = Keys(below: shared.flatMap(\.checkpointPrefixes))
      holds.others = others.map { (plan.sites + $0).flatMap(\.checkpointPrefixes) }
      source = OverlayWeights(top: FileWeights(file), holds: holds, base: source)
      untrained.subtract(shared)
    }
    self.untrained = untrained.sorted()
    model = try teacher.remade(with: plan.changes, weights: source)
  }

  /// The sites of a plan that have weights in none of some checkpoints.
  ///
  /// - Throws: as `init(plan:teacher:checkpoints:)`, for the checkpoints.
  package static func untrained(_ plan: GraftPlan, checkpoints: [String]) throws -> [GraftSite] {
    var sites = Set(plan.sites)
    for path in checkpoints { sites.subtract(try trained(at: path, for: plan).shared) }
    return sites.sorted()
  }

  /// Reads the weights of a checkpoint (operators or grafted model) and the sites that they fit.
  ///
  /// - Parameters:
  ///   - path: The file; without a plan, as official files are, the sites follow from the weights.
  ///   - plan: The plan that the weights are for.
  /// - Returns: The tensors, the matching sites of the plan, and all sites of a whole model; nil
  ///   for operators alone.
  /// - Throws: `FileError` for a file that is no graft or belongs to another model.
  private static func trained(
    at path: String, for plan: GraftPlan
  ) throws -> (any TensorFile, shared: [GraftSite], others: [GraftSite]?) {
    let weights = try ModelWeights(path: path)
    let isWhole = weights.family != nil
    guard let text = weights.metadata[DiTFile.planKey] else {
      guard isWhole else {
        throw FileError(
          "\(path): has neither '\(DiTFile.planKey)' in the metadata nor the weights of a whole grafted"
            + " model; give a checkpoint, the operators or the model of a run")
      }
      let file = try weights.model(numHeads: plan.model.shape.numHeads)
      let shared = plan.sites.filter { site in
        guard case .slot(let id) = site, let spec = plan.edits[id] else { return false }
        return file.has(spec, at: id)
      }
      let sites = file.changes.edits.keys.map(GraftSite.slot)
      return (weights.tensors, shared, sites + file.changes.parallel.keys.map(GraftSite.pair))
    }
    let trained = try GraftPlan.parse(text, file: "\(path) (embedded plan)")
    guard trained.model.contentHash == plan.model.contentHash else {
      throw FileError(
        "\(path): was grafted from another model than the plan's, \(plan.model.path); give a"
          + " checkpoint of a run on that model")
    }
    // Names are those of the file; of a stage 2 checkpoint, which has several state dicts, those of its averages.
    let isOwn =
      weights.tensors.metadata[DiTFile.planKey] != nil
      && weights.tensors.metadata["espalier_file"] != Finetuning.kind
    return (
      isOwn ? weights.tensors.file : weights.tensors,
      plan.sites.filter { plan.agrees(with: trained, at: $0) }, isWhole ? trained.sites : nil
    )
  }

  /// The replacement in a slot; nil where the slot is not edited.
  package func replacement(_ id: SlotID) -> (any GraftOperator)? {
    guard plan.edits[id] != nil else { return nil }
    return model.replaceable(id)
  }

  /// Parameters that stage 1 trains at a site of the plan.
  package func parameters(of site: GraftSite) -> [Parameter] {
    switch site {
    case .slot(let id): replacement(id)?.parameters ?? []
    case .pair(let pair): model.parameters(of: pair)
    }
  }

  /// Sets the precision of the products in large linear layers of teacher and graft.
  package func use(_ precision: Precision) {
    self.precision = precision
    teacher.parameters.use(precision)
    model.parameters.use(precision)
  }

  /// Writes only the weights of the sites, with the plan in the metadata.
  package func saveOperators(to path: String) throws {
    try save(plan.sites.flatMap(parameters), to: path, metadata(teacher: [:]))
  }

  /// Writes the whole grafted model, with the plan in the metadata.
  ///
  /// - Throws: `FileError` if the file cannot be written.
  package func saveModel(to path: String, teacherMetadata: [String: String]) throws {
    try save(model.parameters, to: path, metadata(teacher: teacherMetadata))
  }

  /// Metadata of the grafted model: that of the teacher's file, and the plan.
  package func metadata(teacher: [String: String]) throws -> [String: String] {
    try teacher.merging(DiTFile.metadata(of: plan)) { $1 }
  }

  private func save(_ parameters: [Parameter], to path: String, _ metadata: [String: String]) throws
  {
    try SafetensorsWriter.write(
      parameters.map { TensorItem(name: $0.name, $0.value) }, metadata: metadata, to: path)
  }
}

/// Tensors of the teacher, copied for keys under some prefixes.
private struct TeacherWeights: WeightSource {
  private let weights: DictionaryWeights
  private let copied: [String]

  init(_ teacher: any DiffusionTransformer, copied: [String], origin: String) {
    weights = DictionaryWeights(of: teacher, origin: origin)
    self.copied = copied
  }

  func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Tensor {
    let own = try weights.tensor(name, shape, initializer)
    return copied.contains(where: name.hasPrefix) ? own.copied() : own
  }
}

/// Set of keys: those under some prefixes, and optionally those under none of some other prefixes.
private struct Keys {
  let prefixes: [String]
  /// Prefixes of the parameters of other files; nil includes no keys outside `prefixes`.
  var others: [String]?

  init(below prefixes: [String]) { self.prefixes = prefixes }

  func contains(_ name: String) -> Bool {
    if prefixes.contains(where: name.hasPrefix) { return true }
    // The position table is a constant, which files may leave out.
    guard let others, name != "pos_embed" else { return false }
    return !others.contains(where: name.hasPrefix)
  }
}

/// Reads some parameters from one source and all others from another.
private struct OverlayWeights: WeightSource {
  let top: any WeightSource
  let holds: Keys
  let base: any WeightSource

  func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Tensor {
    try (holds.contains(name) ? top : base).tensor(name, shape, initializer)
  }
}

/// Initial weights of replacements: freshly drawn, or transferred where the plan says so.
private struct StartWeights: WeightSource {
  private let fresh: FreshWeights
  private let teacher: DictionaryWeights
  private let shapes: [String: [Int]]
  private let transfers: [(prefix: String, transfer: WeightTransfer)]

  init(plan: GraftPlan, teacher: any DiffusionTransformer) {
    fresh = FreshWeights(seed: plan.seed)
    self.teacher = DictionaryWeights(of: teacher, origin: plan.model.path)
    shapes = Dictionary(
      uniqueKeysWithValues: teacher.parameters.map { ($0.name, $0.shape) })
    transfers = plan.edits.compactMap { id, spec in
      guard plan.stage1.initialization(of: .slot(id)).isTransferred else { return nil }
      return OperatorRegistry.transfer(spec).map {
        (prefix: id.checkpointPrefix, transfer: $0)
      }
    }
  }

  func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Tensor {
    let own = fresh.tensor(name, shape, initializer)
    guard let (prefix, transfer) = transfers.first(where: { name.hasPrefix($0.prefix) }) else {
      return own
    }
    return try transfer(String(name.dropFirst(prefix.count)), own: own) { key in
      try teacher.tensor(prefix + key, shapes[prefix + key] ?? [], initializer)
    }
  }
}

extension DictionaryWeights {
  /// Makes a source of the parameters of a model.
  fileprivate init(of model: any DiffusionTransformer, origin: String) {
    self.init(
      Dictionary(uniqueKeysWithValues: model.parameters.map { ($0.name, $0.value) }),
      origin: origin)
  }
}
