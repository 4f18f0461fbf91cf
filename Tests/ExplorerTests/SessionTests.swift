import Foundation
import Plans
import Runs
import TerminalUI
import Testing

import Explorer

/// A terminal that plays a script and keeps the frames it is shown.
private final class ScriptedTerminal: TerminalDriver {
  var size: Size
  var script: [TerminalEvent]
  private(set) var frames: [Frame] = []
  private(set) var repaints = 0
  private(set) var suspensions = 0
  private(set) var probes = 0
  private(set) var wishes: [Terminal.Wishes] = []
  private(set) var announcements: [Announcement] = []
  private(set) var copies: [String] = []

  init(size: Size, _ script: [TerminalEvent]) {
    self.size = size
    self.script = script
  }

  func nextEvent(timeoutMilliseconds: Int) -> TerminalEvent {
    // One event for each frame, so that every step of the script is seen.
    if timeoutMilliseconds == 0 { return .tick }
    guard !script.isEmpty else { return .hangup }
    return script.removeFirst()
  }

  func render(_ frame: Frame) { frames.append(frame) }
  func repaint() { repaints += 1 }
  func suspend() { suspensions += 1 }
  func probe() { probes += 1 }
  func wish(_ wishes: Terminal.Wishes) { self.wishes.append(wishes) }
  func announce(_ announcement: Announcement) { announcements.append(announcement) }
  func copy(_ text: String) { copies.append(text) }
}

/// A world in which a worker does ten steps at every look.
private final class PretendedWorld: EffectPerformer {
  private(set) var effects: [Effect] = []
  private(set) var isClosed = false
  private var actions: [Action] = []
  private var plan: GraftPlan?
  private var step = 0
  private var state: RunState?
  private var preview: Int?

  func perform(_ effect: Effect) {
    effects.append(effect)
    switch effect {
    case .findAnalysis: actions.append(.analysisRead(Samples.analysis()))
    case .savePlan(let plan, let path, _, _): actions.append(.planSaved(plan, path: path))
    case .startTraining(let plan, let kind, _, _):
      self.plan = plan
      state = .running
      actions.append(.trainingStarted(id: "r1", plan: plan, kind: kind))
    case .control(_, .pause): state = .paused
    case .control(_, .resume): state = .running
    case .control(_, .cancel): state = .cancelled
    case .startPreview(let generation, _, _, _, _):
      preview = generation
      actions.append(.previewStarted(generation: generation, runID: "p1"))
    default: break
    }
  }

  func takeActions() -> [Action] {
    defer { actions = [] }
    if let plan, let state {
      if state == .running { step = min(100, step + 10) }
      if step == 100 { self.state = .done }
      actions.append(
        .runsScanned([
          Samples.record("r1", plan.name, self.state ?? state, step: step, total: 100)
        ]))
      actions.append(.historyRead(id: "r1", Samples.history(for: plan, steps: step)))
    }
    if let generation = preview {
      preview = nil
      for (index, role) in PreviewRole.allCases.enumerated() {
        actions.append(.previewSampled(generation: generation, role, Samples.picture(index)))
      }
      actions.append(.previewEnded(generation: generation, problem: nil))
    }
    return actions
  }

  func close() { isClosed = true }
}

@Suite struct SessionTests {
  private static func keys(_ text: String) -> [TerminalEvent] {
    text.map { .key(.character($0)) }
  }

  /// Move, pick Hyena-X, apply it to the odd blocks, save, distil, pause, resume, preview, leave.
  @Test(arguments: [Samples.small, Samples.large, Samples.huge])
  func theWholeJourney(size: Size) throws {
    let enter = TerminalEvent.key(.enter)
    let clear = TerminalEvent.key(.control("u"))
    var script: [TerminalEvent] = []
    script += Self.keys("j") + [enter] + Self.keys("jjjjj") + [enter, enter]
    script += Self.keys("aodd") + [enter]
    script += Self.keys("w") + [clear] + Self.keys("hyena-odd") + [enter]
    script += Self.keys("d100") + [enter, .tick, .tick, .tick]
    script += Self.keys("p") + [.tick, .tick] + Self.keys("p")
    script += Array(repeating: .tick, count: 12)
    script += Self.keys("s") + [.tick, .tick] + Self.keys("i") + [.key(.escape)]
    script += Self.keys("q")
    let terminal = ScriptedTerminal(size: size, script + Self.keys("y"))
    let world = PretendedWorld()
    var state = Samples.state(size)
    state.now = Samples.now
    let session = ExplorerSession(
      state: state, terminal: terminal, performer: world, clock: { Samples.now })
    session.run(state.firstEffects())

    #expect(session.state.isFinished, "\(terminal.frames.last?.text() ?? "")")
    #expect(world.isClosed)
    #expect(session.state.plan.edits == Samples.oddPlan().edits)
    let names = world.effects.map { String(describing: $0).prefix { $0 != "(" } }
      .filter { !$0.hasPrefix("keep") }
    #expect(
      names == [
        "findAnalysis", "readLibrary", "savePlan", "startTraining", "followRun", "control",
        "control",
        "startPreview",
      ])
    let texts = terminal.frames.map { $0.text() }
    for phrase in [
      "hyena-x in blocks: odd", "FLOPs −15.2%", "save as: hyena-odd", "14 × hyena-x",
      "▶ hyena-odd",
      "‖ hyena-odd", "✓ hyena-odd", "100/100", "hyena-x", "unsaved",
    ] {
      #expect(texts.contains { $0.contains(phrase) }, "\(phrase) is never seen")
    }
    #expect(terminal.frames.contains { $0.images.count == 3 })
    // The settings of the distillation changed the plan after it was saved.
    #expect(session.state.document.isModified)
  }

  @Test func framesAreDrawnOnlyWhenSomethingHappened() {
    let terminal = ScriptedTerminal(
      size: Samples.small, Array(repeating: .tick, count: 50) + [.key("j"), .tick, .tick])
    let session = ExplorerSession(
      state: Samples.state(), terminal: terminal, performer: SilentWorld(),
      clock: { Samples.now })
    session.run([])
    #expect(terminal.frames.count == 2)
  }

  @Test func signalsAndHangupsEndTheSession() {
    for event in [TerminalEvent.hangup, .signal(SIGTERM)] {
      let terminal = ScriptedTerminal(size: Samples.small, [event, .key("j")])
      let session = ExplorerSession(
        state: Samples.state(), terminal: terminal, performer: SilentWorld(),
        clock: { Samples.now })
      session.run([])
      #expect(session.state.cursor == Samples.attention(0))
      #expect(terminal.script.count == 1)
    }
  }

  @Test func redrawAndSuspendReachTheTerminal() {
    let terminal = ScriptedTerminal(
      size: Samples.small,
      [.key(.control("l")), .key(.control("z")), .signal(SIGINT), .signal(SIGINT)])
    let session = ExplorerSession(
      state: Samples.busy(Samples.small), terminal: terminal, performer: SilentWorld(),
      clock: { Samples.now })
    session.run([])
    #expect(terminal.repaints == 1 && terminal.suspensions == 1)
    #expect(session.state.isFinished)
  }

  private final class SilentWorld: EffectPerformer {
    func perform(_ effect: Effect) {}
    func takeActions() -> [Action] { [] }
    func close() {}
  }
}
