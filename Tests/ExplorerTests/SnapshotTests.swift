import Foundation
import Plans
import TerminalUI
import Testing

import Explorer

/// Frames as text, held against stored files; `ESPALIER_RECORD=1` writes the files anew.
@Suite struct SnapshotTests {
  /// What is shown, and how to get there from a busy state.
  static let scenes: [(name: String, make: @Sendable (Size) -> AppState)] = [
    ("first-start", { Samples.state($0) }),
    (
      "computing",
      {
        var state = Samples.state($0)
        state.analysis = .computing(runID: "a1", done: 3, total: 12)
        return state
      }
    ),
    ("training", { Samples.busy($0) }),
    ("done", { Samples.withPreview(Samples.busy($0, step: 800, state: .done)) }),
    (
      "lost",
      {
        var state = Samples.busy($0, step: 212, state: .lost)
        press(&state, "t", "t", "L")
        return state
      }
    ),
    (
      "parallel",
      {
        var state = Samples.parallel($0)
        press(&state, "4", "j", "J", "j")
        state.notice = nil
        return state
      }
    ),
    (
      "picker",
      {
        var state = Samples.busy($0)
        press(&state, "5", "j", .enter, "j", "j")
        return state
      }
    ),
    (
      "configuration",
      {
        var state = Samples.busy($0)
        press(&state, "v", "4", "j", .enter, .enter)
        return state
      }
    ),
    (
      "pattern",
      {
        var state = Samples.busy($0)
        press(&state, "a")
        type(&state, "every 2")
        return state
      }
    ),
    (
      "distil",
      {
        var state = Samples.busy($0, step: 800, state: .done)
        press(&state, "d", "j", "j")
        type(&state, "0")
        press(&state, .enter)
        return state
      }
    ),
    (
      "finetune",
      {
        var state = Samples.busy($0, step: 800, state: .done)
        press(&state, "f")
        return state
      }
    ),
    (
      "finetuning",
      {
        var state = Samples.finetuning($0)
        press(&state, "r")
        return state
      }
    ),
    (
      "quit",
      {
        var state = Samples.busy($0)
        press(&state, "q")
        return state
      }
    ),
    (
      "runs",
      {
        var state = Samples.busy($0)
        press(&state, "r", "j")
        return state
      }
    ),
    ("compare", { Samples.comparing($0) }),
    (
      "queue",
      {
        var state = Samples.queued($0)
        press(&state, "r", "k", "k", "k", "k")
        return state
      }
    ),
    (
      "log",
      {
        var state = Samples.busy($0)
        press(&state, "r", "l")
        let lines = (1...70).map { "12:00:00  step \($0)/800  loss 0.12  3.4 steps/s" }
        _ = update(&state, .logRead(id: "r3", lines: lines))
        return state
      }
    ),
    (
      "retry",
      {
        var state = Samples.busy($0)
        press(&state, "r", "j", "j", "R")
        return state
      }
    ),
    (
      "distil-beside",
      {
        var state = Samples.busy($0)
        press(&state, "d", .backTab)
        return state
      }
    ),
    (
      "images",
      {
        var state = Samples.withPreview(Samples.busy($0))
        press(&state, "i", ">")
        state.notice = nil
        return state
      }
    ),
    (
      "help",
      {
        var state = Samples.busy($0)
        press(&state, "?")
        return state
      }
    ),
  ]

  @Test(arguments: scenes.map(\.name), ["80x24", "120x40", "200x60"])
  func frameAsStored(scene: String, size: String) throws {
    let parts = size.split(separator: "x").compactMap { Int($0) }
    let make = try #require(Self.scenes.first { $0.name == scene }?.make)
    let state = make(Size(columns: parts[0], rows: parts[1]))
    let frame = ExplorerView.frame(state)
    let images = frame.images.map {
      "[\($0.id): \($0.width)x\($0.height) pixels at \($0.column),\($0.row)"
        + " in \($0.columns)x\($0.rows) cells]\n"
    }
    let text = frame.text() + "\n" + images.joined()
    let url = URL(filePath: #filePath).deletingLastPathComponent()
      .appending(path: "Snapshots/\(scene)-\(size).txt")
    if ProcessInfo.processInfo.environment["ESPALIER_RECORD"] == "1" {
      try Data(text.utf8).write(to: url)
    }
    let stored = try String(contentsOf: url, encoding: .utf8)
    #expect(text == stored)
  }
}
