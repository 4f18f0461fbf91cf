import Foundation
import Plans
import Runs
import TerminalUI
import Text

/// The selected slot: its operator, what that costs, its losses, and what the teacher does there.
struct SlotPanel {
  let state: AppState
  let rect: Rect
  let isWide: Bool

  private var slot: SlotID { state.cursor }
  private var inner: Rect {
    Rect(column: rect.column + 1, row: rect.row, columns: rect.columns - 1, rows: rect.rows)
  }

  func draw(on frame: inout Frame) {
    let status = state.status(of: slot)
    let name = "\(Format.two(slot.block)) \(slot.slot.title)"
    if isWide {
      frame.titledRule(
        Rect(column: rect.column, row: rect.row, columns: rect.columns, rows: 1), title: name,
        remark: "\(status.phase.mark) \(status.phase.meaning)")
    } else {
      frame.write(
        [
          (name, Theme.heading), ("  ", Theme.plain),
          (status.phase.mark, Theme.phase(status.phase)),
        ],
        column: inner.column, row: rect.row, maxColumns: inner.columns)
    }
    var row = rect.row + 1
    row = drawOperator(on: &frame, row: row)
    row = drawPair(on: &frame, row: row)
    row = state.costMap == nil ? drawLosses(on: &frame, row: row) : drawCost(on: &frame, row: row)
    if isWide { row += 1 }
    drawTeacher(on: &frame, row: row)
  }

  // MARK: - Operator and cost

  private func drawOperator(on frame: inout Frame, row start: Int) -> Int {
    let original = state.model.shape.original(slot.slot)
    let spec = state.plan.spec(slot)
    let isEdited = state.plan.edits[slot] != nil
    var row = start
    let originalLabel = OperatorCatalog.label(original)
    var pieces = [(originalLabel, Theme.strong)]
    if isEdited {
      pieces += [(" → ", Theme.quiet), (OperatorCatalog.label(spec), Theme.strong)]
    }
    let used = frame.write(pieces, column: inner.column, row: row, maxColumns: inner.columns)
    if isWide, let descriptor = OperatorCatalog.descriptor(named: spec.name) {
      let weights = state.plan.pair(of: slot.block) == nil ? " and weights" : ""
      let text = isEdited ? descriptor.summary : "the teacher's own operator\(weights)"
      frame.put(
        TextWidth.clip(text, max(0, inner.right - used - 2)), column: used + 2, row: row,
        style: Theme.quiet)
    }
    row += 1
    let before = state.model.cost(original)
    let after = state.model.cost(spec)
    for (name, old, new) in [
      ("FLOPs", before.flops, after.flops),
      ("params", Double(before.parameters), Double(after.parameters)),
    ] {
      let change = isEdited ? Format.change(from: old, to: new) : ""
      frame.write(
        [
          (TextWidth.pad(name, 6), Theme.quiet),
          (TextWidth.padLeft(Format.metric(new), 7), Theme.plain),
          (TextWidth.padLeft(change, 7), Theme.plain),
        ], column: inner.column, row: row, maxColumns: inner.columns)
      row += 1
    }
    return row
  }

  /// The block that runs beside this one, and how both are merged.
  private func drawPair(on frame: inout Frame, row: Int) -> Int {
    guard let pair = state.plan.pair(of: slot.block), let merge = state.plan.parallel[pair] else {
      return row
    }
    let other = pair.first == slot.block ? pair.second : pair.first
    let cost = state.model.shape.mergeCost(merge).parameters
    frame.write(
      [
        ("∥ \(Format.two(other)) ", Theme.strong),
        (merge.rawValue, Theme.plain),
        (isWide && cost > 0 ? "  params +\(Format.metric(Double(cost)))" : "", Theme.quiet),
      ], column: inner.column, row: row, maxColumns: inner.columns)
    return row + 1
  }

  // MARK: - Losses

  private func drawLosses(on frame: inout Frame, row: Int) -> Int {
    let site = state.selectedSite
    let kind = state.plan.stage1.loss(for: site).rawValue.uppercased()
    guard let history = state.runs.focus?.history, lossRemark == nil else {
      frame.put(
        TextWidth.clip(lossRemark ?? "", inner.columns), column: inner.column, row: row,
        style: Theme.quiet)
      return row + 2
    }
    let train = history.losses[site]
    let heldOut = history.heldOut[site]
    drawLoss(
      kind == "HUBER" ? "Huber" : "\(kind) loss", train?.last?.value, train?.first?.value, &frame,
      row
    )
    drawLoss("held-out", heldOut?.last?.value, heldOut?.first?.value, &frame, row + 1)
    return row + 2
  }

  /// What replacing the operator costs by the heat map.
  private func drawCost(on frame: inout Frame, row: Int) -> Int {
    guard let cost = state.cost(of: slot) else {
      frame.put(
        TextWidth.clip("not in the library", inner.columns), column: inner.column, row: row,
        style: Theme.quiet)
      return row + 2
    }
    let change = cost.change.text.split(separator: " ").dropFirst().joined(separator: " ")
    frame.write(
      [
        ("error ", Theme.quiet), (Format.loss(100 * cost.loss), Theme.strong),
        (" ±\(Format.loss(100 * cost.standardError)) %", Theme.quiet),
        (isWide ? "  by \(change)" : "", Theme.quiet),
      ], column: inner.column, row: row, maxColumns: inner.columns)
    let share = state.teacherAmount(.time).map {
      " (\(Format.fixed(100 * cost.saving.time / $0, 2)) %)"
    }
    frame.write(
      [
        ("time ", Theme.quiet), (Format.milliseconds(-cost.saving.time), Theme.strong),
        (isWide ? share ?? "" : "", Theme.quiet),
      ], column: inner.column, row: row + 1, maxColumns: inner.columns)
    return row + 2
  }

  /// What is said of a slot that has no losses of its own.
  private var lossRemark: String? {
    switch state.status(of: slot).phase {
    case .pristine: "not replaced"
    case .ready: "from the library"
    case .edited, .fitted:
      "\(state.plan.stage1.loss(for: state.selectedSite).rawValue.uppercased()) loss: d distils"
    case .stale: trainedNote
    case .queued, .training, .trained, .failed:
      state.runs.focusRecord?.kind == .finetune ? "trained as a whole" : nil
    }
  }

  /// What the run trained here, when that is something else now.
  private var trainedNote: String {
    guard let plan = state.runs.focus?.plan else { return "changed since" }
    switch state.trainedSite {
    case .pair(let pair): return "trained as \(pair) \(plan.parallel[pair]?.rawValue ?? "")"
    case .slot: return "trained as \(plan.label(of: slot))"
    case nil: return "not in the run"
    }
  }

  private func drawLoss(
    _ name: String, _ last: Double?, _ first: Double?, _ frame: inout Frame, _ row: Int
  ) {
    frame.write(
      [
        (TextWidth.pad(name, 9), Theme.quiet),
        (last.map(Format.loss) ?? "–", Theme.strong),
        (first.map { " ← \(Format.loss($0))" } ?? "", Theme.quiet),
      ], column: inner.column, row: row, maxColumns: inner.columns)
  }

  // MARK: - The teacher

  private func drawTeacher(on frame: inout Frame, row start: Int) {
    switch state.analysis {
    case .ready(let analysis):
      guard let block = analysis.block(slot.block) else {
        drawNote("the statistics are of another depth", on: &frame, row: start)
        return
      }
      let end = drawStatistics(block.statistics(of: slot.slot), analysis, on: &frame, row: start)
      drawLocality(analysis, on: &frame, row: end)
    case .unknown:
      drawNote("looking for its statistics…", on: &frame, row: start)
    case .computing(_, let done, let total):
      let progress = total > 0 ? " \(done)/\(total)" : ""
      let end = drawNote(
        "computing…\(progress)", on: &frame, row: start)
      if total > 0 {
        frame.put(
          Plot.bar(Double(done) / Double(total), columns: min(30, inner.columns)),
          column: inner.column, row: end, style: Theme.quiet)
      }
    case .failed(let reason):
      drawNote("no statistics: \(reason)", on: &frame, row: start)
    }
  }

  /// Writes a note under the heading and returns the row after it.
  @discardableResult
  private func drawNote(_ text: String, on frame: inout Frame, row: Int) -> Int {
    drawTeacherHeading(on: &frame, row: row)
    let lines = TextWidth.wrap(text, inner.columns - (isWide ? 1 : 0))
      .prefix(max(0, rect.bottom - row - 1))
    for (index, line) in lines.enumerated() {
      frame.put(line, column: inner.column, row: row + 1 + index, style: Theme.quiet)
    }
    return row + 1 + lines.count
  }

  private func drawTeacherHeading(on frame: inout Frame, row: Int) {
    frame.put(
      isWide ? "the teacher's output here" : "teacher's output", column: inner.column, row: row,
      style: Theme.heading)
  }

  private func drawStatistics(
    _ statistics: ActivationSummary, _ analysis: ModelAnalysis, on frame: inout Frame, row: Int
  ) -> Int {
    drawTeacherHeading(on: &frame, row: row)
    let rows = statistics.rows
    let nameWidth = isWide ? 10 : 5
    let column = nameWidth + 8
    let spark = min(analysis.blocks.count, inner.columns - column - (isWide ? 1 : 0))
    for (index, item) in rows.enumerated() {
      let line = row + 1 + index
      frame.write(
        [
          (TextWidth.pad(isWide ? item.name : item.short, nameWidth), Theme.quiet),
          (TextWidth.padLeft(Format.statistic(item.value), 6), Theme.plain),
        ], column: inner.column, row: line, maxColumns: inner.columns)
      drawDepth(
        analysis.blocks.map { $0.statistics(of: slot.slot).rows[index].value },
        column: inner.column + column, width: spark, on: &frame, row: line)
    }
    return row + 1 + rows.count + (rect.rows >= 20 ? 1 : 0)
  }

  /// A statistic over all blocks, the selected one in bold.
  private func drawDepth(
    _ values: [Double], column: Int, width: Int, on frame: inout Frame, row: Int
  ) {
    guard width >= 4 else { return }
    frame.put(
      Plot.sparkline(values.map(Self.compressed), columns: width), column: column, row: row,
      style: Theme.quiet)
    let place = width >= values.count ? slot.block : slot.block * width / max(1, values.count)
    frame.restyle(column: column + place, row: row, columns: 1) { $0 = Theme.warning }
  }

  /// Signed logarithm, so that one outlying block does not flatten all others.
  private static func compressed(_ value: Double) -> Double {
    value < 0 ? -compressed(-value) : log(1 + value * 1000)
  }

  private func drawLocality(_ analysis: ModelAnalysis, on frame: inout Frame, row: Int) {
    guard let share = analysis.share(block: slot.block), let block = analysis.block(slot.block)
    else { return }
    let titles =
      isWide
      ? ["attention ≤ k tokens away (┤ mean)", "attention ≤ k away (┤ mean)", "attention ≤ k away"]
      : [block.within.isEmpty ? "locality" : ""]
    let window = block.window(holding: state.windowShare).map {
      "w\(Int(state.windowShare * 100)) \($0)  "
    }
    let value = "\(window ?? "")L\(analysis.paperBand) \(Format.share(share))"
    let room = inner.columns - TextWidth.columns(of: value) - 2
    let title = titles.first { TextWidth.columns(of: $0) <= room } ?? titles[titles.count - 1]
    frame.put(
      TextWidth.clip(title, room), column: inner.column, row: row, style: Theme.heading)
    frame.putRight(
      value, right: inner.right - (isWide ? 1 : 0), row: row, style: Theme.strong)
    let height = min(rect.bottom - row - 1, isWide ? 13 : 8)
    let plot = BandPlot(
      bands: analysis.bands, shares: block.locality,
      reference: isWide ? analysis.meanLocality : [], highlighted: analysis.paperBand)
    plot.draw(
      on: &frame,
      in: Rect(column: inner.column, row: row + 1, columns: inner.columns, rows: height))
  }
}
