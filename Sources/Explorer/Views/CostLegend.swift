import Plans
import Search
import TerminalUI
import Text

/// What the numbers and colours of the grid's heat map mean.
struct CostLegend {
  let state: AppState
  let rect: Rect

  func draw(on frame: inout Frame) {
    frame.titledRule(
      Rect(column: rect.column, row: rect.row, columns: rect.columns, rows: 1),
      title: "cost of replacing")
    let inner = Rect(
      column: rect.column + 1, row: rect.row + 1, columns: rect.columns - 2, rows: rect.rows - 1)
    for (index, line) in lines(inner.columns).prefix(inner.rows).enumerated() {
      frame.write(line, column: inner.column, row: inner.row + index, maxColumns: inner.columns)
    }
  }

  private func lines(_ columns: Int) -> [[(String, Style)]] {
    var lines = Slot.allCases.map { slot -> [(String, Style)] in
      let name = state.consideredOperator(slot).map { OperatorCatalog.label($0) }
      return [
        (TextWidth.pad(slot.title, 10), state.cursor.slot == slot ? Theme.heading : Theme.quiet),
        (name ?? "best of each", Theme.strong),
      ]
    }
    lines.append([("% error per ms saved", Theme.plain)])
    if let prices = state.shownPrices {
      let scale = (0...CostMap.highest).map { level in
        (String(level), Theme.heat(level, state.palette))
      }
      let low = CostMap.lowest(in: prices)
      let range =
        (low > prices.lowerBound ? "≤" : "") + CostMap.text(low)
        + " – \(CostMap.text(prices.upperBound))"
      lines.append(scale + [(" " + range, Theme.quiet)])
    } else {
      lines.append([
        (
          state.library.costs == nil ? "reading the library …" : "no slot is known", Theme.quiet
        )
      ])
    }
    lines.append([("– saves no time  { } other", Theme.quiet)])
    if let conditions = state.library.costs?.conditions {
      lines.append([
        ("timed: batch \(conditions.batch), ", Theme.quiet),
        (Format.count(conditions.threads, "thread") + ", \(conditions.precision)", Theme.quiet),
      ])
      if let teacher = state.library.costs?.teacherSeconds {
        lines.append([("the teacher takes \(Measure.time.text(teacher))", Theme.quiet)])
      }
    }
    return lines
  }
}

extension Theme {
  /// The style of a level of the heat map: behind the digit viridis, or of 16 colours five that grow lighter; one
  /// of three attributes without colours.
  static func heat(_ level: Int?, _ palette: ThemePalette) -> Style {
    guard let level else { return quiet }
    guard palette != .mono else { return level < 4 ? plain : level < 7 ? warning : failure }
    let (behind, texts): (Color, [Color]) =
      palette.hasManyColors
      ? (
        HeatMap.color(Double(level) / Double(CostMap.highest)),
        [.rgb(0, 0, 0), .rgb(255, 255, 255)]
      )
      : (.index([4, 5, 2, 6, 3][level / 2]), [.index(0), .index(15)])
    let contrasts = texts.map { text -> (Color, Double) in
      guard let one = RGB(text), let other = RGB(behind) else { return (text, 0) }
      return (text, one.contrast(with: other))
    }
    let text = contrasts.max { $0.1 < $1.1 }?.0 ?? .default
    return Style(foreground: text, background: behind)
  }
}
