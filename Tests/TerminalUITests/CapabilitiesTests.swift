import Testing

import TerminalUI

@Suite struct CapabilitiesTests {
  private func answered(_ replies: [TerminalReply]) -> TerminalCapabilities {
    var capabilities = TerminalCapabilities()
    for reply in replies { capabilities.note(reply) }
    return capabilities
  }

  @Test func sixelIsChosenWhereReported() {
    var capabilities = answered([
      .graphics(item: 1, status: 0, values: [1024]),
      .graphics(item: 2, status: 0, values: [1000, 900]), .mode(number: 2026, state: 0),
      .deviceAttributes([63, 1, 2, 4]),
    ])
    capabilities.choose(.auto)
    #expect(capabilities.graphics == .sixel)
    #expect(capabilities.sixelColors == 256 && !capabilities.synchronizedUpdates)
    #expect(capabilities.largestImage?.height == 900)
    capabilities.choose(.none)
    #expect(capabilities.graphics == GraphicsMode.none)
  }

  @Test func blocksOtherwise() {
    var tmux = answered([.deviceAttributes([1, 2])])
    tmux.colors = 256
    tmux.choose(.auto)
    #expect(tmux.graphics == .blocks)
    var silent = answered([])
    silent.choose(.auto)
    #expect(silent.graphics == .ascii, "no colours")
    silent.colors = 256
    silent.choose(.auto)
    #expect(silent.graphics == .blocks)
    silent.choose(.sixel)
    #expect(silent.graphics == .sixel)
  }

  @Test func charactersFollowTheEncoding() {
    var capabilities = TerminalCapabilities()
    capabilities.colors = 256
    capabilities.choose(.auto)
    #expect(capabilities.symbols == .unicode && capabilities.graphics == .blocks)
    capabilities.encoding = "ANSI_X3.4-1968"
    capabilities.choose(.auto)
    #expect(capabilities.symbols == .ascii && capabilities.graphics == .ascii)
    // The cursor is in the second column after one character of two bytes.
    capabilities.note(.position(row: 1, column: 2))
    capabilities.choose(.auto)
    #expect(capabilities.symbols == .unicode)
    capabilities.note(.position(row: 1, column: 3))
    capabilities.choose(.auto, symbols: .console)
    #expect(capabilities.symbols == .console)
    capabilities.choose(.auto)
    #expect(capabilities.symbols == .ascii)
    capabilities.isConsole = true
    capabilities.choose(.auto)
    #expect(capabilities.symbols == .console)
  }

  @Test func everyCharacterHasOneOfItsSet() {
    for character in "│─┌┐└┘├┤┬┴┼╗╝⠁⣿⡇▁▂▃▄▅▆▇█▏▎▍▌▋▊▉░⏎…–›−“”✗✓▶↑↓←→•·±≥≤∥‖×●▲■◆✚▼★○▘▛é日👩‍👩‍👧" {
      let ascii = SymbolSet.ascii.symbol(for: character)
      #expect(ascii.isASCII && ascii != "\0", "\(character)")
      #expect(SymbolSet.unicode.symbol(for: character) == character)
    }
    #expect(SymbolSet.console.symbol(for: "│") == "│" && SymbolSet.console.symbol(for: "⠁") == ".")
    #expect(SymbolSet.console.symbol(for: "✓") == "v" && SymbolSet.ascii.symbol(for: "│") == "|")
    #expect(
      SymbolSet.ascii.symbol(for: "x") == "x" && SymbolSet.ascii.symbol(for: "e\u{301}") == "e")
  }

  @Test func everyFindingHasAReason() {
    var capabilities = TerminalCapabilities()
    for reply in [
      TerminalReply.version("T(1)"), .background(RGB(250, 250, 250)), .kitty(id: 31, isOK: true),
      .mode(number: 2031, state: 2), .mode(number: 1006, state: 2), .deviceAttributes([4]),
    ] { capabilities.note(reply) }
    capabilities.choose(.auto)
    capabilities.term = "xterm"
    let findings = capabilities.findings(Size(columns: 80, rows: 24))
    #expect(findings.allSatisfy { !$0.value.isEmpty && !$0.reason.isEmpty })
    func value(_ title: String) -> String? { findings.first { $0.title == title }?.value }
    #expect(value("terminal") == "T(1)" && value("images") == "kitty")
    #expect(value("background") == "#fafafa, light" && value("sixel") == "yes, 256 colours")
    #expect(value("mouse") == "yes" && value("encoding") == "UTF-8")
    #expect(!capabilities.isDark && capabilities.reportsColorScheme)
    capabilities.choose(.sixel)
    let images = capabilities.findings(Size(columns: 80, rows: 24)).first { $0.title == "images" }
    #expect(images?.value == "sixel" && images?.reason == "asked for")
  }

  @Test func registersOfAnOldTerminalLimitTheColours() {
    #expect(answered([.graphics(item: 1, status: 0, values: [16])]).sixelColors == 16)
    #expect(answered([.graphics(item: 1, status: 3, values: [16])]).sixelColors == 256)
  }

  @Test func theCellComesFromTheBestSource() {
    let known = Size(columns: 80, rows: 24, cell: PixelSize(6, 13))
    let unknown = Size(columns: 80, rows: 24)
    #expect(answered([]).cell(known) == PixelSize(6, 13))
    #expect(answered([.cellSize(PixelSize(8, 16))]).cell(known) == PixelSize(8, 16))
    #expect(answered([.cellSize(PixelSize(0, 16))]).cell(known) == PixelSize(6, 13))
    #expect(
      answered([.graphics(item: 2, status: 0, values: [640, 384])]).cell(unknown)
        == PixelSize(8, 16))
    #expect(
      answered([.graphics(item: 2, status: 0, values: [9999, 9999])]).cell(unknown)
        == PixelSize(10, 20))
    #expect(answered([]).cell(unknown) == PixelSize(10, 20))
  }

  @Test(arguments: [0, -1, 257, 9_999_999, Int.max, Int.min])
  func hostileSizesAreNotTaken(pixels: Int) {
    let sized = Size(columns: 80, rows: 24, cell: PixelSize(pixels, pixels))
    #expect(answered([]).cell(sized) == PixelSize(10, 20))
    #expect(answered([.cellSize(PixelSize(pixels, 16))]).cell(sized) == PixelSize(10, 20))
    let capabilities = answered([
      .graphics(item: 1, status: 0, values: [pixels]),
      .graphics(item: 2, status: 0, values: [pixels, pixels]),
    ])
    #expect((2...256).contains(capabilities.sixelColors))
    #expect((1...4096).contains(capabilities.largestImage?.width ?? 1))
    var layer = ImageLayer()
    var sixel = capabilities
    sixel.choose(.sixel)
    var frame = Frame(columns: 80, rows: 24)
    frame.images = [.solid(id: "a", column: 0, row: 0, columns: 80, rows: 23)]
    #expect(layer.compose(frame, size: sized, capabilities: sixel).count == 80 * 24)
    for emission in layer.takeEmissions(limit: 9) {
      #expect(emission.width <= 4096 && emission.height <= 4096)
    }
  }

  @Test func windowsAreCutToWhatAScreenCanHave() {
    let huge = Size(columns: 65535, rows: 65535, window: PixelSize(65535, 65535))
    #expect(huge == Size(columns: 1000, rows: 500, cell: PixelSize(1, 1)))
    let xterm = Size(columns: 80, rows: 24, window: PixelSize(484, 316))
    #expect(xterm == Size(columns: 80, rows: 24, cell: PixelSize(6, 13)))
    #expect(Size(columns: 1, rows: 1, window: PixelSize(65535, 9)).cell == nil)
    #expect(Size(columns: 80, rows: 24, window: PixelSize(0, 0)).cell == nil)
  }

  @Test func synchronizedUpdatesNeedAKnownMode() {
    #expect(answered([.mode(number: 2026, state: 2)]).synchronizedUpdates)
    #expect(!answered([.mode(number: 2026, state: 4)]).synchronizedUpdates)
    #expect(!answered([.mode(number: 80, state: 2)]).synchronizedUpdates)
  }
}

@Suite struct PaletteTests {
  @Test func namedColoursAreTheTerminalsOwn() {
    let palette = Palette(colors: 256)
    #expect(palette.number(of: .default) == -1)
    #expect(palette.number(of: .red) == 1 && palette.number(of: .white) == 15)
    #expect(palette.number(of: .index(77)) == 77)
    #expect(Palette(colors: 8).number(of: .white) == 7)
    #expect(Palette(colors: 0).number(of: .red) == -1)
    #expect(Palette(colors: 0).number(of: .rgb(9, 9, 9)) == -1)
  }

  @Test func coloursOfThePaletteMapToThemselves() {
    let palette = Palette(colors: 256)
    for index in 16..<256 {
      let (red, green, blue) = Palette.components(of: index)
      let found = Palette.components(of: palette.nearest(red, green, blue))
      #expect(found == (red, green, blue))
    }
  }

  @Test func fewColoursTakeTheNearest() {
    #expect(Palette(colors: 8).nearest(250, 10, 10) == 1)
    #expect(Palette(colors: 16).nearest(250, 10, 10) == 9)
    #expect(Palette(colors: 16).number(of: .index(196)) == 9)
    #expect(Palette(colors: 1 << 24).nearest(1, 2, 3) == 0x010203)
    #expect(Palette.components(of: Palette(colors: 256).nearest(20, 40, 100)).2 > 80)
  }
}

@Suite struct ImagePlacementTests {
  @Test func anImageKeepsItsShapeInItsRectangle() {
    let wide = ImagePlacement.solid(
      id: "a", column: 0, row: 0, columns: 10, rows: 10, width: 40, height: 10)
    #expect(wide.fittedSize(cellWidth: 6, cellHeight: 13) == (60, 15))
    let parts = BlockImage.parts(of: wide, cellWidth: 10, cellHeight: 20, colors: true)
    // 100 x 25 pixels: ten cells across, two and a half pixels of half a cell down.
    #expect(parts.map(\.column).max() == 9 && parts.map(\.row).max() == 1)
    #expect(parts.count == 20 && parts.last?.cell.style.background == .default)
  }
}
