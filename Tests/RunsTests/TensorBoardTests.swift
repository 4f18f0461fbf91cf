import Files
import Foundation
import Pictures
import Plans
import Runs
import TestSupport
import Testing

/// Event files for TensorBoard, held against bytes that its own writer (2.21) makes.
@Suite struct TensorBoardTests {
  private func hex(_ bytes: some Sequence<UInt8>) -> String {
    bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
  }

  @Test func records() {
    #expect(
      hex(TensorBoardRecord.fileVersion(time: 1.5).bytes)
        == "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c")
    #expect(
      hex(TensorBoardRecord.sessionStart(step: 300, time: 1.5).bytes)
        == "100000000000000095fbfe1809000000000000f83f10ac023a020801713b788a")
    let values: [TensorBoardRecord.Value] = [
      .scalar(tag: "loss/train", 0.25), .scalar(tag: "train/7.attention", .infinity),
      .image(tag: "samples/graft", png: [0x89, 0x50, 0x4e, 0x47], width: 200, height: 2),
    ]
    #expect(
      hex(TensorBoardRecord.summary(values, step: 300, time: 1.5).bytes)
        == "5b000000000000001b01028a09000000000000f83f10ac022a4d0a110a0a6c6f73732f747261696e15000080"
        + "3e0a180a11747261696e2f372e617474656e74696f6e150000807f0a1e0a0d73616d706c65732f6772616674"
        + "220d080210c8011803220489504e479f51cd31")
  }

  private func files(_ run: RunDirectory) throws -> [String] {
    guard FileManager.default.fileExists(atPath: run.tensorBoardPath) else { return [] }
    return try FileManager.default.contentsOfDirectory(atPath: run.tensorBoardPath).sorted()
  }

  private func bytes(_ run: RunDirectory, _ name: String) throws -> [UInt8] {
    [UInt8](try Data(contentsOf: URL(fileURLWithPath: "\(run.tensorBoardPath)/\(name)")))
  }

  @Test func followsTheEventsOfARun() throws {
    let scratch = try Scratch()
    let run = try scratch.run()
    let log = TensorBoardLog(run: run)
    try log.add(Event(.started(pid: 1, totalSteps: 9), time: 10))
    try log.add(Event(.message("resumed"), time: 10))
    #expect(try files(run).isEmpty)

    let site = GraftSite.slot(SlotID(block: 1, slot: .mlp))
    let other = GraftSite.slot(SlotID(block: 2, slot: .mlp))
    try log.add(Event(.heldOut(step: 4, losses: [site: 0.5]), time: 11.5))
    try log.add(
      Event(
        .step(
          step: 5, total: 9, loss: 2, losses: [site: 3], rate: 4, secondsLeft: 1,
          learningRate: LearningRate(sites: [site: 0.25, other: 0.5]),
          measures: [.gradientNorm: 1.5, .samplesPerSecond: 32, .residentMemory: 2048]), time: 12))
    let picture = RGBImage(width: 3, height: 2, grey: 9)
    try picture.write(to: "\(run.samplesPath)/graft.png")
    try log.add(
      Event(.sampled(role: .graft, path: "samples/graft.png", classLabel: 0, seed: 0), time: 13))
    let png = [UInt8](try Data(contentsOf: URL(fileURLWithPath: "\(run.samplesPath)/graft.png")))
    let name = try #require(try files(run).first)
    #expect(name.hasPrefix("events.out.tfevents.11."))
    let expected: [TensorBoardRecord] = [
      .fileVersion(time: 11.5), .sessionStart(step: 4, time: 11.5),
      .summary(
        [.scalar(tag: "loss/held_out", 0.5), .scalar(tag: "held_out/1.mlp", 0.5)], step: 4,
        time: 11.5),
      .summary(
        [
          .scalar(tag: "loss/train", 2), .scalar(tag: "speed/steps_per_second", 4),
          .scalar(tag: "train/1.mlp", 3), .scalar(tag: "learning_rate", 0.5),
          .scalar(tag: "learning_rate/1.mlp", 0.25), .scalar(tag: "learning_rate/2.mlp", 0.5),
          .scalar(tag: "gradient_norm", 1.5), .scalar(tag: "speed/samples_per_second", 32),
          .scalar(tag: "memory/resident_bytes", 2048),
        ], step: 5, time: 12),
      .summary(
        [.image(tag: "samples/graft", png: png, width: 3, height: 2)], step: 5, time: 13),
    ]
    #expect(try bytes(run, name) == expected.flatMap(\.bytes))

    // A worker that goes on has a file of its own, even within the second, and says where it began.
    let next = TensorBoardLog(run: run)
    try next.add(Event(.heldOut(step: 3, loss: 0.25, losses: [:]), time: 11.6))
    #expect(try files(run).map { $0.split(separator: ".")[3] } == ["11", "12"])
    let added: [TensorBoardRecord] = [
      .fileVersion(time: 11.6), .sessionStart(step: 3, time: 11.6),
      .summary([.scalar(tag: "loss/held_out", 0.25)], step: 3, time: 11.6),
    ]
    #expect(try bytes(run, try #require(try files(run).last)) == added.flatMap(\.bytes))

    // What is measured afterwards takes nothing back.
    try TensorBoardLog(run: run).add([.scalar(tag: "agreement", 1)], step: 9, time: 20)
    let measured: [TensorBoardRecord] = [
      .fileVersion(time: 20), .summary([.scalar(tag: "agreement", 1)], step: 9, time: 20),
    ]
    #expect(try bytes(run, try #require(try files(run).last)) == measured.flatMap(\.bytes))
  }

  @Test func tellsWhatStandsInTheWay() throws {
    let scratch = try Scratch()
    let run = try scratch.run()
    try Data().write(to: URL(fileURLWithPath: run.tensorBoardPath))
    let error = #expect(throws: FileError.self) {
      try TensorBoardLog(run: run).add([.scalar(tag: "x", 1)], step: 1)
    }
    #expect(error?.message.contains("expected a directory") == true)
  }
}
