import Foundation
import Pictures
import Plans
import Runs
import TerminalUI
import Text

/// What is known of the teacher in one block, over the whole screen.
struct EvidenceView {
  let state: AppState
  let pane: EvidencePane

  private var block: Int { state.cursor.block }
  private var area: Rect {
    Rect(column: 1, row: 2, columns: state.size.columns - 2, rows: state.size.rows - 3)
  }

  func draw(on frame: inout Frame) {
    frame.fill(column: 0, row: 1, columns: frame.columns, rows: frame.rows - 2)
    let rule = Rect(column: 0, row: 1, columns: frame.columns, rows: 1)
    guard let teacher = state.teacher, let known = teacher.block(block) else {
      frame.titledRule(rule, title: "the teacher")
      frame.put(
        "its statistics are not known yet: A in the grid computes them", column: area.column,
        row: area.row, style: Theme.quiet)
      return
    }
    frame.titledRule(
      rule, title: title, remark: Format.count(teacher.samples, "sample"))
    switch pane.page {
    case .attention: drawAttention(teacher, known, on: &frame)
    case .activations: drawActivations(known.statistics(of: state.cursor.slot), on: &frame)
    }
  }

  private var title: String {
    switch pane.page {
    case .attention: "attention of block \(block)"
    case .activations: "output of \(state.cursor.slot.title) \(block)"
    }
  }

  // MARK: - Attention

  private func drawAttention(
    _ teacher: ModelAnalysis, _ known: BlockAnalysis, on frame: inout Frame
  ) {
    guard !known.locality.isEmpty else {
      frame.put(
        "the block has no softmax attention", column: area.column, row: area.row,
        style: Theme.quiet)
      return
    }
    let picture = min(area.columns / 2, 2 * (area.rows - 2))
    let left = Rect(
      column: area.column, row: area.row, columns: area.columns - picture - 2, rows: area.rows)
    drawCurves(teacher, known, on: &frame, in: left)
    drawMap(
      on: &frame,
      in: Rect(column: left.right + 2, row: area.row, columns: picture, rows: area.rows))
  }

  /// The attention within every band: of all blocks faintly, of the heads of this one, and of their mean.
  private func drawCurves(
    _ teacher: ModelAnalysis, _ known: BlockAnalysis, on frame: inout Frame, in rect: Rect
  ) {
    let bands = teacher.bands.map(Double.init)
    func curve(_ shares: [Double], _ style: Style) -> Plot.Series? {
      shares.count == bands.count ? Plot.Series(x: bands, y: shares, style: style) : nil
    }
    let others = teacher.blocks.enumerated().filter { $0.offset != block }
      .compactMap { curve($0.element.locality, Theme.faintCurve) }
    let heads = known.localityPerHead.enumerated().filter { $0.offset != pane.head }
      .compactMap { curve($0.element, Theme.heldOutCurve) }
    let shown = pane.head.flatMap {
      known.localityPerHead.indices.contains($0) ? known.localityPerHead[$0] : nil
    }
    var chart = Chart(
      others + heads + [curve(shown ?? known.locality, Theme.trainCurve)].compactMap(\.self))
    (chart.isLogX, chart.symbols) = (true, state.chart.symbols)
    let lines = headLines(teacher, known, columns: rect.columns)
    let rows = max(5, rect.rows - lines.count - 3)
    frame.put(
      TextWidth.clip("attention at most k tokens away, by k", rect.columns), column: rect.column,
      row: rect.row, style: Theme.heading)
    frame.draw(
      chart.frame(columns: rect.columns, rows: rows), column: rect.column, row: rect.row + 1)
    frame.write(
      [
        ("── ", Theme.trainCurve), (headName, Theme.plain), ("  ── ", Theme.heldOutCurve),
        ("heads", Theme.quiet), ("  ── ", Theme.faintCurve), ("others", Theme.quiet),
      ], column: rect.column, row: rect.row + 1 + rows, maxColumns: rect.columns)
    for (index, line) in lines.enumerated() {
      frame.write(
        line, column: rect.column, row: rect.row + 2 + rows + index, maxColumns: rect.columns)
    }
  }

  private var headName: String { pane.head.map { "head \($0)" } ?? "heads' mean" }

  /// The suggested window, then the heads' localities, several to a line.
  private func headLines(
    _ teacher: ModelAnalysis, _ known: BlockAnalysis, columns: Int
  ) -> [[(String, Style)]] {
    var lines: [[(String, Style)]] = []
    if let window = known.window(holding: state.windowShare) {
      lines.append([
        ("window \(window) ", Theme.strong),
        ("holds \(Format.plain(state.windowShare * 100)) % of the attention", Theme.quiet),
      ])
    }
    guard let band = teacher.bands.firstIndex(of: teacher.paperBand) else { return lines }
    let shares = known.localityPerHead.map { $0.indices.contains(band) ? $0[band] : .nan }
    let across = max(1, (columns - 5) / 9)
    for start in stride(from: 0, to: min(shares.count, 3 * across), by: across) {
      var line = [(TextWidth.pad(start == 0 ? "L\(teacher.paperBand)" : "", 5), Theme.quiet)]
      for head in start..<min(shares.count, start + across) {
        let style = pane.head == head ? Theme.warning : Theme.plain
        line.append(
          (
            "\(TextWidth.padLeft(String(head), 2)) \(TextWidth.padLeft(Format.share(shares[head]), 4))  ",
            style
          ))
      }
      lines.append(line)
    }
    return lines
  }

  /// The mean attention of the chosen head, queries down and keys across.
  private func drawMap(on frame: inout Frame, in rect: Rect) {
    frame.put(
      TextWidth.clip(
        "queries ↓ keys → of \(pane.head.map { "head \($0)" } ?? "the heads' mean")", rect.columns),
      column: rect.column, row: rect.row, style: Theme.heading)
    guard pane.mapBlock == block, !pane.maps.isEmpty else {
      let text =
        pane.mapBlock == block ? "no maps are kept: A in the grid measures anew" : "reading …"
      for (index, line) in TextWidth.wrap(text, rect.columns).enumerated() {
        frame.put(line, column: rect.column, row: rect.row + 1 + index, style: Theme.quiet)
      }
      return
    }
    let picture = pane.maps[min((pane.head ?? -1) + 1, pane.maps.count - 1)]
    frame.place(
      ImagePlacement(
        id: "attention", column: rect.column, row: rect.row + 1, columns: rect.columns,
        rows: min(rect.rows - 2, (rect.columns + 1) / 2), picture: picture.image,
        contentHash: picture.contentHash))
  }

  // MARK: - Activations

  private func drawActivations(_ statistics: ActivationSummary, on frame: inout Frame) {
    let right = min(34, area.columns / 2)
    let left = Rect(
      column: area.column, row: area.row, columns: area.columns - right - 2, rows: area.rows)
    drawHistogram(statistics, on: &frame, in: left)
    var row = area.row
    let column = left.right + 2
    for item in statistics.rows {
      frame.write(
        [
          (TextWidth.pad(item.name, 12), Theme.quiet),
          (TextWidth.padLeft(Format.statistic(item.value), 8), Theme.plain),
        ], column: column, row: row, maxColumns: right)
      row += 1
    }
    row += 1
    let channels = statistics.channels
    frame.put(
      TextWidth.clip(
        "\(Format.count(channels.outliers, "outlier channel")) (≥ \(Format.plain(ChannelSummary.outlierRatio)) × median)",
        right), column: column, row: row, style: Theme.heading)
    row += 1
    frame.put(
      TextWidth.pad("channel", 9) + TextWidth.padLeft("rms", 8) + TextWidth.padLeft("max |x|", 9)
        + TextWidth.padLeft("× med", 8), column: column, row: row, style: Theme.quiet,
      maxColumns: right)
    for channel in channels.largest {
      row += 1
      guard row < area.bottom else { return }
      let ratio = channels.medianRMS > 0 ? channel.rms / channels.medianRMS : .nan
      frame.put(
        TextWidth.pad(String(channel.channel), 9)
          + TextWidth.padLeft(Format.statistic(channel.rms), 8)
          + TextWidth.padLeft(Format.statistic(channel.maxAbs), 9)
          + TextWidth.padLeft(Format.fixed(ratio, 1), 8), column: column, row: row,
        style: ratio >= ChannelSummary.outlierRatio ? Theme.warning : Theme.plain,
        maxColumns: right)
    }
  }

  /// One bar for each bin; the bins widen with the magnitude, so that bulk and outliers are seen.
  private func drawHistogram(
    _ statistics: ActivationSummary, on frame: inout Frame, in rect: Rect
  ) {
    frame.put(
      TextWidth.clip("share of values, bins √2 wide", rect.columns),
      column: rect.column, row: rect.row, style: Theme.heading)
    let bars = Self.bars(statistics.histogram, columns: rect.columns)
    guard let highest = bars.map(\.share).max(), highest > 0 else { return }
    let height = rect.rows - 3
    for (index, bar) in bars.enumerated() {
      // The logarithm down to one in a million keeps single outliers in sight.
      let level = bar.share > 0 ? max(0.02, 1 + log10(bar.share / highest) / 6) : 0
      let eighths = Int((level * Double(height) * 8).rounded(.up))
      for row in 0..<height {
        let left = eighths - row * 8
        guard left > 0 else { break }
        let blocks = Array("▁▂▃▄▅▆▇█")
        let character = state.chart.symbols == .ascii ? "#" : blocks[min(8, left) - 1]
        frame.put(
          String(character), column: rect.column + index, row: rect.row + height - row,
          style: bar.low < 0 ? Theme.heldOutCurve : Theme.trainCurve)
      }
    }
    drawEdges(bars, on: &frame, row: rect.row + height + 1, in: rect)
    frame.put(
      TextWidth.clip(
        "log heights, highest \(PlotNumber.text(highest, digits: 2))",
        rect.columns), column: rect.column, row: rect.row + height + 2, style: Theme.quiet)
  }

  private func drawEdges(
    _ bars: [HistogramBin], on frame: inout Frame, row: Int, in rect: Rect
  ) {
    var free = 0
    for (index, bar) in bars.enumerated() {
      // Whole powers of four, and zero, which may be among the values of a joined bin.
      let isZero = bar.low <= 0 && bar.high >= 0
      let edge = bar.low < 0 ? bar.high : bar.low
      let octave = log2(abs(edge))
      guard isZero || octave.isFinite && (octave / 2).rounded() == octave / 2 else { continue }
      let text = isZero ? "0" : PlotNumber.text(edge, digits: 2)
      guard index >= free, index + text.count <= rect.columns else { continue }
      frame.put(text, column: rect.column + index, row: row, style: Theme.quiet)
      free = index + text.count + 1
    }
  }

  /// The bins, neighbours joined where there are more than columns.
  static func bars(_ bins: [HistogramBin], columns: Int) -> [HistogramBin] {
    let step = max(1, (bins.count + columns - 1) / max(1, columns))
    return stride(from: 0, to: bins.count, by: step).map { start in
      let group = bins[start..<min(bins.count, start + step)]
      return HistogramBin(
        low: group.map(\.low).min() ?? 0, high: group.map(\.high).max() ?? 0,
        share: group.reduce(0) { $0 + $1.share })
    }
  }
}
