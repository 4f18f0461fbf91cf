import Plans
import Search
import TerminalUI
import Text

/// The grid of blocks: for every slot its operator, its mark and its loss.
struct GridView {
  let state: AppState
  let layout: Layout
  /// The columns of one block's row, relative to the fold's left edge.
  private let columns: Columns
  private let chosen: Set<SlotID>
  /// The span of the blocks' localities, so that a bar of one cell tells them apart.
  private let shares: ClosedRange<Double>
  /// The prices of the heat map, if it is shown.
  private let prices: ClosedRange<Double>?
  /// Slots that a search locks.
  private let locks: ParetoSolver.Constraints

  private struct Columns {
    struct SlotColumns {
      var label: Int
      var labelWidth: Int
      var mark: Int
      var loss: Int
      var spark: Int
      var sparkWidth: Int
    }
    var attention: SlotColumns
    /// Attention to the caption, which cannot be replaced.
    var caption: Int?
    var mlp: SlotColumns
    var bar: Int
    var barWidth: Int
    var share: Int?
    var variance: Int?
    /// Where a bracket holds two parallel blocks together.
    var bracket: Int
    var width: Int
  }

  init(state: AppState, layout: Layout, locks: ParetoSolver.Constraints = .init()) {
    self.state = state
    self.layout = layout
    self.locks = locks
    prices = state.costMap == nil ? nil : state.shownPrices
    let isText = state.model.shape.family.condition == .captions
    columns =
      layout.isNarrow ? Self.folded : Self.detailed(layout.grid.columns, hasCaption: isText)
    let range = state.anchor == nil ? [] : state.range
    chosen = Set(range).union(state.promptedSlots)
    var span = 0.0...1.0
    if case .ready(let analysis) = state.analysis {
      let known = analysis.blocks.indices.compactMap { analysis.share(block: $0) }
        .filter(\.isFinite)
      if let low = known.min(), let high = known.max() { span = low...high }
    }
    shares = span
  }

  private static let folded = Columns(
    attention: .init(label: 3, labelWidth: 8, mark: 11, loss: 12, spark: 0, sparkWidth: 0),
    mlp: .init(label: 17, labelWidth: 4, mark: 21, loss: 22, spark: 0, sparkWidth: 0),
    bar: 27, barWidth: 1, share: nil, variance: nil, bracket: 28, width: 29)

  /// Shares out the width: fixed columns first, then sparklines, labels and bars grow.
  private static func detailed(_ width: Int, hasCaption: Bool) -> Columns {
    let hasVariance = width >= 70
    let fixed = 6 + 2 * 8 + 2 + 2 + 4 + (hasVariance ? 6 : 0)
    let captionWidth = hasCaption ? 6 : 0
    let free = width - 2 - fixed - captionWidth
    let attentionLabel = min(14, max(7, free * 22 / 100))
    let mlpLabel = min(12, max(5, free * 15 / 100))
    let bar = min(12, max(1, free * 14 / 100))
    let spark = max(0, min(18, (free - attentionLabel - mlpLabel - bar) / 2))
    var position = 1 + 2 + 2
    func slot(_ labelWidth: Int) -> Columns.SlotColumns {
      defer { position += labelWidth + 1 + 1 + 1 + 4 + 1 + spark + (spark > 0 ? 2 : 1) }
      let mark = position + labelWidth + 1
      return .init(
        label: position, labelWidth: labelWidth, mark: mark, loss: mark + 1, spark: mark + 7,
        sparkWidth: spark)
    }
    let attention = slot(attentionLabel)
    let caption = hasCaption ? position : nil
    position += captionWidth
    let mlp = slot(mlpLabel)
    let share = position + bar + 1
    return Columns(
      attention: attention, caption: caption, mlp: mlp, bar: position, barWidth: bar, share: share,
      variance: hasVariance ? share + 5 : nil, bracket: width - 1, width: width)
  }

  func draw(on frame: inout Frame) {
    let first = layout.firstBlock(depth: state.depth, cursor: state.cursor.block)
    for fold in 0..<layout.folds {
      let left = layout.grid.column + fold * columns.width
      let start = first + fold * layout.blocksInFold
      guard start < state.depth else { break }
      drawHeader(on: &frame, left: left)
      for row in 0..<min(layout.blocksInFold, state.depth - start) {
        drawBlock(start + row, on: &frame, left: left, row: layout.grid.row + 1 + row)
      }
    }
    drawScrollMarks(on: &frame, first: first)
  }

  private func drawHeader(on frame: inout Frame, left: Int) {
    let row = layout.grid.row
    func put(_ text: String, _ column: Int, _ width: Int) {
      frame.put(text, column: left + column, row: row, style: Theme.quiet, maxColumns: width)
    }
    let isFolded = layout.isNarrow
    put("#", isFolded ? 1 : 2, 1)
    put("attention", columns.attention.label, 9)
    if let caption = columns.caption { put("cross", caption, 5) }
    put("mlp", columns.mlp.label, 3)
    if columns.attention.sparkWidth >= 4 {
      put(lossTitle, columns.attention.loss + 1, 8)
      put(lossTitle, columns.mlp.loss + 1, 8)
    } else if !isFolded {
      put(lossTitle, columns.mlp.loss + 1, 4)
    }
    let band = "L\(paperBand)"
    if columns.share != nil {
      let (title, width) = ("local \(band)", columns.barWidth + 5)
      put(title.count <= width ? title : band, columns.bar, width)
    } else {
      put(TextWidth.padLeft(band, 4), columns.bar - 3, 4)
    }
    if let variance = columns.variance { put("var", variance + 2, 3) }
  }

  private var lossTitle: String { state.costMap == nil ? "loss" : "%/ms" }

  private var paperBand: Int {
    if case .ready(let analysis) = state.analysis { analysis.paperBand } else { 32 }
  }

  private func drawBlock(_ block: Int, on frame: inout Frame, left: Int, row: Int) {
    let isCursorRow = state.cursor.block == block
    frame.putRight(
      Format.two(block), right: left + (layout.isNarrow ? 2 : 3), row: row,
      style: isCursorRow ? Theme.strong : Theme.quiet)
    drawSlot(SlotID(block: block, slot: .attention), columns.attention, &frame, left, row)
    if let caption = columns.caption {
      frame.put("mha", column: left + caption, row: row, style: Theme.quiet)
    }
    drawSlot(SlotID(block: block, slot: .mlp), columns.mlp, &frame, left, row)
    if let pair = state.plan.pair(of: block) {
      let status = state.status(of: SlotID(block: block, slot: .attention))
      frame.put(
        block == pair.first ? "╗" : "╝", column: left + columns.bracket, row: row,
        style: Theme.phase(status.phase))
    }
    guard case .ready(let analysis) = state.analysis, analysis.blocks.indices.contains(block)
    else { return }
    let statistics = analysis.blocks[block]
    if let share = analysis.share(block: block) {
      let bar =
        columns.barWidth == 1
        ? Plot.sparkline([share], columns: 1, range: shares)
        : Plot.bar(share, columns: columns.barWidth)
      frame.put(bar, column: left + columns.bar, row: row, style: Theme.quiet)
      if let column = columns.share {
        frame.put(Format.share(share), column: left + column, row: row, style: Theme.plain)
      }
    }
    if let column = columns.variance {
      let variance = statistics.statistics(of: .attention).variance
      frame.put(
        TextWidth.padLeft(Format.loss(variance), 5), column: left + column, row: row,
        style: Theme.quiet)
    }
  }

  private func drawSlot(
    _ slot: SlotID, _ place: Columns.SlotColumns, _ frame: inout Frame, _ left: Int, _ row: Int
  ) {
    let status = state.status(of: slot)
    let style = Theme.phase(status.phase)
    let label = state.plan.label(of: slot)
    let labelStyle = status.phase == .pristine ? Theme.plain : style
    frame.put(
      TextWidth.pad(label, place.labelWidth), column: left + place.label, row: row,
      style: labelStyle)
    if state.costMap != nil {
      drawCost(of: slot, place, &frame, left, row)
    } else {
      frame.put(status.phase.mark, column: left + place.mark, row: row, style: style)
    }
    if locks.kept.contains(slot) || locks.required[slot] != nil {
      frame.put(
        locks.kept.contains(slot) ? "=" : "+", column: left + place.label - 1, row: row,
        style: Theme.warning)
    }
    if let loss = status.loss, state.costMap == nil {
      let gap = layout.isNarrow ? 0 : 1
      frame.put(
        TextWidth.padLeft(Format.loss(loss), 4), column: left + place.loss + gap, row: row,
        style: Theme.plain)
      drawSpark(slot, place, &frame, left, row)
    }
    let width = place.loss + 4 - place.label + (layout.isNarrow ? 0 : 1)
    let kind = slot.slot == .attention ? 0 : 1
    frame.targets.append(
      MouseTarget(
        .place(slot.block, kind), column: left + place.label - 1, row: row, columns: width + 1))
    if state.marks.contains(slot) {
      frame.put("•", column: left + place.label - 1, row: row, style: Theme.warning)
    }
    if chosen.contains(slot) {
      frame.put("›", column: left + place.label - 1, row: row, style: Theme.warning)
      frame.restyle(column: left + place.label, row: row, columns: width) { style in
        style.foreground = Theme.selected.foreground
        style.background = Theme.selected.background
      }
    }
    if state.cursor == slot {
      frame.restyle(column: left + place.label - 1, row: row, columns: width + 1) { style in
        style = Theme.cursor
      }
    }
  }

  /// The level and the price of the change in question, and where there is room what it saves.
  private func drawCost(
    of slot: SlotID, _ place: Columns.SlotColumns, _ frame: inout Frame, _ left: Int, _ row: Int
  ) {
    guard let cost = state.cost(of: slot) else {
      frame.put("·", column: left + place.mark, row: row, style: Theme.quiet)
      return
    }
    let level = CostMap.level(cost.price, in: prices)
    let style = Theme.heat(level, state.palette)
    let gap = layout.isNarrow ? 0 : 1
    frame.put(
      level.map(String.init) ?? "–", column: left + place.mark, row: row, style: style)
    frame.put(
      String(repeating: " ", count: gap)
        + TextWidth.padLeft(level == nil ? "" : CostMap.text(cost.price), 4),
      column: left + place.loss, row: row, style: style)
    guard place.sparkWidth >= 8 else { return }
    frame.put(
      TextWidth.padLeft(Format.milliseconds(-cost.saving.time), place.sparkWidth),
      column: left + place.spark, row: row, style: Theme.quiet)
  }

  private func drawSpark(
    _ slot: SlotID, _ place: Columns.SlotColumns, _ frame: inout Frame, _ left: Int, _ row: Int
  ) {
    guard place.sparkWidth >= 4, let site = state.plan.site(of: slot),
      let points = state.runs.focus?.history.losses[site]
    else {
      return
    }
    // A few values for each column say as much as thousands.
    let values = LossPanel.sampled(points, limit: 4 * place.sparkWidth).map(\.value)
    let line = Plot.sparkline(values, columns: place.sparkWidth)
    frame.put(line, column: left + place.spark, row: row, style: Theme.quiet)
  }

  /// Arrows at the header's end when blocks are hidden above or below.
  private func drawScrollMarks(on frame: inout Frame, first: Int) {
    let visible = layout.folds * layout.blocksInFold
    guard state.depth > visible else { return }
    let last = min(state.depth, first + visible) - 1
    let text = "\(first > 0 ? "↑" : " ")\(first)–\(last)\(last + 1 < state.depth ? "↓" : " ")"
    frame.putRight(
      text, right: layout.grid.right - 1, row: layout.grid.row, style: Theme.warning)
  }
}
