import Foundation
import Plans
import TerminalUI
import Testing

import Explorer

/// Frames with their styles, held against stored files; see `Recorded`.
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
    ("engines", { Samples.far($0) }),
    (
      "engine-runs",
      {
        var state = Samples.far($0)
        press(&state, "r", "j")
        return state
      }
    ),
    (
      "engine-ranks",
      {
        var state = Samples.far($0)
        press(&state, "r", "E")
        return state
      }
    ),
    (
      "engine-form",
      {
        var state = Samples.far($0)
        press(&state, "f", "m")
        return state
      }
    ),
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
      "plot",
      {
        var state = Samples.busy($0)
        press(&state, "P", "e", "e", .left, .left, .left)
        return state
      }
    ),
    (
      "plot-slots",
      {
        var state = Samples.busy($0)
        press(&state, "P", "v")
        return state
      }
    ),
    (
      "plot-map",
      {
        var state = Samples.busy($0)
        press(&state, "P", "v", "v", "b", "b")
        return state
      }
    ),
    ("plot-runs", { Samples.plotting($0) }),
    (
      "evidence",
      {
        var state = Samples.busy($0)
        press(&state, "V", "]", "]")
        _ = update(
          &state, .attentionMapsRead(block: 7, (0..<4).map { Samples.picture($0) }))
        return state
      }
    ),
    (
      "evidence-activations",
      {
        var state = Samples.busy($0)
        press(&state, "V", .tab)
        return state
      }
    ),
    (
      "window-form",
      {
        var state = Samples.busy($0)
        state.cursor = Samples.attention(10)
        press(&state, .enter)
        for _ in 0..<20 {
          guard case .picker(let picker) = state.overlay, picker.entry != .original,
            case .replacement(let spec) = picker.entry, spec.name == "swa"
          else {
            press(&state, "j")
            continue
          }
          press(&state, .enter)
        }
        return state
      }
    ),
    (
      "costs",
      {
        var state = Samples.scored($0)
        press(&state, "H", "}", "}", "j")
        return state
      }
    ),
    (
      "picker-costs",
      {
        var state = Samples.scored($0, empty: true)
        press(&state, "3", "j", .enter, "j", "j")
        return state
      }
    ),
    ("search", { Samples.withPreview(Samples.searching($0, "<", " ")) }),
    ("search-plot", { Samples.searching($0, "<", "v", "n", "n") }),
    (
      "search-form",
      {
        var state = Samples.searching($0)
        press(&state, "R", "m", "j")
        return state
      }
    ),
    (
      // Wide characters, marks, escape sequences and direction overrides in everything that has a name.
      "outside-text",
      {
        var state = Samples.outsideText($0)
        press(&state, "r")
        return state
      }
    ),
    (
      "outside-grid",
      {
        var state = Samples.outsideText($0)
        state.notice = .failure(
          "日本語\u{1b}]0;title\u{7}.pt: no tensor " + String(repeating: "x\u{202e}", count: 3000)
            + "; check the file")
        return state
      }
    ),
    (
      "cost-table",
      {
        var state = Samples.busy($0)
        state.library.costs = Samples.costs()
        press(&state, "$")
        return state
      }
    ),
    (
      "history",
      {
        var state = Samples.busy($0)
        press(&state, "u", "U")
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

  static let folder = URL(filePath: #filePath).deletingLastPathComponent()
    .appending(path: "Snapshots")
  static let sizes = ["80x24", "120x40", "200x60"]

  @Test(arguments: scenes.map(\.name), sizes)
  func frameAsStored(scene: String, size: String) throws {
    let parts = size.split(separator: "x").compactMap { Int($0) }
    let make = try #require(Self.scenes.first { $0.name == scene }?.make)
    let frame = ExplorerView.frame(make(Size(columns: parts[0], rows: parts[1])))
    try Recorded.check(
      frame.snapshot, at: Self.folder.appending(path: "\(scene)-\(size).txt"))
  }

  @Test func everyStoredFrameHasAScene() throws {
    let expected = Self.scenes.flatMap { scene in Self.sizes.map { "\(scene.name)-\($0).txt" } }
    let stored = try FileManager.default.contentsOfDirectory(atPath: Self.folder.path)
    #expect(Set(stored) == Set(expected))
  }

  /// A change of one cell's style, of the cursor or of an image is a change of the snapshot.
  @Test func snapshotsShowMoreThanText() {
    let frame = ExplorerView.frame(Samples.withPreview(Samples.busy(Samples.small)))
    var styled = frame
    styled.restyle(column: 5, row: 5, columns: 1) { $0.underline.toggle() }
    var moved = frame
    moved.cursor = .init(column: 1, row: 1)
    var without = frame
    without.images.removeLast()
    let texts = [frame, styled, moved, without].map(\.snapshot)
    #expect(Set(texts).count == 4 && styled.text() == frame.text())
  }
}
