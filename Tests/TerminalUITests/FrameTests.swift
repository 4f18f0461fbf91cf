import Pictures
import Testing

import TerminalUI

@Suite struct FrameTests {
  @Test func textIsClippedOnEverySide() {
    var frame = Frame(columns: 6, rows: 2)
    #expect(frame.put("abcdefgh", column: -2, row: 0) == 8)
    #expect(frame.put("xyz", column: 5, row: 1) == 1)
    frame.put("no", column: 0, row: 2)
    frame.put("no", column: 0, row: -1)
    #expect(frame.text() == "cdefgh\n     x")
  }

  @Test func maxColumnsLimitsText() {
    var frame = Frame(columns: 10, rows: 1)
    #expect(frame.put("abcdef", column: 1, row: 0, maxColumns: 3) == 3)
    #expect(frame.text() == " abc")
    #expect(frame.put("z", column: 0, row: 0, maxColumns: 0) == 0)
  }

  @Test func wideCharactersTakeTwoCells() {
    var frame = Frame(columns: 6, rows: 1)
    #expect(frame.put("日本x", column: 0, row: 0) == 5)
    #expect(frame[0, 0].character == "日")
    #expect(frame[1, 0].character == Cell.continuation)
    #expect(frame[4, 0].character == "x")
    #expect(frame.text() == "日本x")
  }

  @Test func writingOverHalfOfAWideCharacterBlanksTheOtherHalf() {
    var left = Frame(columns: 4, rows: 1)
    left.put("日本", column: 0, row: 0)
    left.put("a", column: 1, row: 0)
    #expect(left.text() == " a本")
    var right = Frame(columns: 4, rows: 1)
    right.put("日本", column: 0, row: 0)
    right.put("a", column: 0, row: 0)
    #expect(right.text() == "a 本")
    var shifted = Frame(columns: 6, rows: 1)
    shifted.put("日本語", column: 0, row: 0)
    shifted.put("語", column: 1, row: 0)
    #expect(shifted.text() == " 語 語")
  }

  @Test func aWideCharacterIsNotCutByTheEdge() {
    var frame = Frame(columns: 3, rows: 1)
    frame.put("a日本", column: 0, row: 0)
    #expect(frame.text() == "a日")
    frame.put("日", column: -1, row: 0)
    #expect(frame[0, 0].character == " ")
  }

  @Test func combiningMarksStayInTheirCell() {
    var frame = Frame(columns: 6, rows: 1)
    #expect(frame.put("e\u{301}xa\u{308}\u{301}", column: 0, row: 0) == 3)
    #expect(frame[0, 0].character == "e\u{301}")
    #expect(frame[1, 0].character == "x")
    #expect(frame[2, 0].character == "a\u{308}\u{301}")
  }

  @Test(arguments: [
    ("a\u{1b}[31mb", "a\\u{1b}[31mb"), ("a\nb\tc", "a\\nb\\tc"),
    ("\u{9b}x\u{7f}", "\\u{9b}x\\u{7f}"), ("a\u{202e}b\u{200b}c", "a\\u{202e}b\\u{200b}c"),
    ("\r\n", "\\r\\n"), ("👩\u{200d}👩 ❤\u{fe0f}", "👩👩 ❤"),
  ])
  func controlAndFormatCharactersNeverReachTheScreen(text: String, shown: String) {
    var frame = Frame(columns: 20, rows: 1)
    frame.put(text, column: 0, row: 0)
    #expect(frame.text() == shown)
  }

  @Test func cellsNeverHoldControlCharacters() {
    var frame = Frame(columns: 2, rows: 1)
    frame[0, 0] = Cell(character: "\u{1b}")
    frame[5, 5] = Cell(character: "x")
    frame.fill(column: 1, row: 0, columns: 9, rows: 9, character: "\u{7}")
    #expect(frame.cells.allSatisfy { $0.character == "\\" })
    #expect(frame[5, 5] == Cell())
  }

  @Test func boxesAndFrames() {
    var inner = Frame(columns: 12, rows: 3)
    inner.box(column: 0, row: 0, columns: 12, rows: 3, title: "run")
    inner.put("ok", column: 1, row: 1)
    var frame = Frame(columns: 14, rows: 4)
    frame.fill(column: 0, row: 0, columns: 14, rows: 4, character: ".")
    frame.draw(inner, column: 1, row: 1)
    #expect(
      frame.text() == """
        ..............
        .┌─ run ────┐.
        .│ok        │.
        .└──────────┘.
        """)
    frame.draw(inner, column: 8, row: -2)
    #expect(frame.text().split(separator: "\n")[0] == "........└─────")
  }

  @Test func cellsWrittenAfterAnImageCoverIt() {
    var frame = Frame(columns: 8, rows: 4)
    frame.put("under", column: 1, row: 1)
    frame.images.append(.solid(id: "a", column: 1, row: 1, columns: 3, rows: 2))
    frame.put("over", column: 3, row: 2)
    #expect(frame.covering == [2 * 8 + 3])
  }

  @Test func equalityLooksAtAllOfIt() {
    let blank = Frame(columns: 3, rows: 1)
    var other = blank
    #expect(blank == other)
    other.cursor = .init(column: 1, row: 0)
    #expect(blank != other)
    other.cursor = nil
    other[1, 0].style.bold = true
    #expect(blank != other)
    var image = blank
    image.images = [.solid(id: "a", column: 0, row: 0, columns: 1, rows: 1)]
    var repainted = image
    repainted.images = [.solid(id: "a", column: 0, row: 0, columns: 1, rows: 1, color: (1, 2, 3))]
    #expect(image != repainted)
  }
}

extension ImagePlacement {
  /// A one-coloured image of 8 x 8 pixels.
  static func solid(
    id: String, column: Int, row: Int, columns: Int, rows: Int,
    color: (UInt8, UInt8, UInt8) = (200, 0, 0), width: Int = 8, height: Int = 8
  ) -> ImagePlacement {
    ImagePlacement(
      id: id, column: column, row: row, columns: columns, rows: rows,
      picture: RGBImage(
        width: width, height: height,
        pixels: (0..<(width * height)).flatMap { _ in [color.0, color.1, color.2] }))
  }
}
