import Checkpoints
import Files
import Foundation
import Plans

/// Moves the weights of replaced operators between the official stage-1 checkpoints, one file a block
/// with unprefixed names under `model`, and one file for the whole plan.
package enum OfficialWeights {
  /// Gathers the stage-1 checkpoints that a configuration names into one safetensors file, as
  /// `--weights` takes it.
  ///
  /// - Parameters:
  ///   - graft: The configuration.
  ///   - folder: Where its relative paths start.
  ///   - output: The file to write.
  /// - Throws: `FileError` for a checkpoint that cannot be read, and for a full disk.
  package static func gather(_ graft: OfficialGraft, in folder: String, to output: String) throws {
    var items: [TensorItem] = []
    for (block, name) in graft.weights.sorted(by: { $0.key < $1.key }) {
      let path = URL(
        fileURLWithPath: name, relativeTo: URL(fileURLWithPath: folder, isDirectory: true)
      ).standardizedFileURL.path
      let file = try StateDict(try Checkpoint.open(path))
      let prefix = SlotID(block: block, slot: graft.slot).checkpointPrefix
      items += file.names.compactMap { name in
        file.entry(name).map { entry in
          TensorItem(name: prefix + name, shape: entry.shape) { () throws(FileError) in
            try file.floats(name)
          }
        }
      }
    }
    try SafetensorsWriter.write(items, metadata: [:], to: output)
  }

  /// Writes one stage-1 checkpoint for each edited block of a plan.
  ///
  /// - Parameters:
  ///   - plan: The plan.
  ///   - file: The operators of a run, or a whole grafted model.
  ///   - folder: Receives `block_<i>.pt`.
  /// - Returns: The paths by block.
  /// - Throws: `FileError` if a block's operator is not in the file, and for a full disk.
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
          name: "model." + name.dropFirst(id.checkpointPrefix.count), shape: entry.shape
        ) { () throws(FileError) in try file.floats(name) }
      }
      let path = "\(folder)/block_\(id.block).pt"
      try TorchWriter.write(items, to: path)
      paths[id.block] = path
    }
    return paths
  }
}
