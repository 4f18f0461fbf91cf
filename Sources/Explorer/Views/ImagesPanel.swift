import Plans
import TerminalUI
import Text

/// Teacher, graft and their difference, sampled from the same noise.
struct ImagesPanel {
  let state: AppState
  let rect: Rect
  let isWide: Bool

  private var preview: PreviewState { state.preview }
  private var body: Rect { rect.dropping(top: 1) }

  func draw(on frame: inout Frame) {
    let rule = Rect(column: rect.column, row: rect.row, columns: rect.columns, rows: 1)
    if isWide {
      drawWide(on: &frame, rule: rule)
    } else {
      drawStrip(on: &frame, rule: rule)
    }
  }

  // MARK: - Arrangements

  /// Three pictures in a row with their captions beside them.
  private func drawStrip(on frame: inout Frame, rule: Rect) {
    frame.hline(column: rule.column, row: rule.row, columns: rule.columns, style: Theme.rule)
    let width = (rect.columns - 14) / 3
    drawPictures(on: &frame, column: body.column, row: body.row, width: width, rows: body.rows)
    for (index, role) in PreviewRole.allCases.enumerated() {
      frame.put(
        TextWidth.clip(role.rawValue, width), column: rect.column + index * (width + 1),
        row: rule.row, style: Theme.heading)
    }
    let column = rect.right - 11
    for (index, line) in captionLines.prefix(body.rows).enumerated() {
      frame.put(
        TextWidth.clip(line.0, 11), column: column, row: body.row + index, style: line.1)
    }
  }

  /// Three pictures as large as the pane's width allows, one caption under them.
  private func drawWide(on frame: inout Frame, rule: Rect) {
    frame.titledRule(rule, title: "images", remark: progress ?? preview.shown.map(weights) ?? "")
    let width = (body.columns - 4) / 3
    let rows = body.rows - 2
    for (index, role) in PreviewRole.allCases.enumerated() {
      frame.put(
        TextWidth.clip(role.rawValue, width), column: body.column + 1 + index * (width + 1),
        row: body.row, style: Theme.heading)
    }
    drawPictures(
      on: &frame, column: body.column + 1, row: body.row + 1, width: width, rows: rows)
    frame.put(
      TextWidth.clip(captionLine, body.columns - 2), column: body.column + 1, row: body.bottom - 1,
      style: state.staleness == nil ? Theme.quiet : Theme.warning)
  }

  // MARK: - Pictures

  private func drawPictures(
    on frame: inout Frame, column: Int, row: Int, width: Int, rows: Int
  ) {
    for (index, role) in PreviewRole.allCases.enumerated() {
      let left = column + index * (width + 1)
      let place = Rect(column: left, row: row, columns: width, rows: rows)
      if let picture = preview.shown?.images[role] {
        frame.place(placement(picture, role: role, in: place))
        frame.targets.append(
          MouseTarget(.key("i"), column: left, row: row, columns: width, rows: rows))
      } else {
        drawEmpty(role, on: &frame, in: place)
      }
    }
  }

  private func placement(_ picture: Picture, role: PreviewRole, in place: Rect) -> ImagePlacement {
    ImagePlacement(
      id: role.rawValue, column: place.column, row: place.row, columns: place.columns,
      rows: place.rows, picture: picture.image, contentHash: picture.contentHash)
  }

  /// A faint frame where a picture will be.
  private func drawEmpty(_ role: PreviewRole, on frame: inout Frame, in place: Rect) {
    let rows = min(place.rows, (place.columns + 1) / 2)
    frame.box(
      column: place.column, row: place.row, columns: place.columns, rows: rows, style: Theme.rule)
    guard rows >= 3, place.columns >= 8 else { return }
    let text =
      if preview.pending != nil {
        "…"
      } else if preview.shown != nil {
        "no graft"
      } else if role == .teacher {
        "s sample"
      } else {
        ""
      }
    frame.putCentred(
      text, column: place.column + 1, columns: place.columns - 2, row: place.row + rows / 2,
      style: Theme.quiet)
  }

  // MARK: - Captions

  /// How far the preview is that is being made; nil without one.
  var progress: String? {
    guard let pending = preview.pending else { return nil }
    guard pending.total > 0 else { return "sampling …" }
    return "sampling \(pending.done)/\(pending.total)"
  }

  func weights(_ preview: Preview) -> String {
    if preview.changes.isEmpty { return "no graft" }
    let fresh = preview.freshCount == 0 ? "" : ", \(preview.freshCount) fitted"
    if preview.isFromLibrary { return "library\(fresh)" }
    return preview.weightStep.map { "at step \($0)\(fresh)" } ?? "fitted"
  }

  private var captionLines: [(String, Style)] {
    let settings = preview.settings
    var lines: [(String, Style)] = [
      (state.conditionText(settings), Theme.strong),
      ("seed \(settings.seed)", Theme.quiet),
      ("\(settings.steps) steps", Theme.quiet),
      ("cfg \(Format.plain(settings.guidance))", Theme.quiet),
    ]
    if let pending = preview.pending {
      lines.append(
        (pending.total > 0 ? "… \(pending.done)/\(pending.total)" : "sampling …", Theme.warning))
    } else if state.staleness != nil {
      lines.append(("! stale", Theme.warning))
    } else if let shown = preview.shown, !shown.changes.isEmpty {
      lines.append((weights(shown), Theme.quiet))
    }
    return lines
  }

  func describe(_ settings: PreviewSettings) -> String {
    let isGrid = settings.rows > 1 || settings.seeds > 1
    let noun = state.model.shape.family.condition == .captions ? "prompts" : "classes"
    let grid = isGrid ? "  \(settings.rows) \(noun) x \(settings.seeds) seeds" : ""
    return
      "\(state.conditionText(settings))  seed \(settings.seed)\(grid)  \(settings.steps) steps"
      + "  cfg \(Format.plain(settings.guidance))"
  }

  private var captionLine: String {
    guard let shown = preview.shown else {
      return preview.pending == nil
        ? "\(describe(preview.settings)): s samples" : describe(preview.settings)
    }
    guard let staleness = state.staleness else { return describe(shown.settings) }
    return shown.settings == preview.settings
      ? "stale: \(staleness); s samples again" : "stale; s: \(describe(preview.settings))"
  }
}
