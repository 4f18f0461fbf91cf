extension SymbolSet {
  /// The character of this set that stands for another; the same one if the set has it.
  package func symbol(for character: Character) -> Character {
    guard self == .console || self == .ascii, !character.isASCII,
      let scalar = character.unicodeScalars.first
    else { return character }
    if scalar.isASCII { return Character(scalar) }
    if self == .console, Self.consoleCharacters.contains(character) { return character }
    if let known = Self.replacements[character] { return known }
    switch scalar.value {
    case 0x2801...0x28ff: return Self.dots[(scalar.value - 0x2800).nonzeroBitCount - 1]
    case 0x2800: return " "
    case 0x2500...0x257f: return "+"
    default: return "?"
    }
  }

  /// The characters beyond ASCII that fonts of text consoles have (code page 437).
  private static let consoleCharacters = Set(
    "─│┌┐└┘├┤┬┴┼═║╒╓╔╕╖╗╘╙╚╛╜╝╞╟╠╡╢╣╤╥╦╧╨╩╪╫╬▀▄█▌▐░▒▓•·°±²÷≈≥≤←↑→↓■éèüöäàñ£¥")

  /// Characters for one to eight braille dots.
  private static let dots = Array(".:::+*##")

  private static let replacements: [Character: Character] = {
    var table: [Character: Character] = [:]
    for (from, to) in [
      ("─━┄┈╌═‐–—−", "-"), ("│┃║▏▎‖∥", "|"), ("┌┐└┘├┤┬┴┼╔╗╚╝╭╮╰╯", "+"), ("▁▂", "_"), ("▃▄", "."),
      ("▅▆", "="), ("▇█▉▊▋▓■", "#"), ("▌▍▐▒", ":"), ("▀", "\""), ("░·•∙", "."), ("←‹<", "<"),
      ("→›▶", ">"), ("↑", "^"), ("↓", "v"), ("⏎", "~"), ("✓✔", "v"), ("✗✘×", "x"), ("●◉◆", "*"),
      ("○◌◇", "o"), ("◐◑◒◓", "%"), ("…", "."), ("≥", ">"), ("≤", "<"), ("±", "+"), ("≈", "~"),
      ("“”", "\""), ("‘’", "'"), ("é", "e"), ("ü", "u"), ("ö", "o"), ("ä", "a"),
    ] as [(String, Character)] {
      for character in from { table[character] = to }
    }
    return table
  }()
}
