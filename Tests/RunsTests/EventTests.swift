import Files
import Foundation
import Plans
import Runs
import TestSupport
import Testing

private let odd = GraftSite.slot(SlotID(block: 1, slot: .attention))
private let even = GraftSite.slot(SlotID(block: 12, slot: .mlp))

/// One event of every kind and its line in version 1 of the log.
private let golden: [(EventKind, String)] = [
  (
    .started(pid: 42, totalSteps: 400),
    #"{"kind":"started","pid":42,"t":1.5,"total_steps":400,"v":1}"#
  ),
  (.heartbeat(step: 3), #"{"kind":"heartbeat","step":3,"t":1.5,"v":1}"#),
  (
    .step(
      step: 3, total: 400, loss: 0.25, losses: [odd: 0.125, even: 0.375], rate: 3.5,
      secondsLeft: 113.5),
    #"{"kind":"step","loss":0.25,"losses":{"1.attention":0.125,"12.mlp":0.375},"rate":3.5,"#
      + #""seconds_left":113.5,"step":3,"t":1.5,"total":400,"v":1}"#
  ),
  (
    .step(
      step: 3, total: 400, loss: 0.25, losses: [:], rate: 3.5, secondsLeft: 113.5,
      learningRate: LearningRate(sites: [odd: 0.5, even: 0.25])),
    #"{"kind":"step","learning_rate":0.5,"learning_rates":{"1.attention":0.5,"12.mlp":0.25},"#
      + #""loss":0.25,"losses":{},"rate":3.5,"seconds_left":113.5,"step":3,"t":1.5,"total":400,"v":1}"#
  ),
  (
    .step(
      step: 3, total: 400, loss: 0.25, losses: [:], rate: 3.5, secondsLeft: 113.5,
      measures: [.gradientNorm: .infinity, .samplesPerSecond: 28.5, .residentMemory: 1_048_576]),
    #"{"gradient_norm":"inf","kind":"step","loss":0.25,"losses":{},"rate":3.5,"#
      + #""resident_memory":1048576,"samples_per_second":28.5,"seconds_left":113.5,"step":3,"#
      + #""t":1.5,"total":400,"v":1}"#
  ),
  (
    .heldOut(step: 50, losses: [even: .infinity]),
    #"{"kind":"held_out","losses":{"12.mlp":"inf"},"step":50,"t":1.5,"v":1}"#
  ),
  (
    .heldOut(step: 50, loss: 0.5, losses: [:]),
    #"{"kind":"held_out","loss":0.5,"losses":{},"step":50,"t":1.5,"v":1}"#
  ),
  (
    .checkpointed(step: 50, path: "checkpoints/50.safetensors"),
    #"{"kind":"checkpointed","path":"checkpoints/50.safetensors","step":50,"t":1.5,"v":1}"#
  ),
  (.paused(step: 51), #"{"kind":"paused","step":51,"t":1.5,"v":1}"#),
  (
    .paused(step: 51, reason: "disk full"),
    #"{"kind":"paused","reason":"disk full","step":51,"t":1.5,"v":1}"#
  ),
  (.resumed(step: 51), #"{"kind":"resumed","step":51,"t":1.5,"v":1}"#),
  (
    .progress(done: 2, total: 8, label: "sampling"),
    #"{"done":2,"kind":"progress","label":"sampling","t":1.5,"total":8,"v":1}"#
  ),
  (
    .progress(done: 2, total: 8, label: "drawing images", secondsLeft: 12.5),
    #"{"done":2,"kind":"progress","label":"drawing images","seconds_left":12.5,"t":1.5,"total":8,"v":1}"#
  ),
  (
    .sampled(role: .graft, path: "samples/graft.png", classLabel: 7, seed: .max),
    #"{"class_label":7,"kind":"sampled","path":"samples/graft.png","role":"graft","#
      + #""seed":18446744073709551615,"t":1.5,"v":1}"#
  ),
  (
    .sampled(
      role: .graft, path: "samples/graft-step-5.png", classLabel: 7, seed: 1, samplerStep: 5),
    #"{"class_label":7,"kind":"sampled","path":"samples/graft-step-5.png","role":"graft","#
      + #""sampler_step":5,"seed":1,"t":1.5,"v":1}"#
  ),
  (.message("two\nlines"), #"{"kind":"message","t":1.5,"text":"two\nlines","v":1}"#),
  (
    .ranks(RankReport(count: 2, device: "cpu", engine: "torch 2.13.0", restarts: 1)),
    #"{"count":2,"device":"cpu","engine":"torch 2.13.0","kind":"ranks","restarts":1,"t":1.5,"v":1}"#
  ),
  (
    .resources(step: 51, RankResources(memory: 1 << 30)),
    #"{"kind":"resources","memory":1073741824,"step":51,"t":1.5,"v":1}"#
  ),
  (
    .resources(
      step: 51,
      RankResources(memory: 9, memoryByRank: [9, 8], waitingByRank: [0, 0.25], silent: [1])),
    #"{"kind":"resources","memory":9,"memory_by_rank":[9,8],"silent":[1],"step":51,"t":1.5,"v":1,"#
      + #""waiting_by_rank":[0,0.25]}"#
  ),
  (
    .finished(outcome: .failed, text: "disk full"),
    #"{"kind":"finished","outcome":"failed","t":1.5,"text":"disk full","v":1}"#
  ),
]

@Suite struct EventTests {
  let scratch: Scratch
  let run: RunDirectory

  init() throws {
    scratch = try Scratch()
    run = try scratch.run()
  }

  private func events() -> [EventKind] {
    var offset: UInt64 = 0
    return run.readEvents(after: &offset).map(\.kind)
  }

  @Test func linesOfVersion1() throws {
    for (kind, _) in golden { try run.append(Event(kind, time: 1.5)) }
    let text = try String(contentsOfFile: run.eventsPath, encoding: .utf8)
    #expect(text == golden.map { $0.1 + "\n" }.joined())
    #expect(events() == golden.map(\.0))
  }

  @Test func divergedLossIsLogged() throws {
    try run.append(
      Event(.step(step: 1, total: 2, loss: .nan, losses: [odd: .nan], rate: 1, secondsLeft: 1)))
    guard case .step(_, _, let loss, let losses, _, _, _, _) = events().first else {
      Issue.record("no step")
      return
    }
    #expect(loss.isNaN && losses[odd]?.isNaN == true)
  }

  @Test func tornLastLineIsNotYet() throws {
    try run.append(Event(.heartbeat(step: 1)))
    var offset: UInt64 = 0
    #expect(run.readEvents(after: &offset).count == 1)
    try appendRaw(#"{"kind":"heartbeat","step":2,"#, to: run.eventsPath)
    let before = offset
    #expect(run.readEvents(after: &offset).isEmpty && offset == before)
    try appendRaw(#""t":1,"v":1}"# + "\n", to: run.eventsPath)
    #expect(run.readEvents(after: &offset).map(\.kind) == [.heartbeat(step: 2)])
    #expect(run.readEvents(after: &offset).isEmpty)
  }

  /// A worker that died within a line must not spoil the first line of its successor.
  @Test func lineAfterATornOneSurvives() throws {
    try appendRaw(#"{"kind":"heartbeat","st"#, to: run.eventsPath)
    try run.append(Event(.started(pid: 1, totalSteps: 2)))
    #expect(events() == [.started(pid: 1, totalSteps: 2)])
  }

  @Test(arguments: [
    #"{"kind":"sang","t":1,"v":1}"#, #"{"kind":"heartbeat","step":1,"t":1,"v":2}"#,
    #"{"kind":"heartbeat","t":1,"v":1}"#, #"{"kind":"heartbeat","step":"1","t":1,"v":1}"#,
    #"{"kind":"held_out","losses":{"x":1},"step":1,"t":1,"v":1}"#, "", "}", "\u{0}\u{1}",
    #"{"kind":"heartbeat","step":99999999999999999999,"t":1,"v":1}"#,
  ])
  func unknownAndBadLinesAreSkipped(line: String) throws {
    try run.append(Event(.heartbeat(step: 1)))
    try appendRaw(line + "\n", to: run.eventsPath)
    try run.append(Event(.heartbeat(step: 2)))
    #expect(events() == [.heartbeat(step: 1), .heartbeat(step: 2)])
  }

  @Test func invalidUTF8IsSkipped() throws {
    let handle = try FileHandle(forWritingTo: URL(fileURLWithPath: run.eventsPath))
    try handle.write(contentsOf: Data([0xFF, 0xFE, 0x0A]))
    try handle.close()
    try run.append(Event(.heartbeat(step: 2)))
    #expect(events() == [.heartbeat(step: 2)])
  }

  @Test func controls() throws {
    for control in Control.allCases { try run.append(control) }
    try appendRaw(#"{"request":"dance","t":1,"v":1}"# + "\n", to: run.controlPath)
    try appendRaw(#"{"request":"pause","t":1,"v":2}"# + "\n", to: run.controlPath)
    var offset: UInt64 = 0
    #expect(run.readControls(after: &offset) == [.pause, .resume, .cancel, .kill])
    try run.append(Control.pause)
    #expect(run.readControls(after: &offset) == [.pause])
    let text = try String(contentsOfFile: run.controlPath, encoding: .utf8)
    #expect(text.hasPrefix(#"{"request":"pause","t":"#))
  }

  @Test func manyWritersKeepLinesWhole() async throws {
    await withTaskGroup(of: Void.self) { group in
      for _ in 0..<4 {
        group.addTask { [run] in
          for _ in 0..<100 { try? run.append(Control.resume) }
        }
      }
    }
    var offset: UInt64 = 0
    #expect(run.readControls(after: &offset).count == 400)
  }

  @Test func fullDiskAndVanishedRun() throws {
    try FileManager.default.removeItem(atPath: run.eventsPath)
    try FileManager.default.createSymbolicLink(
      atPath: run.eventsPath, withDestinationPath: "/dev/full")
    let full = #expect(throws: FileError.self) { try run.append(Event(.heartbeat(step: 1))) }
    #expect(full?.message.contains("the disk is full") == true)
    try FileManager.default.removeItem(atPath: run.path)
    let gone = #expect(throws: FileError.self) { try run.append(Control.pause) }
    #expect(gone?.message.contains("no longer exists") == true)
    #expect(events().isEmpty)
  }
}
