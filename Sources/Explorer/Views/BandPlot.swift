import TerminalUI

/// Upright bars for the attention locality over band widths, labelled with the widths.
struct BandPlot {
  /// The band widths k.
  let bands: [Int]
  /// The share of attention within each band, in [0, 1].
  let shares: [Double]
  /// The same shares averaged over all blocks, drawn as a tick beside each bar; empty for none.
  let reference: [Double]
  /// The band that the paper uses.
  let highlighted: Int

  /// Draws bars in all rows but the last, which holds the labels.
  func draw(on frame: inout Frame, in rect: Rect) {
    guard rect.rows >= 2, !bands.isEmpty, shares.count == bands.count else { return }
    let pitch = max(1, min(8, rect.columns / bands.count))
    let width = max(1, pitch >= 4 ? pitch - 2 : pitch == 1 ? 1 : pitch - 1)
    let height = rect.rows - 1
    let shown = min(bands.count, rect.columns / pitch)
    var labelEnd = rect.column - 1
    for index in 0..<shown {
      let column = rect.column + index * pitch
      let isPaper = bands[index] == highlighted
      let style = isPaper ? Theme.warning : Theme.heading
      drawBar(
        shares[index], on: &frame, column: column, width: width, top: rect.row, height: height,
        style: style)
      if reference.indices.contains(index), reference[index].isFinite, pitch > width {
        let level = min(height - 1, Int(min(1, max(0, reference[index])) * Double(height)))
        frame.put(
          "┤", column: column + width, row: rect.row + height - 1 - level, style: Theme.quiet)
      }
    }
    // The paper's band keeps its label; the others are written where there is room.
    let paper = bands.prefix(shown).firstIndex(of: highlighted)
    let reserved = paper.map { rect.column + $0 * pitch }
    for index in 0..<shown {
      let text = String(bands[index])
      let width = text.utf8.count
      let column = rect.column + index * pitch
      if let reserved, let paper, index < paper, column + width + 1 > reserved { continue }
      guard column > labelEnd, column + width <= rect.right else { continue }
      frame.put(
        text, column: column, row: rect.row + height,
        style: index == paper ? Theme.warning : Theme.quiet)
      labelEnd = column + width
    }
  }

  private func drawBar(
    _ share: Double, on frame: inout Frame, column: Int, width: Int, top: Int, height: Int,
    style: Style
  ) {
    guard share.isFinite else { return }
    let eighths = Int((min(1, max(0, share)) * Double(height) * 8).rounded())
    let blocks: [Character] = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"]
    for level in 0..<height {
      let left = eighths - level * 8
      guard left > 0 else { break }
      let text = String(repeating: blocks[min(8, left) - 1], count: width)
      frame.put(text, column: column, row: top + height - 1 - level, style: style)
    }
  }
}
