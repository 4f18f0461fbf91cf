import Checkpoints
import Datasets
import Files
import Foundation
import Models
import Nn
import Plans
import TensorCore

extension ActivationDistillation {
  /// State of a site in a checkpoint other than tensors.
  private struct SiteState: Codable {
    var plateau: PlateauReduction
    var best: Double?
  }

  /// Atomically writes parameters, optimizer moments, best weights and the step, which determines
  /// the random state.
  package func saveCheckpoint(to path: String) throws {
    var items: [SafetensorsWriter.Item] = []
    var states: [GraftSite: SiteState] = [:]
    for (site, trainer) in trainers.sorted(by: { $0.key < $1.key }) {
      states[site] = SiteState(plateau: trainer.plateau, best: trainer.best?.loss)
      let optimizer = trainer.optimizer
      for (index, parameter) in optimizer.parameters.enumerated() {
        func add(_ prefix: String, _ tensor: Tensor) {
          items.append(TensorItem(name: prefix + parameter.name, tensor))
        }
        add("", parameter.value)
        add("first.", optimizer.first[index])
        add("second.", optimizer.second[index])
        if let best = trainer.best { add("best.", best.values[index]) }
      }
    }
    let encoder = JSONEncoder()
    encoder.outputFormatting = .sortedKeys
    try SafetensorsWriter.write(
      items,
      metadata: [
        "espalier_file": "stage 1 checkpoint", "step": String(step),
        RandomStream.metadataKey: RandomStream.generator,
        "data": dataset.identity, "held_out": heldOut.identity,
        "sites": String(decoding: try encoder.encode(states), as: UTF8.self),
        DiTFile.planKey: String(decoding: try graft.plan.json(), as: UTF8.self),
      ], to: path)
  }

  /// Resumes from a checkpoint of the same plan; settings that may change on resume may differ.
  ///
  /// - Throws: `FileError` if the file is not a checkpoint of this plan and data.
  package func resume(from path: String) throws {
    let file = try SafetensorsFile(path: path)
    guard let text = file.metadata["sites"], let planText = file.metadata[DiTFile.planKey],
      let states = try? JSONDecoder().decode([GraftSite: SiteState].self, from: Data(text.utf8))
    else {
      throw FileError(
        "\(path): no plan and sites in the metadata; expected a stage 1 checkpoint")
    }
    let saved = try file.count("step", in: 0...graft.plan.stage1.totalSteps)
    try file.requireGenerator()
    try graft.plan.requireContinuation(
      of: planText, from: file, on: (dataset.identity, heldOut.identity))
    for (site, trainer) in trainers {
      let optimizer = trainer.optimizer
      func read(_ prefix: String, _ index: Int) throws -> Tensor {
        let parameter = optimizer.parameters[index]
        return try FileWeights(file, prefix: prefix).tensor(
          parameter.name, parameter.shape, .zeros)
      }
      optimizer.steps = saved
      for (index, parameter) in optimizer.parameters.enumerated() {
        parameter.assign(try read("", index))
        optimizer.first[index].assign(try read("first.", index))
        optimizer.second[index].assign(try read("second.", index))
      }
      trainer.plateau = states[site]?.plateau ?? PlateauReduction()
      trainer.best = try states[site]?.best.map { loss in
        (loss, try optimizer.parameters.indices.map { try read("best.", $0) })
      }
    }
    step = saved
  }
}

extension GraftPlan {
  /// Throws if a checkpoint belongs to another plan or other data.
  ///
  /// - Parameters:
  ///   - text: The plan in the checkpoint.
  ///   - file: The checkpoint.
  ///   - data: Current identities of the data and of the held-out samples.
  /// - Throws: `FileError`, and `PlanError` if the text is not a plan.
  func requireContinuation(
    of text: String, from file: SafetensorsFile, on data: (training: String, heldOut: String)
  ) throws {
    guard continues(try GraftPlan.parse(text, file: "\(file.path) (embedded plan)")) else {
      throw FileError(
        "\(file.path): was written for another plan; start a run of the changed plan instead")
    }
    for (key, now, path) in [
      ("data", data.training, self.data?.path),
      ("held_out", data.heldOut, self.data?.heldOut ?? self.data?.path),
    ] {
      guard let before = file.metadata[key], before != now else { continue }
      throw TrainingData.changed(path, checkpoint: file.path, from: before, to: now)
    }
  }
}
