/// The colours that a terminal has, and which of them comes nearest to a wanted one.
package struct Palette: Equatable, Sendable {
  /// How many colours: 0, 8, 16, 88, 256 or 1 << 24.
  package let colors: Int

  /// Makes the palette of a terminal with so many colours.
  package init(colors: Int) { self.colors = colors }

  /// Numbers below this one are the terminal's own 8 or 16; of others it depends on the count.
  private static let ansi: [(Int, Int, Int)] = [
    (0, 0, 0), (205, 0, 0), (0, 205, 0), (205, 205, 0), (0, 0, 238), (205, 0, 205), (0, 205, 205),
    (229, 229, 229), (127, 127, 127), (255, 0, 0), (0, 255, 0), (255, 255, 0), (92, 92, 255),
    (255, 0, 255), (0, 255, 255), (255, 255, 255),
  ]

  /// Whether an image can be shown as coloured half blocks.
  package var hasImageColors: Bool { colors >= 256 }

  /// What curses calls the colour; -1 is the terminal's default.
  package func number(of color: Color) -> Int {
    guard colors >= 8 else { return -1 }
    switch color {
    case .default, .surface, .surfaceText, .surfaceStrong, .surfaceQuiet, .surfaceKey,
      .surfaceWarning, .surfaceFailure, .selection, .selectionText, .series:
      return -1
    case .red: return 1
    case .green: return 2
    case .yellow: return 3
    case .blue: return 4
    case .magenta: return 5
    case .cyan: return 6
    case .white: return colors >= 16 ? 15 : 7
    case .gray: return colors >= 256 ? nearest(138, 138, 138) : (colors >= 16 ? 8 : -1)
    case .index(let index):
      if Int(index) < min(colors, 16) { return Int(index) }
      if colors == 8, index < 16 { return Int(index) - 8 }
      if colors == 256 { return Int(index) }
      let (red, green, blue) = Self.components(of: Int(index))
      return nearest(red, green, blue)
    case .rgb(let red, let green, let blue): return nearest(Int(red), Int(green), Int(blue))
    }
  }

  /// The nearest colour's number.
  package func nearest(_ red: Int, _ green: Int, _ blue: Int) -> Int {
    if colors >= 1 << 24 {
      // The first eight numbers of a direct-colour terminal are still the old eight colours.
      return max(8, red << 16 | green << 8 | blue)
    }
    guard colors >= 256 else {
      let count = colors >= 16 ? 16 : 8
      return (0..<count).min {
        Self.distance($0, red, green, blue) < Self.distance($1, red, green, blue)
      } ?? 0
    }
    func level(_ value: Int) -> Int { value < 48 ? 0 : (value < 115 ? 1 : (value - 35) / 40) }
    let cube = 16 + 36 * level(red) + 6 * level(green) + level(blue)
    let mean = (red + green + blue) / 3
    let gray = 232 + min(23, max(0, (mean - 3) / 10))
    return Self.distance(gray, red, green, blue) < Self.distance(cube, red, green, blue)
      ? gray : cube
  }

  /// Red, green and blue of a colour of the 256-colour palette.
  package static func components(of index: Int) -> (Int, Int, Int) {
    if index < 16 { return ansi[index] }
    if index >= 232 {
      let gray = 8 + 10 * (index - 232)
      return (gray, gray, gray)
    }
    let levels = [0, 95, 135, 175, 215, 255]
    let cube = index - 16
    return (levels[cube / 36], levels[cube / 6 % 6], levels[cube % 6])
  }

  private static func distance(_ index: Int, _ red: Int, _ green: Int, _ blue: Int) -> Int {
    let (r, g, b) = components(of: index)
    return 2 * (r - red) * (r - red) + 4 * (g - green) * (g - green) + 3 * (b - blue) * (b - blue)
  }
}
