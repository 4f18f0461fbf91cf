import Pictures
import TerminalUI
import Text

/// What was found of the terminal, why everything is drawn as it is, and pictures to judge it by.
struct TerminalView {
  let state: AppState
  let scroll: Int

  /// Rows of the pictures with their captions: more where there is room.
  private static func pictureRows(_ size: Size) -> Int { min(12, max(6, size.rows - 20)) }

  /// Rows for findings on a screen.
  static func rows(_ size: Size) -> Int { max(1, size.rows - 5 - pictureRows(size)) }

  func draw(on frame: inout Frame) {
    let inside = Popup.open(
      on: &frame, columns: frame.columns - 2, rows: frame.rows - 2, title: "terminal")
    let findings = state.terminal.findings(state.size)
    let room = Self.rows(state.size)
    let first = min(scroll, max(0, findings.count - room))
    let shown = findings.dropFirst(first).prefix(room)
    for (index, finding) in shown.enumerated() {
      frame.write(
        [
          (TextWidth.pad(finding.title, 14), Theme.quiet),
          (TextWidth.pad(finding.value, 22), Theme.strong), (" ", Theme.plain),
          (finding.reason, Theme.plain),
        ], column: inside.column, row: inside.row + index, maxColumns: inside.columns)
    }
    if findings.count > room {
      frame.putPosition(of: first..<(first + shown.count), count: findings.count, in: inside)
    }
    drawSamples(
      on: &frame,
      in: Rect(
        column: inside.column, row: inside.row + min(room, findings.count + 1),
        columns: inside.columns, rows: Self.pictureRows(state.size)))
  }

  /// The test picture as images are drawn, in half blocks and in ASCII, then colours and characters.
  private func drawSamples(on frame: inout Frame, in rect: Rect) {
    let picture = Picture(Self.testPicture)
    let width = min(rect.rows * 4 - 4, (rect.columns - 36) / 3)
    let cell = state.terminal.cell(state.size)
    let titles = ["as chosen", "half blocks", "ASCII"]
    for (index, title) in titles.enumerated() {
      let column = rect.column + index * (width + 2)
      frame.put(
        TextWidth.clip(title, width), column: column, row: rect.row, style: Theme.heading)
      let place = ImagePlacement(
        id: "terminal test", column: column, row: rect.row + 1, columns: width,
        rows: rect.rows - 1, picture: picture.image, contentHash: picture.contentHash)
      if index == 0 {
        frame.place(place)
      } else if index == 2 || Palette(colors: state.terminal.colors).hasImageColors {
        for part in BlockImage.parts(
          of: place, cellWidth: cell.width, cellHeight: cell.height, colors: index == 1)
        {
          frame[part.column, part.row] = part.cell
        }
      } else {
        frame.put(
          TextWidth.clip("needs 256 colours", width), column: column, row: rect.row + 1,
          style: Theme.quiet)
      }
    }
    let column = rect.column + 3 * (width + 2)
    let samples: [(String, Style)] = [
      ("warning", Theme.warning), ("failure", Theme.failure), ("heading", Theme.heading),
      ("quiet", Theme.quiet), ("selected", Theme.selected), ("bar", Theme.bar),
      ("cursor", Theme.cursor),
    ]
    var place = column
    for (index, sample) in samples.enumerated() {
      if index == 4 { place = column }
      place +=
        frame.put(
          sample.0, column: place, row: rect.row + 1 + index / 4, style: sample.1,
          maxColumns: rect.right - place) + 1
    }
    for (index, text) in ["─│┌┐└┘├┤ ▁▂▃▄▅▆▇█ ▏▎▍▌▋▊▉", "⠁⠃⠇⡇⣇⣧⣷⣿ ✓✗▶•›⏎←↑→↓…≥≤"].enumerated() {
      frame.put(
        text, column: column, row: rect.row + 3 + index, style: Theme.plain,
        maxColumns: rect.right - column)
    }
  }

  /// A border of one pixel, eight bars of colour, a ramp from black to white, and a disc.
  static let testPicture: RGBImage = {
    let (width, height) = (96, 48)
    let bars: [[UInt8]] = [
      [255, 255, 255], [255, 255, 0], [0, 255, 255], [0, 255, 0], [255, 0, 255], [255, 0, 0],
      [0, 0, 255], [0, 0, 0],
    ]
    var pixels: [UInt8] = []
    for y in 0..<height {
      for x in 0..<width {
        let ramp = UInt8(x * 255 / (width - 1))
        let isDisc = (x - 48) * (x - 48) + (y - 24) * (y - 24) < 15 * 15
        if x == 0 || y == 0 || x == width - 1 || y == height - 1 {
          pixels += [255, 255, 255]
        } else if isDisc {
          pixels += [230, 120, 30]
        } else {
          pixels += y < 30 ? bars[x * 8 / width] : [ramp, ramp, ramp]
        }
      }
    }
    return RGBImage(width: width, height: height, pixels: pixels)
  }()
}
