import Foundation
import Runs
import TerminalUI
import Text

/// The processes of a run: where they are, what they use and wait for, which are silent, how often they began anew.
struct RanksView {
  let state: AppState
  let page: RanksPage

  func draw(on frame: inout Frame) {
    let inside = Popup.open(
      on: &frame, columns: frame.columns - 4, rows: frame.rows - 4,
      title: "ranks of \(state.runs.title(of: page.id))")
    let lines = Self.lines(state, page, width: inside.columns)
    let shown = lines.indices.dropFirst(page.first).prefix(inside.rows)
    for (offset, index) in shown.enumerated() {
      let (text, style) = lines[index]
      frame.put(
        text, column: inside.column, row: inside.row + offset, style: style,
        maxColumns: inside.columns)
    }
    guard lines.count > inside.rows else { return }
    frame.putPosition(of: shown.startIndex..<shown.endIndex, count: lines.count, in: inside)
  }

  /// The lines of the page with their styles.
  static func lines(_ state: AppState, _ page: RanksPage, width: Int) -> [(String, Style)] {
    guard let record = state.runs.record(page.id) else {
      return [("the run is no longer there", Theme.warning)]
    }
    var lines: [(String, Style)] = record.engineLines.flatMap { line in
      TextWidth.wrap(line, width).map { ($0, Theme.plain) }
    }
    guard let resources = record.resources, resources.memoryByRank.count > 1 else { return lines }
    lines += [("", Theme.plain), ("rank      memory  waits for others", Theme.quiet)]
    let silent = Set(resources.silent)
    for (rank, memory) in resources.memoryByRank.enumerated() {
      let share = rank < resources.waitingByRank.count ? resources.waitingByRank[rank] : 0
      let bar = Plot.bar(share, columns: max(4, min(20, width - 40)))
      lines.append(
        (
          TextWidth.padLeft("\(rank)", 4) + TextWidth.padLeft(Self.size(memory), 12)
            + TextWidth.padLeft("\(Int((100 * share).rounded()))%", 6) + "  \(bar)"
            + (silent.contains(rank) ? "  silent" : ""),
          silent.contains(rank) ? Theme.failure : Theme.plain
        ))
    }
    return lines
  }

  static func size(_ bytes: Int) -> String { "\(Format.metric(Double(bytes)))B" }
}

/// The page of a run's ranks.
package struct RanksPage: Equatable, Sendable {
  /// The run.
  package let id: String
  /// The first row shown.
  package var first = 0

  /// Shows the ranks of a run.
  package init(id: String) { self.id = id }
}

extension RunSummary {
  /// Engine with its device, such as `torch on cpu x2`; nil for the native engine.
  var engineLabel: String? {
    guard let engine else { return nil }
    guard let ranks else { return engine }
    return "\(engine) on \(ranks.device)\(ranks.count > 1 ? " x\(ranks.count)" : "")"
  }

  /// What is known of the engine, in sentences.
  var engineLines: [String] {
    guard let engine else { return ["engine native: this run is done by one process here"] }
    var lines = ["engine \(engine)\(link.map { ", at \($0.host) in \($0.place)" } ?? "")"]
    if let ranks {
      lines.append(
        "\(Format.count(ranks.count, "rank")) on \(ranks.device), \(ranks.engine), started again"
          + " \(ranks.restarts == 1 ? "once" : "\(ranks.restarts) times")")
    } else {
      lines.append("the ranks have not found each other yet")
    }
    if let link, link.isOpen || state.isUnderWay {
      lines.append("link \(link.state.rawValue)\(link.reason.map { ": \($0)" } ?? "")")
    }
    if let resources {
      lines.append("highest memory of any rank \(RanksView.size(resources.memory))")
      if !resources.silent.isEmpty {
        let names = resources.silent.map(String.init).joined(separator: ", ")
        lines.append("\(resources.silent.count == 1 ? "rank" : "ranks") \(names) silent")
      }
    }
    return lines
  }
}
