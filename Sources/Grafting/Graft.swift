import Autograd
import Checkpoints
import Foundation
import Models
import Nn
import Operators
import Plans
import TensorCore

/// A teacher and the replacement operators of a plan.
package final class Graft {
  package let plan: GraftPlan
  package let teacher: DiT
  /// The teacher with the replacements in their slots; all other weights are shared with it.
  package let model: DiT
  /// Edited slots whose replacement started fresh, in order.
  package let freshSlots: [SlotID]

  /// Builds the replacements of a plan.
  ///
  /// - Parameters:
  ///   - plan: A valid plan for this teacher.
  ///   - teacher: The pretrained model.
  ///   - weights: Source of the replacements' parameters, under their full checkpoint keys.
  ///   - freshSlots: Slots that `weights` draws freshly.
  /// - Throws: `PlanError` for an operator that cannot be built, errors of the weight source.
  private init(
    plan: GraftPlan, teacher: DiT, weights: any WeightSource, freshSlots: [SlotID]
  ) throws {
    self.plan = plan
    self.teacher = teacher
    self.freshSlots = freshSlots
    model = try DiT(
      config: teacher.config, edits: plan.edits,
      weights: GraftWeights(plan: plan, teacher: teacher, replacements: weights))
  }

  /// Builds a graft whose replacements start fresh from the plan's seed, or from weights of what they
  /// replace where the plan says so.
  package convenience init(fresh plan: GraftPlan, teacher: DiT) throws {
    try self.init(
      plan: plan, teacher: teacher, weights: StartWeights(plan: plan, teacher: teacher),
      freshSlots: plan.edits.keys.sorted())
  }

  /// Builds a graft whose replacements come from checkpoints of runs, later ones winning.
  ///
  /// A slot takes its weights from a checkpoint that trained the same operator with the same settings
  /// there; all others start fresh and are listed in `freshSlots`.
  /// - Throws: `CheckpointError` for a file that cannot be read or holds no plan.
  package convenience init(plan: GraftPlan, teacher: DiT, checkpoints: [String]) throws {
    var source: any WeightSource = StartWeights(plan: plan, teacher: teacher)
    var fresh = Set(plan.edits.keys)
    for path in checkpoints {
      let file = try SafetensorsFile(path: path)
      guard let text = file.metadata[DiTFile.planKey] else {
        throw CheckpointError(
          "\(path): no '\(DiTFile.planKey)' in the metadata; give a checkpoint or the operators of a run"
        )
      }
      let trained = try GraftPlan.parse(text, file: "\(path) (embedded plan)")
      let shared = plan.edits.filter { trained.edits[$0.key] == $0.value }.keys
      source = OverlayWeights(
        top: FileWeights(file), prefixes: shared.map(\.checkpointPrefix), base: source)
      fresh.subtract(shared)
    }
    try self.init(plan: plan, teacher: teacher, weights: source, freshSlots: fresh.sorted())
  }

  /// The replacement in a slot; nil where the slot is not edited.
  package func replacement(_ id: SlotID) -> (any GraftOperator)? {
    guard plan.edits[id] != nil else { return nil }
    let block = model.blocks[id.block]
    return id.slot == .attention ? block.sequenceMixer : block.channelMixer
  }

  /// The edited slots, in order.
  package var slots: [SlotID] { plan.edits.keys.sorted() }

  /// Writes the replacements alone, with the plan in the metadata.
  package func saveOperators(to path: String) throws {
    try save(slots.flatMap { replacement($0)?.parameters ?? [] }, to: path, metadata(teacher: [:]))
  }

  /// Writes the whole grafted model, with the plan in the metadata.
  ///
  /// - Parameters:
  ///   - path: The file to write.
  ///   - teacherMetadata: Metadata of the teacher's file, kept.
  /// - Throws: `CheckpointError` if the file cannot be written.
  package func saveModel(to path: String, teacherMetadata: [String: String]) throws {
    try save(model.parameters, to: path, metadata(teacher: teacherMetadata))
  }

  /// The metadata of the grafted model: those of the teacher's file, and the plan.
  package func metadata(teacher: [String: String]) throws -> [String: String] {
    var metadata = teacher
    metadata[DiTFile.planKey] = String(decoding: try plan.json(), as: UTF8.self)
    return metadata
  }

  private func save(_ parameters: [Parameter], to path: String, _ metadata: [String: String]) throws
  {
    try SafetensorsWriter.write(
      parameters.map { .init(name: $0.name, shape: $0.value.shape, floats: $0.value.values) },
      metadata: metadata, to: path)
  }
}

/// Gives edited slots the replacements' parameters, and everything else the teacher's own tensors.
private struct GraftWeights: WeightSource {
  private let prefixes: [String]
  private let teacher: DictionaryWeights
  private let replacements: any WeightSource

  init(plan: GraftPlan, teacher: DiT, replacements: any WeightSource) {
    prefixes = plan.edits.keys.map(\.checkpointPrefix)
    self.teacher = DictionaryWeights(of: teacher, origin: plan.model.path)
    self.replacements = replacements
  }

  func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Tensor {
    prefixes.contains(where: name.hasPrefix)
      ? try replacements.tensor(name, shape, initializer)
      : try teacher.tensor(name, shape, initializer)
  }
}

/// Takes the parameters under some prefixes from one source, and all others from another.
private struct OverlayWeights: WeightSource {
  let top: FileWeights
  let prefixes: [String]
  let base: any WeightSource

  func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Tensor {
    prefixes.contains(where: name.hasPrefix)
      ? try top.tensor(name, shape, initializer) : try base.tensor(name, shape, initializer)
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
      uniqueKeysWithValues: teacher.parameters.map { ($0.name, $0.value.shape) })
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
