import Checkpoints
import Foundation
import Models
import Plans
import Yams

/// Plan as the two YAML files read by the official repository.
package struct OfficialExport {
  /// Text of the sampling configuration.
  package let graft: String
  /// Text of the operator's configuration.
  package let operatorConfig: String

  /// Converts a plan to the official format.
  ///
  /// - Parameters:
  ///   - plan: A valid plan.
  ///   - operatorConfigPath: Path of the operator's configuration, as written in the graft.
  ///   - weights: Stage-1 checkpoints by block.
  ///   - graftedCheckpoint: Checkpoint of the whole grafted model.
  /// - Throws: `PlanError` with the reason if the format cannot express the plan.
  package init(
    _ plan: GraftPlan, operatorConfigPath: String, weights: [Int: String] = [:],
    graftedCheckpoint: String? = nil
  ) throws {
    let shape = plan.model.shape
    let imageSize = shape.inputSize * ModelShape.pixelsPerLatent
    guard let name = shape.publishedName, ModelShape(named: name, imageSize: imageSize) == shape
    else {
      throw PlanError(
        key: "model",
        "the official format names published models only (DiT-S, -B, -L, -XL with 1000"
          + " classes at 256 or 512 pixels), and this one has \(shape.depth) blocks of width"
          + " \(shape.hiddenSize); keep the plan in Espalier's own format")
    }
    guard plan.parallel.isEmpty else {
      throw PlanError(
        key: "parallel",
        "the official format knows no parallel blocks; split the pairs or keep the plan in"
          + " Espalier's own format")
    }
    let slots = Set(plan.edits.keys.map(\.slot))
    let specs = Set(plan.edits.values)
    guard slots.count == 1, specs.count == 1, let slot = slots.first, let spec = specs.first else {
      let reason =
        plan.edits.isEmpty
        ? "no operator is replaced"
        : slots.count > 1
          ? "both slots are edited" : "\(specs.count) different operators or settings are used"
      throw PlanError(
        key: "blocks",
        "the official format holds one operator in one slot, and \(reason); export a"
          + " plan for each")
    }
    guard let official = OfficialOperator.all.first(where: { $0.name == spec.name }) else {
      throw PlanError(
        key: "blocks",
        "the official factory has no \(spec.name), only"
          + " \(OfficialOperator.all.map(\.name).joined(separator: ", "));"
          + " keep the plan in Espalier's own format")
    }
    let blocks = plan.edits.keys.map(\.block).sorted()
    let map = weights.sorted { $0.key < $1.key }.map { (Node(String($0.key)), Node($0.value)) }
    let null = Node("null", .implicit, .plain)
    graft = try Yams.serialize(
      node: Node([
        (
          Node("operator"),
          Node([
            (Node("type"), Node(OfficialOperator.type(of: slot))), (Node("name"), Node(spec.name)),
            (Node("config_filepath"), Node(operatorConfigPath)),
          ])
        ),
        (
          Node("sample_config"),
          Node([
            (Node("init_type"), Node("graft")), (Node("global_seed"), Node(String(plan.seed))),
            (Node("dit_model_name"), Node(name)),
            (Node("grafted_dit_ckpt_path"), graftedCheckpoint.map { Node($0) } ?? null),
            (Node("image_size"), Node(String(imageSize))),
            (Node("graft_indexes"), Node(blocks.map { Node(String($0)) })),
            (Node("graft_weights"), map.isEmpty ? null : Node(map)),
          ])
        ),
      ]))
    operatorConfig = try Yams.serialize(node: try official.configuration(of: spec, shape: shape))
  }
}
