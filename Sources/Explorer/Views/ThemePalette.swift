import Plans
import TerminalUI

/// The colours that were asked for.
package enum ThemeChoice: String, SettingChoice, Sendable {
  /// By the terminal's background and number of colours.
  case auto
  case dark, light
  /// Hues that people with any kind of colour vision tell apart.
  case colorBlind = "colour-blind"
  /// The terminal's own 16 colours on a background of ours.
  case sixteen = "16"
  /// No colours: bold, underlined and reversed text.
  case mono
}

/// Values of the named colours on one kind of background.
///
/// Every colour of text has a contrast of at least 4.5:1 with what lies behind it; where the terminal's background is
/// too near to one of them, the page is painted.
package struct ThemePalette: Equatable, Sendable {
  /// The name, for tests and the self-check.
  package let name: String
  /// The text's own colour and that of the page behind it; nil leaves the terminal's.
  package var text, page: Color?
  /// Red, green, yellow, blue, magenta, cyan and gray as text on the page.
  package let hues: [Color]
  /// The background of bars, and the colours of text on it: plain, strong, quiet, key, warning, failure.
  package let surface: [Color]
  /// The background of what is selected, and text on it.
  package let selection: [Color]
  /// Eight colours of curves.
  package let series: [Color]
  /// The page that is painted where the terminal's own background does not do, and text on it.
  package let ownPage, ownText: Color

  private static func indices(_ numbers: [UInt8]) -> [Color] { numbers.map { .index($0) } }

  private init(
    _ name: String, hues: [UInt8], surface: [UInt8], selection: [UInt8], series: [UInt8],
    page: UInt8, text: UInt8, paints: Bool = false
  ) {
    self.name = name
    self.hues = Self.indices(hues)
    self.surface = Self.indices(surface)
    self.selection = Self.indices(selection)
    self.series = Self.indices(series)
    (ownPage, ownText) = (.index(page), .index(text))
    if paints { (self.page, self.text) = (ownPage, ownText) }
  }

  /// Light text on dark.
  package static let dark = ThemePalette(
    "dark", hues: [210, 114, 222, 111, 176, 80, 248],
    surface: [236, 252, 255, 248, 117, 222, 210], selection: [24, 255],
    series: [75, 214, 43, 227, 175, 209, 111, 253], page: 16, text: 252)
  /// Dark text on light.
  package static let light = ThemePalette(
    "light", hues: [124, 22, 94, 20, 90, 24, 240], surface: [254, 234, 16, 238, 24, 58, 124],
    selection: [153, 16], series: [25, 94, 23, 58, 90, 124, 20, 238], page: 231, text: 234)
  /// The hues of Okabe and Ito, lightened.
  package static let colorBlindDark = ThemePalette(
    "colour-blind dark", hues: [209, 43, 214, 111, 175, 75, 248],
    surface: [236, 252, 255, 248, 117, 214, 210], selection: [24, 255],
    series: [75, 214, 43, 227, 175, 209, 111, 253], page: 16, text: 252)
  /// The hues of Okabe and Ito, darkened.
  package static let colorBlindLight = ThemePalette(
    "colour-blind light", hues: [124, 23, 94, 20, 53, 25, 240],
    surface: [254, 234, 16, 238, 25, 58, 124], selection: [153, 16],
    series: [25, 94, 23, 58, 90, 124, 20, 238], page: 231, text: 234)
  /// The bright ones of 16 colours on black.
  package static let sixteenDark = ThemePalette(
    "16 dark", hues: [9, 10, 11, 14, 13, 14, 7], surface: [4, 15, 15, 7, 11, 11, 15],
    selection: [6, 0], series: [14, 11, 10, 13, 9, 15, 7, 10], page: 0, text: 15, paints: true)
  /// The dark ones of 16 colours on white.
  package static let sixteenLight = ThemePalette(
    "16 light", hues: [1, 4, 5, 4, 5, 4, 0], surface: [0, 15, 15, 7, 14, 11, 15],
    selection: [4, 15], series: [4, 5, 1, 0, 4, 5, 1, 0], page: 15, text: 0, paints: true)
  /// Nothing but attributes.
  package static let mono = ThemePalette(
    "mono", hues: [], surface: [], selection: [], series: [], page: 0, text: 15)

  /// Every palette.
  package static let all = [
    dark, light, colorBlindDark, colorBlindLight, sixteenDark, sixteenLight, mono,
  ]

  /// The palette for a choice in a terminal.
  package static func chosen(_ choice: ThemeChoice, in terminal: TerminalCapabilities) -> Self {
    let isDark = terminal.isDark
    let palette: Self =
      switch choice {
      case _ where terminal.colors == 0: mono
      case .mono: mono
      // Of eight colours the bright ones are bold, which makes black on white gray.
      case _ where terminal.colors < 16: sixteenDark
      case .auto where terminal.colors < 256, .sixteen: isDark ? sixteenDark : sixteenLight
      case .auto: isDark ? dark : light
      case .dark: dark
      case .light: light
      case .colorBlind: isDark ? colorBlindDark : colorBlindLight
      }
    return palette.on(terminal.background, isDark: isDark)
  }

  /// The least contrast of text with what lies behind it (WCAG 2, level AA).
  package static let leastContrast = 4.5

  /// The palette with a page of its own if the terminal's background does not do.
  private func on(_ background: RGB?, isDark: Bool) -> Self {
    guard self != .mono, page == nil else { return self }
    let isOwnKind = RGB(ownPage).map { ($0.luminance < 0.18) == isDark } ?? true
    let isReadable =
      background.map { found in
        (hues + series).allSatisfy {
          RGB($0).map { $0.contrast(with: found) >= Self.leastContrast } ?? true
        }
      } ?? isOwnKind
    guard !isReadable else { return self }
    var painted = self
    (painted.page, painted.text) = (ownPage, ownText)
    return painted
  }

  // MARK: - Styles

  /// A style with values in the place of names.
  package func style(_ named: Style) -> Style {
    guard !hues.isEmpty else { return Self.withoutColors(named) }
    var style = named
    style.foreground = named.foreground == .default ? text ?? .default : value(named.foreground)
    style.background = named.background == .default ? page ?? .default : value(named.background)
    return style
  }

  /// Whether it mixes any colour, instead of choosing among 16 or none.
  package var hasManyColors: Bool { !name.hasPrefix("16") && self != .mono }

  /// The value of a named colour.
  package func value(_ color: Color) -> Color {
    switch color {
    case .red: hues[0]
    case .green: hues[1]
    case .yellow: hues[2]
    case .blue: hues[3]
    case .magenta: hues[4]
    case .cyan: hues[5]
    case .gray: hues[6]
    case .white: text ?? ownText
    case .surface: surface[0]
    case .surfaceText: surface[1]
    case .surfaceStrong: surface[2]
    case .surfaceQuiet: surface[3]
    case .surfaceKey: surface[4]
    case .surfaceWarning: surface[5]
    case .surfaceFailure: surface[6]
    case .selection: selection[0]
    case .selectionText: selection[1]
    case .series(let number): series[Int(number) % series.count]
    case .default, .index, .rgb: color
    }
  }

  private static func withoutColors(_ named: Style) -> Style {
    var style = Style(
      bold: named.bold, dim: named.dim, underline: named.underline, reverse: named.reverse)
    switch named.foreground {
    case .red, .surfaceFailure: (style.bold, style.underline) = (true, true)
    case .yellow, .surfaceWarning, .surfaceKey, .selectionText: style.bold = true
    default: break
    }
    if named.background != .default { style.reverse.toggle() }
    return style
  }
}

extension RGB {
  /// The components of a colour of the 256-colour palette or in 24 bits; nil for a name.
  package init?(_ color: Color) {
    switch color {
    case .index(let index):
      let (red, green, blue) = Palette.components(of: Int(index))
      self.init(red, green, blue)
    case .rgb(let red, let green, let blue): self.init(Int(red), Int(green), Int(blue))
    default: return nil
    }
  }
}
