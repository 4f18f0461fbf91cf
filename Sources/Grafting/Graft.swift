import Autograd
import Checkpoints
import Files
import Foundation
import Models
import Nn
import Operators
import Plans
import TensorCore

/// A teacher and what a plan makes of it: replacement operators and parallel blocks.
package final class Graft {
  package let plan: GraftPlan
  package let teacher: DiT
  /// The teacher as the plan changes it; all weights outside the plan's sites are shared with it.
  package let model: DiT
  /// What large linear layers of teacher and model multiply in.
  package private(set) var precision = Precision.float32
  /// Sites whose weights no checkpoint gave: operators and merges are as at their start there,
  /// parallel blocks have the teacher's weights.
  package let untrained: [GraftSite]

  /// Builds a graft whose operators start fresh from the plan's seed, or from weights of what they
  /// replace where the plan says so, and whose parallel blocks start from the teacher's weights.
  ///
  /// - Throws: as `init(plan:teacher:checkpoints:)`.
  package convenience init(fresh plan: GraftPlan, teacher: DiT) throws {
    try self.init(plan: plan, teacher: teacher, checkpoints: [])
  }

  /// Builds a graft with weights from checkpoints of runs, later ones winning.
  ///
  /// A site takes its weights from a checkpoint that trained the same there: in a slot the same
  /// operator with the same settings, in a pair also the same merge. All others are listed in
  /// `untrained`.
  ///
  /// - Parameters:
  ///   - plan: A valid plan for this teacher.
  ///   - teacher: The pretrained model.
  ///   - checkpoints: Checkpoints, operators or grafted models of runs.
  /// - Throws: `FileError` for a file that cannot be read or holds no plan, `PlanError` for an
  ///   operator that cannot be built, or a teacher that has parallel blocks itself.
  package init(plan: GraftPlan, teacher: DiT, checkpoints: [String]) throws {
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
    model = try DiT(
      config: teacher.config, edits: plan.edits, parallel: plan.parallel, weights: source)
  }

  /// The weights of a checkpoint, operators or grafted model, and what of a plan they were trained as.
  ///
  /// - Parameters:
  ///   - path: The file; one without a plan, as official ones are, is judged by its weights.
  ///   - plan: The plan that the weights are for.
  /// - Returns: The tensors, the sites of the plan that they fit, and all sites of a whole model; nil for
  ///   operators alone.
  /// - Throws: `FileError` for a file that is no graft, or one of another model.
  private static func trained(
    at path: String, for plan: GraftPlan
  ) throws -> (any TensorFile, shared: [GraftSite], others: [GraftSite]?) {
    let weights = try ModelWeights(path: path)
    let isWhole = weights.family == .dit
    guard let text = weights.metadata[DiTFile.planKey] else {
      guard isWhole else {
        throw FileError(
          "\(path): has neither '\(DiTFile.planKey)' in the metadata nor the weights of a whole grafted"
            + " model; give a checkpoint, the operators or the model of a run")
      }
      let file = try DiTFile(weights, numHeads: plan.model.shape.numHeads)
      let shared = plan.sites.filter { site in
        guard case .slot(let id) = site, let spec = plan.edits[id] else { return false }
        return file.has(spec, at: id)
      }
      let sites = file.changes.edits.keys.map(GraftSite.slot)
      return (weights.tensors, shared, sites + file.changes.parallel.keys.map(GraftSite.pair))
    }
    let trained = try GraftPlan.parse(text, file: "\(path) (embedded plan)")
    guard !isWhole || trained.model.contentHash == plan.model.contentHash else {
      throw FileError(
        "\(path): was grafted from another model than the plan's, \(plan.model.path); give a"
          + " checkpoint of a run on that model")
    }
    // A training's own checkpoint has several state dicts; the names here are those of the file.
    let isOwn = weights.tensors.metadata[DiTFile.planKey] != nil
    return (
      isOwn ? weights.tensors.file : weights.tensors,
      plan.sites.filter { plan.agrees(with: trained, at: $0) }, isWhole ? trained.sites : nil
    )
  }

  /// The replacement in a slot; nil where the slot is not edited.
  package func replacement(_ id: SlotID) -> (any GraftOperator)? {
    guard plan.edits[id] != nil else { return nil }
    let block = model.blocks[id.block]
    return id.slot == .attention ? block.sequenceMixer : block.channelMixer
  }

  /// What stage 1 trains at a site of the plan.
  package func parameters(of site: GraftSite) -> [Parameter] {
    switch site {
    case .slot(let id): replacement(id)?.parameters ?? []
    case .pair(let pair): model.parameters(of: pair)
    }
  }

  /// Chooses what large linear layers of teacher and graft multiply in.
  package func use(_ precision: Precision) {
    self.precision = precision
    teacher.parameters.use(precision)
    model.parameters.use(precision)
  }

  /// Writes the weights of the plan's sites alone, with the plan in the metadata.
  package func saveOperators(to path: String) throws {
    try save(plan.sites.flatMap(parameters), to: path, metadata(teacher: [:]))
  }

  /// Writes the whole grafted model, with the plan in the metadata.
  ///
  /// - Parameters:
  ///   - path: The file to write.
  ///   - teacherMetadata: Metadata of the teacher's file, kept.
  /// - Throws: `FileError` if the file cannot be written.
  package func saveModel(to path: String, teacherMetadata: [String: String]) throws {
    try save(model.parameters, to: path, metadata(teacher: teacherMetadata))
  }

  /// The metadata of the grafted model: those of the teacher's file, and the plan.
  package func metadata(teacher: [String: String]) throws -> [String: String] {
    try teacher.merging(DiTFile.metadata(of: plan)) { $1 }
  }

  private func save(_ parameters: [Parameter], to path: String, _ metadata: [String: String]) throws
  {
    try SafetensorsWriter.write(
      parameters.map { TensorItem(name: $0.name, $0.value) }, metadata: metadata, to: path)
  }
}

/// The teacher's own tensors, and copies of them under some prefixes.
private struct TeacherWeights: WeightSource {
  private let weights: DictionaryWeights
  private let copied: [String]

  init(_ teacher: DiT, copied: [String], origin: String) {
    weights = DictionaryWeights(of: teacher, origin: origin)
    self.copied = copied
  }

  func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Tensor {
    let own = try weights.tensor(name, shape, initializer)
    return copied.contains(where: name.hasPrefix) ? own.copied() : own
  }
}

/// The parameters below some prefixes, and perhaps all that are below none of some others.
private struct Keys {
  let prefixes: [String]
  /// Where the parameters of other files are; nil takes nothing outside `prefixes`.
  var others: [String]?

  init(below prefixes: [String]) { self.prefixes = prefixes }

  func contains(_ name: String) -> Bool {
    if prefixes.contains(where: name.hasPrefix) { return true }
    // The position table is a constant, which files may leave out.
    guard let others, name != "pos_embed" else { return false }
    return !others.contains(where: name.hasPrefix)
  }
}

/// Takes some parameters from one source, and all others from another.
private struct OverlayWeights: WeightSource {
  let top: any WeightSource
  let holds: Keys
  let base: any WeightSource

  func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Tensor {
    try (holds.contains(name) ? top : base).tensor(name, shape, initializer)
  }
}

/// What replacements start from: fresh weights, with those of the original where the plan says so.
private struct StartWeights: WeightSource {
  private let fresh: FreshWeights
  private let teacher: DictionaryWeights
  private let shapes: [String: [Int]]
  private let transfers: [(prefix: String, transfer: WeightTransfer)]

  init(plan: GraftPlan, teacher: DiT) {
    fresh = FreshWeights(seed: plan.seed)
    self.teacher = DictionaryWeights(of: teacher, origin: plan.model.path)
    shapes = Dictionary(
      uniqueKeysWithValues: teacher.parameters.map { ($0.name, $0.shape) })
    transfers = plan.edits.compactMap { id, spec in
      guard plan.stage1.initialization(of: id) == .transferred else { return nil }
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
  /// The parameters of a model under their names.
  fileprivate init(of model: DiT, origin: String) {
    self.init(
      Dictionary(uniqueKeysWithValues: model.parameters.map { ($0.name, $0.value) }),
      origin: origin)
  }
}
