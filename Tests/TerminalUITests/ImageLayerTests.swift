import Testing

import TerminalUI

@Suite struct ImageLayerTests {
  private let size = Size(columns: 20, rows: 8, cell: PixelSize(6, 13))

  private var sixel: TerminalCapabilities {
    var capabilities = TerminalCapabilities()
    capabilities.note(.deviceAttributes([63, 4]))
    capabilities.colors = 256
    capabilities.choose(.auto)
    return capabilities
  }

  private func frame(_ images: [ImagePlacement]) -> Frame {
    var frame = Frame(columns: 20, rows: 8)
    frame.put(String(repeating: "text ", count: 4), column: 0, row: 3)
    frame.images = images
    return frame
  }

  private func looks(_ cells: [ScreenCell]) -> [Int: Set<Int>] {
    var result: [Int: Set<Int>] = [:]
    for (index, cell) in cells.enumerated() where cell.reserved > 0 {
      result[cell.reserved, default: []].insert(index)
    }
    return result
  }

  private func rectangle(_ column: Int, _ row: Int, _ columns: Int, _ rows: Int) -> Set<Int> {
    Set((row..<(row + rows)).flatMap { y in (column..<(column + columns)).map { y * 20 + $0 } })
  }

  @Test func anImageReservesItsCellsAndIsDrawnOnce() throws {
    var layer = ImageLayer()
    let image = ImagePlacement.solid(id: "a", column: 2, row: 1, columns: 6, rows: 3)
    let cells = layer.compose(frame([image]), size: size, capabilities: sixel)
    #expect(looks(cells).count == 1)
    #expect(looks(cells).values.first == rectangle(2, 1, 6, 3))
    #expect(layer.pending)
    let emission = try #require(layer.takeEmissions(limit: 9).first)
    #expect((emission.width, emission.height) == (36, 36))
    // Text elsewhere changes, the image stays: same look, nothing to draw.
    var changed = frame([image])
    changed.put("new", column: 10, row: 2)
    #expect(looks(layer.compose(changed, size: size, capabilities: sixel)) == looks(cells))
    #expect(!layer.pending && layer.takeEmissions(limit: 9).isEmpty)
  }

  /// Where text covers pixels they are characters, in the colours of the page and not of the terminal.
  @Test func charactersOfAnImageHaveTheColoursOfThePage() {
    var capabilities = sixel
    capabilities.colors = 8
    var frame = Frame(columns: 20, rows: 8)
    let page = Style(foreground: .index(7), background: .index(0))
    for row in 0..<8 {
      frame.put(String(repeating: " ", count: 20), column: 0, row: row, style: page)
    }
    frame.images = [.solid(id: "a", column: 2, row: 1, columns: 6, rows: 3)]
    capabilities.choose(.ascii)
    var layer = ImageLayer()
    let cells = layer.compose(frame, size: size, capabilities: capabilities)
    #expect(cells[1 * 20 + 2].style == page)
  }

  @Test func newPixelsInTheSamePlaceAreDrawnOver() {
    var layer = ImageLayer()
    let image = ImagePlacement.solid(id: "a", column: 2, row: 1, columns: 6, rows: 3)
    let before = layer.compose(frame([image]), size: size, capabilities: sixel)
    _ = layer.takeEmissions(limit: 9)
    let next = ImagePlacement.solid(
      id: "a", column: 2, row: 1, columns: 6, rows: 3, color: (0, 0, 9))
    let after = layer.compose(frame([next]), size: size, capabilities: sixel)
    #expect(before == after)
    #expect(layer.takeEmissions(limit: 9).map(\.image.contentHash) == [next.contentHash])
  }

  @Test func aMovedOrResizedImageIsErasedByAnotherLook() {
    var layer = ImageLayer()
    let image = ImagePlacement.solid(id: "a", column: 2, row: 1, columns: 6, rows: 3)
    let before = layer.compose(frame([image]), size: size, capabilities: sixel)
    _ = layer.takeEmissions(limit: 9)
    var moved = image
    moved.column = 4
    let after = layer.compose(frame([moved]), size: size, capabilities: sixel)
    #expect(looks(after).values.first == rectangle(4, 1, 6, 3))
    #expect(Set(looks(before).keys).isDisjoint(with: looks(after).keys))
    #expect(layer.takeEmissions(limit: 9).count == 1)
    // The same rectangle, but pixels of another shape that would not cover the old ones.
    var narrow = ImagePlacement.solid(
      id: "a", column: 4, row: 1, columns: 6, rows: 3, width: 4, height: 8)
    let reshaped = layer.compose(frame([narrow]), size: size, capabilities: sixel)
    #expect(Set(looks(reshaped).keys).isDisjoint(with: looks(after).keys))
    narrow.id = "b"
    #expect(looks(layer.compose(frame([]), size: size, capabilities: sixel)).isEmpty)
  }

  @Test func afterInvalidationEverythingIsDrawnAgain() {
    var layer = ImageLayer()
    let image = ImagePlacement.solid(id: "a", column: 2, row: 1, columns: 6, rows: 3)
    _ = layer.compose(frame([image]), size: size, capabilities: sixel)
    _ = layer.takeEmissions(limit: 9)
    layer.invalidate()
    _ = layer.compose(frame([image]), size: size, capabilities: sixel)
    #expect(layer.takeEmissions(limit: 9).count == 1)
  }

  @Test(arguments: [(2, 5, 6, 3), (-1, 1, 6, 3), (16, 1, 6, 3), (2, -1, 6, 3)])
  func pixelsNeverReachTheLastRowOrAnEdge(column: Int, row: Int, columns: Int, rows: Int) {
    var layer = ImageLayer()
    let image = ImagePlacement.solid(
      id: "a", column: column, row: row, columns: columns, rows: rows)
    let cells = layer.compose(frame([image]), size: size, capabilities: sixel)
    #expect(looks(cells).isEmpty && !layer.pending)
    #expect(cells.contains { $0.character == "▀" }, "shown as blocks, clipped")
  }

  @Test func theHeightIsWholeBandsInsideTheRectangle() throws {
    for rows in 1...6 {
      var layer = ImageLayer()
      let image = ImagePlacement.solid(
        id: "a", column: 0, row: 0, columns: 20, rows: rows, width: 9, height: 7)
      _ = layer.compose(frame([image]), size: size, capabilities: sixel)
      let emission = try #require(layer.takeEmissions(limit: 1).first)
      #expect(emission.height % 6 == 0 && emission.height <= rows * 13 && emission.height > 0)
      #expect(emission.width <= 120)
    }
  }

  @Test func aCoveredImageBecomesBlocksAroundTheCover() {
    var layer = ImageLayer()
    var frame = frame([.solid(id: "a", column: 2, row: 1, columns: 6, rows: 3)])
    let shown = layer.compose(frame, size: size, capabilities: sixel)
    frame.fill(column: 4, row: 2, columns: 12, rows: 4)
    frame.put("hi", column: 4, row: 2)
    let cells = layer.compose(frame, size: size, capabilities: sixel)
    #expect(!looks(shown).isEmpty && looks(cells).isEmpty && !layer.pending)
    #expect(cells[1 * 20 + 2].character == "▀")
    #expect(cells[2 * 20 + 4].character == "h" && cells[2 * 20 + 6].character == " ")
    // The cover goes: the image is drawn again.
    let again = self.frame([.solid(id: "a", column: 2, row: 1, columns: 6, rows: 3)])
    _ = layer.compose(again, size: size, capabilities: sixel)
    #expect(layer.takeEmissions(limit: 9).count == 1)
  }

  @Test func overlappingImagesDoNotBothDrawPixels() {
    var layer = ImageLayer()
    let first = ImagePlacement.solid(id: "a", column: 2, row: 1, columns: 6, rows: 3)
    let second = ImagePlacement.solid(id: "b", column: 5, row: 2, columns: 6, rows: 3)
    let cells = layer.compose(frame([first, second]), size: size, capabilities: sixel)
    #expect(looks(cells).values.map { $0 } == [rectangle(5, 2, 6, 3)])
    #expect(layer.takeEmissions(limit: 9).map(\.image.id) == ["b"])
  }

  @Test func imagesSideBySideHaveLooksOfTheirOwn() {
    var layer = ImageLayer()
    var column = 0
    var seen: Set<Int> = []
    for step in 0..<20 {
      column = step % 3
      let images = ["a", "b", "c"].enumerated().map { index, id in
        ImagePlacement.solid(id: id, column: column + index * 5, row: 1, columns: 4, rows: 3)
      }
      let cells = layer.compose(frame(images), size: size, capabilities: sixel)
      let now = Set(looks(cells).keys)
      #expect(now.count == 3 && now.isDisjoint(with: seen))
      #expect(now.allSatisfy { (1...ImageLayer.reservedLooks).contains($0) })
      seen = now
    }
  }

  @Test func wideCharactersCutByAnImageAreBlanked() {
    var layer = ImageLayer()
    var frame = Frame(columns: 20, rows: 8)
    frame.put("日本語日本語", column: 1, row: 2)
    frame.images = [.solid(id: "a", column: 4, row: 1, columns: 5, rows: 3)]
    let row = layer.compose(frame, size: size, capabilities: sixel)[40..<60].map(\.character)
    #expect(String(row[0..<5]) == " 日\0  ")
    #expect(String(row[9..<13]) == "本\0語\0")
  }

  @Test func withoutColoursImagesAreShaded() {
    var capabilities = TerminalCapabilities()
    capabilities.choose(.blocks)
    var layer = ImageLayer()
    let images: [ImagePlacement] = [
      .solid(id: "a", column: 0, row: 0, columns: 4, rows: 2, color: (255, 255, 255)),
      .solid(id: "b", column: 8, row: 0, columns: 4, rows: 2, color: (0, 0, 0)),
    ]
    let cells = layer.compose(frame(images), size: size, capabilities: capabilities)
    #expect(cells[0].character == "@" && cells[0].style == Style())
    #expect(cells[8].character == " ")
    capabilities.choose(.none)
    #expect(
      !layer.compose(frame(images), size: size, capabilities: capabilities).contains {
        $0.character == "@"
      })
  }

  @Test func aFrameOfAnotherSizeIsCutOrPadded() {
    var layer = ImageLayer()
    var frame = Frame(columns: 30, rows: 1)
    frame.put(String(repeating: "x", count: 19) + "日x", column: 0, row: 0)
    let cells = layer.compose(frame, size: size, capabilities: sixel)
    #expect(cells.count == 160 && cells[18].character == "x" && cells[19].character == " ")
    #expect(cells[20] == ScreenCell())
  }
}
