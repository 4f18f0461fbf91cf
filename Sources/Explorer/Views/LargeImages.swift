import TerminalUI
import Text

/// The preview over the whole screen: its pictures beside each other, or one of them alone.
struct LargeImages {
  let state: AppState

  private var preview: PreviewState { state.preview }

  func draw(on frame: inout Frame) {
    let rect = Rect(column: 0, row: 1, columns: frame.columns, rows: frame.rows - 2)
    let panel = ImagesPanel(state: state, rect: rect, isWide: true)
    guard preview.shown != nil else {
      panel.draw(on: &frame)
      return
    }
    frame.titledRule(
      Rect(column: 0, row: 1, columns: frame.columns, rows: 1), title: "images",
      remark: panel.progress ?? "")
    let lines = captions
    let pictures = state.shownPictures
    let count = max(1, pictures.count)
    let width = (rect.columns - 1 - count) / count
    let rows = rect.rows - 2 - lines.count
    for (index, shown) in pictures.enumerated() {
      let column = 1 + index * (width + 1)
      let title = state.staleness == nil ? shown.title : "\(shown.title) (stale)"
      frame.put(
        TextWidth.clip(title, width), column: column, row: 2,
        style: state.staleness == nil ? Theme.heading : Theme.warning)
      frame.place(
        ImagePlacement(
          id: "large-\(index)", column: column, row: 3, columns: width, rows: rows,
          picture: shown.picture.image, contentHash: shown.picture.contentHash))
    }
    for (index, line) in lines.enumerated() {
      frame.put(
        TextWidth.clip(line.0, rect.columns - 2), column: 1,
        row: rect.bottom - lines.count + index, style: line.1)
    }
  }

  /// What the pictures are of, what is wrong with them, and where one is on the way.
  private var captions: [(String, Style)] {
    guard let shown = preview.shown else { return [] }
    var lines: [(String, Style)] = []
    let panel = ImagesPanel(
      state: state, rect: Rect(column: 0, row: 0, columns: 0, rows: 0), isWide: true)
    lines.append(("\(panel.describe(shown.settings))  \(panel.weights(shown))", Theme.plain))
    if let staleness = state.staleness {
      lines.append(("stale: \(staleness); s samples again", Theme.warning))
    }
    var places: [String] = []
    let frames = state.shownFrames
    if !frames.isEmpty {
      let place = preview.frame.map { "predicted after step \(frames[min($0, frames.count - 1)])" }
      places.append("\(place ?? "result") of \(shown.settings.steps)")
    }
    if let second = preview.second {
      let text = second.pending == nil ? "" : second.shown == nil ? ", sampling …" : ", renewing …"
      places.append("beside \(state.runs.title(of: second.runID))\(text)")
    }
    if state.checkpointSteps.count > 1 {
      let step = shown.weightStep.map { "\($0)" } ?? "none"
      places.append(
        "checkpoint \(step) of \(state.checkpointSteps.map(String.init).joined(separator: " "))")
    }
    places.append("renewed \(preview.renewal.name)")
    lines.append((places.joined(separator: "   "), Theme.quiet))
    return lines
  }
}
