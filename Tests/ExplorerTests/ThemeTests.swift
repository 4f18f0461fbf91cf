import Foundation
import TerminalUI
import Testing

import Explorer

@Suite struct ThemeTests {
  /// The 16 colours as xterm and as a text console have them; of the others all terminals have the same.
  private static let consoleColors: [RGB] = [
    RGB(0, 0, 0), RGB(170, 0, 0), RGB(0, 170, 0), RGB(170, 85, 0), RGB(0, 0, 170), RGB(170, 0, 170),
    RGB(0, 170, 170), RGB(170, 170, 170), RGB(85, 85, 85), RGB(255, 85, 85), RGB(85, 255, 85),
    RGB(255, 255, 85), RGB(85, 85, 255), RGB(255, 85, 255), RGB(85, 255, 255), RGB(255, 255, 255),
  ]

  private func values(_ color: Color) -> [RGB] {
    if case .index(let index) = color, index < 16 {
      return [RGB(color), Self.consoleColors[Int(index)]].compactMap(\.self)
    }
    return RGB(color).map { [$0] } ?? []
  }

  /// The least contrast of two colours, whatever values the terminal gives them.
  private func contrast(_ text: Color, _ behind: Color) -> Double {
    zip(values(text), values(behind) + values(behind)).map { $0.contrast(with: $1) }.min() ?? 0
  }

  @Test(arguments: ThemePalette.all.map(\.name))
  func textIsReadable(name: String) throws {
    let palette = try #require(ThemePalette.all.first { $0.name == name })
    guard palette != .mono else { return }
    let isDark = RGB(palette.ownPage).map { $0.luminance < 0.18 } == true
    // The page is the terminal's own: as bright, or dark, as most are.
    let pages =
      palette.page.map { [$0] }
      ?? (isDark ? [.index(16), .index(236)] : [.index(231), .index(255)])
    for page in pages {
      for color in palette.hues + palette.series + [palette.ownText] {
        #expect(contrast(color, page) >= 4.5, "\(color) on \(page)")
      }
    }
    for color in palette.surface.dropFirst() {
      #expect(contrast(color, palette.surface[0]) >= 4.5, "\(color) on a bar")
    }
    #expect(contrast(palette.selection[1], palette.selection[0]) >= 4.5)
    #expect(Set(palette.series).count >= 4 && palette.series.count == 8)
  }

  /// Whatever background a terminal reports, and whatever theme is asked for, text has the contrast.
  @Test(arguments: ThemeChoice.allCases)
  func anyBackgroundLeavesTextReadable(choice: ThemeChoice) {
    for colors in [8, 16, 256, 1 << 24] {
      for red in stride(from: 0, through: 255, by: 51) {
        for green in stride(from: 0, through: 255, by: 51) {
          for blue in [0, 100, 255] {
            var terminal = TerminalCapabilities()
            terminal.colors = colors
            terminal.background = RGB(red, green, blue)
            let palette = ThemePalette.chosen(choice, in: terminal)
            let page = palette.page.flatMap { RGB($0) } ?? RGB(red, green, blue)
            for color in palette.hues + palette.series {
              #expect((RGB(color)?.contrast(with: page) ?? 0) >= 4.5)
            }
          }
        }
      }
    }
  }

  @Test func theTerminalChooses() {
    func name(_ colors: Int, _ background: RGB?, _ choice: ThemeChoice = .auto) -> String {
      var terminal = TerminalCapabilities()
      terminal.colors = colors
      terminal.background = background
      return ThemePalette.chosen(choice, in: terminal).name
    }
    #expect(name(256, nil) == "dark" && name(256, RGB(255, 255, 255)) == "light")
    #expect(name(256, RGB(30, 30, 30)) == "dark" && name(16, nil) == "16 dark")
    #expect(name(16, RGB(238, 232, 213)) == "16 light" && name(0, nil) == "mono")
    #expect(name(8, RGB(238, 232, 213)) == "16 dark")
    #expect(name(0, nil, .light) == "mono", "NO_COLOR is stronger than a theme")
    #expect(name(256, RGB(255, 255, 255), .colorBlind) == "colour-blind light")
    var reported = TerminalCapabilities()
    reported.colors = 256
    reported.note(.colorScheme(isDark: false))
    #expect(ThemePalette.chosen(.auto, in: reported).name == "light")
    // A light theme on a dark terminal paints its page.
    reported.background = RGB(0, 0, 0)
    #expect(ThemePalette.chosen(.light, in: reported).page == .index(231))
    #expect(ThemePalette.chosen(.dark, in: reported).page == nil)
  }

  @Test func withoutColoursMarksAreAttributes() {
    let mono = ThemePalette.mono
    let bar = mono.style(Style(foreground: .surfaceText, background: .surface))
    #expect(bar == Style(reverse: true))
    #expect(mono.style(Style(foreground: .red)) == Style(bold: true, underline: true))
    #expect(mono.style(Style(foreground: .series(3))) == Style())
    for scene in [Samples.busy(Samples.small), Samples.queued(Samples.large)] {
      var state = scene
      state.terminal.colors = 0
      let styles = ExplorerView.frame(state).cells.map(\.style)
      #expect(styles.allSatisfy { $0.foreground == .default && $0.background == .default })
      #expect(styles.contains { $0.reverse } && styles.contains { $0.bold })
    }
  }

  static let snapshots: [(ThemeChoice, Int, RGB?)] = [
    (.dark, 256, RGB(0, 0, 0)), (.light, 256, RGB(255, 255, 255)),
    (.light, 256, RGB(0, 0, 0)), (.colorBlind, 256, RGB(0, 0, 0)),
    (.colorBlind, 256, RGB(255, 255, 255)), (.sixteen, 256, RGB(0, 0, 0)),
    (.sixteen, 256, RGB(255, 255, 255)), (.mono, 256, nil),
  ]

  /// The styles of the heat map and of a search, in every theme.
  @Test(arguments: snapshots.indices)
  func costsAsStored(index: Int) throws {
    let (choice, colors, background) = Self.snapshots[index]
    for scene in ["costs", "search"] {
      let make = try #require(SnapshotTests.scenes.first { $0.name == scene }?.make)
      var state = make(Samples.small)
      state.terminal.colors = colors
      state.terminal.background = background
      state.configuration.settings.theme = choice
      let palette = ThemePalette.chosen(choice, in: state.terminal)
      let name = palette.name.replacing(" ", with: "-") + (palette.page == nil ? "" : "-painted")
      try Recorded.check(
        ExplorerView.frame(state).snapshot,
        at: URL(filePath: #filePath).deletingLastPathComponent().appending(
          path: "Themes/\(scene)-\(name).txt"))
    }
  }

  /// The styles of a busy screen with a question over it, in every theme.
  @Test(arguments: snapshots.indices)
  func stylesAsStored(index: Int) throws {
    let (choice, colors, background) = Self.snapshots[index]
    var state = Samples.withPreview(Samples.busy(Samples.small))
    state.cursor = Samples.attention(9)
    press(&state, "v", "2", "j", "C")
    state.terminal.colors = colors
    state.terminal.background = background
    state.configuration.settings.theme = choice
    let palette = ThemePalette.chosen(choice, in: state.terminal)
    let name = palette.name.replacing(" ", with: "-") + (palette.page == nil ? "" : "-painted")
    try Recorded.check(
      ExplorerView.frame(state).snapshot,
      at: URL(filePath: #filePath).deletingLastPathComponent().appending(
        path: "Themes/\(name).txt"))
  }
}
