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

  private init(
    plan: GraftPlan, teacher: DiT, weights: any WeightSource, freshSlots: Set<SlotID>
  ) throws {
    self.plan = plan
    self.teacher = teacher
    self.freshSlots = freshSlots.sorted()
    model = try DiT(config: teacher.config, edits: plan.edits, weights: weights)
  }

  /// Builds a graft whose replacements start fresh from the plan's seed.
  ///
  /// - Parameters:
  ///   - plan: A valid plan for this teacher.
  ///   - teacher: The pretrained model.
  /// - Throws: `PlanError` for an operator that cannot be built.
  package convenience init(fresh plan: GraftPlan, teacher: DiT) throws {
    try self.init(
      plan: plan, teacher: teacher, weights: Self.freshWeights(plan, teacher),
      freshSlots: Set(plan.edits.keys))
  }

  /// Builds a graft whose replacements come from checkpoints of runs, later ones winning.
  ///
  /// A slot takes its weights from a checkpoint that trained the same operator with the same settings
  /// there; all others start fresh and are listed in `freshSlots`. A checkpoint with the whole model,
  /// which finetuning has changed everywhere, gives all weights outside the slots as well.
  /// - Throws: `CheckpointError` for a file that cannot be read, holds no plan or is of another model.
  package convenience init(plan: GraftPlan, teacher: DiT, checkpoints: [String]) throws {
    var source = Self.freshWeights(plan, teacher)
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
      var holds = Keys(below: shared)
      if file.entry(Self.wholeModelKey) != nil {
        guard trained.model.contentHash == plan.model.contentHash else {
          throw CheckpointError(
            "\(path): was grafted from another model than the plan's, \(plan.model.path); give a"
              + " checkpoint of a run on that model")
        }
        holds.others = Keys(below: Set(plan.edits.keys).union(trained.edits.keys)).prefixes
      }
      source = OverlayWeights(top: FileWeights(file), holds: holds, base: source)
      fresh.subtract(shared)
    }
    try self.init(plan: plan, teacher: teacher, weights: source, freshSlots: fresh)
  }

  /// A parameter of every whole model, and of no operator.
  private static let wholeModelKey = "pos_embed"

  /// Fresh replacements; everything else is the teacher's own tensors.
  private static func freshWeights(_ plan: GraftPlan, _ teacher: DiT) -> any WeightSource {
    OverlayWeights(
      top: FreshWeights(seed: plan.seed), holds: Keys(below: plan.edits.keys),
      base: DictionaryWeights(
        Dictionary(uniqueKeysWithValues: teacher.parameters.map { ($0.name, $0.value) }),
        origin: plan.model.path))
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
      parameters.map { TensorItem(name: $0.name, $0.value) }, metadata: metadata, to: path)
  }
}

/// The parameters below some slots, and perhaps all that are below none of some others.
private struct Keys {
  let prefixes: [String]
  /// Where the parameters of other files are; nil takes nothing outside `prefixes`.
  var others: [String]?

  init(below slots: some Collection<SlotID>) { prefixes = slots.map(\.checkpointPrefix) }

  func contains(_ name: String) -> Bool {
    if prefixes.contains(where: name.hasPrefix) { return true }
    guard let others else { return false }
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
