import Checkpoints
import Files
import Foundation
import Models
import Operators
import Plans

/// Converts weights of replaced operators between official stage-1 checkpoints (one file per block,
/// unprefixed names under `model`) and one file per plan.
package enum OfficialWeights {
  /// Merges the stage-1 checkpoints of a configuration into one safetensors file with the operators
  /// of the plan and the plan, as read by `--weights` and `finetune --from`.
  ///
  /// - Throws: `FileError` for a checkpoint that cannot be read or has another operator, and for a
  ///   full disk.
  package static func gather(
    _ graft: OfficialGraft, as plan: GraftPlan, in folder: String, to output: String
  ) throws {
    var items: [TensorItem] = []
    for (block, name) in graft.weights.sorted(by: { $0.key < $1.key }) {
      let file = try StateDict(try Checkpoint.open(AtomicFile.resolved(name, in: folder)))
      let id = SlotID(block: block, slot: graft.slot)
      try requireOperator(graft.spec, at: id, in: file, hiddenSize: plan.model.shape.hiddenSize)
      let prefix = id.checkpointPrefix
      items += file.names.compactMap { name in
        file.entry(name).map { entry in
          TensorItem(name: prefix + name, shape: entry.shape) { () throws(FileError) in
            try file.floats(name)
          }
        }
      }
    }
    try SafetensorsWriter.write(items, metadata: DiTFile.metadata(of: plan), to: output)
  }

  /// Throws if a checkpoint has another operator than the configuration.
  private static func requireOperator(
    _ spec: OperatorSpec, at id: SlotID, in file: StateDict, hiddenSize: Int
  ) throws(FileError) {
    let shapes = Dictionary(
      uniqueKeysWithValues: file.names.map { ($0, file.entry($0)?.shape ?? []) })
    let found = OperatorRegistry.recognize(
      OperatorShapes(shapes, hiddenSize: hiddenSize), in: id.slot)
    guard let found, found.name == spec.name,
      found.config.allSatisfy({ spec.value($0.key) == $0.value })
    else {
      throw FileError(
        "\(file.path): holds \(found.map { "\($0.name) \($0.config)" } ?? "no operator that is known"),"
          + " expected \(spec.name) as the operator's configuration has it; give the checkpoint of that"
          + " operator")
    }
  }

  /// Writes one stage-1 checkpoint per edited block of a plan.
  ///
  /// - Parameters:
  ///   - plan: The plan.
  ///   - file: The operators of a run, or a whole grafted model.
  ///   - folder: Target folder of `block_<i>.pt`.
  /// - Returns: The paths by block.
  /// - Throws: `FileError` if the operator of a block is missing from the file, and for a full
  ///   disk.
  package static func scatter(_ plan: GraftPlan, from file: any TensorFile, to folder: String)
    throws
    -> [Int: String]
  {
    var paths: [Int: String] = [:]
    for id in plan.edits.keys.sorted() {
      let names = file.names.filter { $0.hasPrefix(id.checkpointPrefix) }
      guard !names.isEmpty else {
        throw FileError(
          "\(file.path): has no tensor under '\(id.checkpointPrefix)', which the plan replaces;"
            + " give the operators or the model of a run of this plan")
      }
      let items = try names.map { name in
        let entry = try file.existing(name)
        return TensorItem(
          name: String(name.dropFirst(id.checkpointPrefix.count)), shape: entry.shape
        ) { () throws(FileError) in try file.floats(name) }
      }
      let path = "\(folder)/block_\(id.block).pt"
      try TorchWriter.write(items, entry: "model", to: path)
      paths[id.block] = path
    }
    return paths
  }
}
