import Autograd
import Checkpoints
import Files
import Plans
import TensorCore

/// A model on disk, of any family: weights of any format and naming, or a folder of diffusers.
package protocol ModelFile {
  /// The weights.
  var weights: ModelWeights { get }
  /// Family, size and shape.
  var shape: ModelShape { get }
  /// Names of the classes, if known.
  var classNames: [String] { get }
  /// Name of the naming of the parameters in the file.
  var namingName: String { get }
  /// All files of the model.
  var files: [String] { get }
  /// The plan of a grafted model; nil for a pretrained model, and for a graft without a plan.
  var plan: GraftPlan? { get }
  /// Changes to the pretrained model; empty for a pretrained model.
  var changes: GraftPlan.Changes { get }
  /// Assumptions, in sentences.
  var notes: [String] { get }
  /// Operators inferred from the weights; empty if the file has a plan.
  var operators: [SlotID: OperatorSpec] { get }

  /// The metadata of the file, with the configuration.
  ///
  /// - Throws: Never in practice; encoding could.
  func metadata() throws -> [String: String]

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
  func network(
    changes: GraftPlan.Changes?, forInference precision: Precision?
  ) throws -> any DiffusionTransformer

  /// Width of the text embeddings that the model takes; nil for a class-conditional model.
  var captionChannels: Int? { get }

  /// Caption that training replaces captions with, if the file holds one.
  func nullCaption() throws -> Captions?

}

extension ModelFile {
  /// Path of the weights, or of the index of a sharded model.
  package var path: String { weights.path }
  /// The state dict without wrapper prefixes; names as in the file.
  package var tensors: StateDict { weights.tensors }
  /// Whether the model is a graft of another.
  package var isGraft: Bool { !changes.isEmpty }

  package func network(forInference precision: Precision? = nil) throws -> any DiffusionTransformer
  {
    try network(changes: nil, forInference: precision)
  }

  package var captionChannels: Int? { nil }

  package func nullCaption() throws -> Captions? { nil }

  /// Whether the operator inferred for a slot matches `spec`.
  package func has(_ spec: OperatorSpec, at id: SlotID) -> Bool {
    guard let found = operators[id], found.name == spec.name else { return false }
    return found.config.allSatisfy { spec.value($0.key) == $0.value }
  }

  /// Throws if a plan has other changes than the file.
  ///
  /// - Parameters:
  ///   - plan: The plan.
  ///   - name: The plan's file, for errors.
  /// - Throws: `PlanError` that names the first slot that differs.
  package func requireAgreement(with plan: GraftPlan, _ name: String) throws(PlanError) {
    func isWrong(_ id: SlotID, _ spec: OperatorSpec) -> Bool {
      self.plan.map { $0.edits[id] != spec } ?? !has(spec, at: id)
    }
    let others = changes.edits.keys.filter { plan.edits[$0] == nil }
    let wrong = (others + plan.edits.filter(isWrong).keys).min()
    guard wrong == nil, Set(plan.parallel.keys) == Set(changes.parallel.keys) else {
      let place = wrong.map { "in \($0)" } ?? "in its parallel blocks"
      let found = wrong.flatMap { changes.edits[$0]?.name } ?? "the pretrained model"
      throw PlanError(
        key: wrong.map { "\($0)" },
        "\(path) differs from the plan \(name) \(place), where it has \(found); give the plan that the"
          + " graft was made with")
    }
  }
}
