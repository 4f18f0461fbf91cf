import Checkpoints
import Files
import Foundation
import Grafting
import Models
import Plans
import Search

extension OperatorLibrary {
  /// Adds the operator of a graft in one slot; its description is written last.
  ///
  /// - Throws: `FileError` if the disk is full or read-only.
  package func add(_ entry: Entry, of graft: Graft, key: String) throws {
    guard let slot = entry.slotID else { return }
    try AtomicFile.makeDirectory(folder)
    var plan = graft.plan
    plan.edits = [slot: entry.spec]
    plan.parallel = [:]
    plan.stage1.overrides = [:]
    try SafetensorsWriter.write(
      graft.parameters(of: .slot(slot)).map {
        .init(name: $0.name, shape: $0.shape, floats: $0.value.values)
      },
      metadata: DiTFile.metadata(of: plan), to: path(key))
    try update(entry, key: key)
  }
}
