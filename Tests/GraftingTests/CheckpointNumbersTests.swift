import Files
import Foundation
import Grafting
import Models
import Operators
import Plans
import TestSupport
import Testing

/// Counts in the metadata of a checkpoint that no training can have reached.
@MainActor @Suite("Numbers of checkpoints")
struct CheckpointNumbersTests {
  private let plan: GraftPlan = {
    var plan = TinyModel.plan([SlotID(block: 0, slot: .mlp): OperatorSpec("mlp")])
    plan.stage1.steps = 4
    (plan.stage2.steps, plan.stage2.batchSize, plan.stage2.heldOutSamples) = (4, 2, 2)
    return plan
  }()

  nonisolated static let numbers = [
    "-1", "5", "9223372036854775807", "-9223372036854775808", "9223372036854775808", "1e300", "x",
    "",
  ]

  /// Each number in the place of one that the file has.
  private func refuse(
    _ key: String, in path: String, _ resume: (String) throws -> Void
  ) throws {
    let file = try Data(contentsOf: URL(fileURLWithPath: path))
    let size = Int(file.prefix(8).reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) })
    let header = String(decoding: file[8..<(8 + size)], as: UTF8.self)
    let entry = #""\#(key)":"1""#
    try #require(header.components(separatedBy: entry).count == 2)
    for number in Self.numbers {
      let changed = header.replacingOccurrences(of: entry, with: #""\#(key)":"\#(number)""#)
      var data = withUnsafeBytes(of: UInt64(changed.utf8.count).littleEndian) { Data($0) }
      data.append(contentsOf: changed.utf8)
      data.append(file[(8 + size)...])
      try data.write(to: URL(fileURLWithPath: path))
      let error = #expect(throws: FileError.self, "\(key) \(number)") { try resume(path) }
      #expect(error?.message.contains(path) == true && error?.message.contains("step") == true)
    }
  }

  @Test func stage1() throws {
    func training() throws -> ActivationDistillation {
      try ActivationDistillation(
        graft: try Graft(fresh: plan, teacher: try TinyModel.make()),
        dataset: TinyModel.latents(seed: 1), heldOut: TinyModel.latents(seed: 2))
    }
    let (run, scratch) = (try training(), try Scratch())
    _ = run.trainStep()
    try run.saveCheckpoint(to: scratch.file("c"))
    try training().resume(from: scratch.file("c"))
    let other = try training()
    try refuse("step", in: scratch.file("c"), other.resume)
  }

  @Test(arguments: ["step", "optimizer_steps"])
  func stage2(key: String) throws {
    func training() throws -> Finetuning {
      try Finetuning(
        graft: try Graft(fresh: plan, teacher: try TinyModel.make()),
        dataset: TinyModel.latents(seed: 1), heldOut: TinyModel.latents(seed: 2))
    }
    let (run, scratch) = (try training(), try Scratch())
    _ = run.trainStep()
    try run.saveCheckpoint(to: scratch.file("c"))
    try training().resume(from: scratch.file("c"))
    let other = try training()
    try refuse(key, in: scratch.file("c"), other.resume)
  }
}
