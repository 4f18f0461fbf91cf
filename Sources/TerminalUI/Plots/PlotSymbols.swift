/// The characters of which curves are made.
package enum PlotSymbols: String, CaseIterable, Codable, Sendable {
  /// Braille patterns: 2 x 4 dots a cell.
  case braille
  /// Quadrant blocks: 2 x 2 dots a cell.
  case blocks
  /// Apostrophe, full stop and colon: 1 x 2 dots a cell.
  case ascii

  /// Dots across a cell.
  var across: Int { self == .ascii ? 1 : 2 }
  /// Dots down a cell.
  var down: Int { self == .braille ? 4 : 2 }

  private static let quadrants = Array(" ▘▝▀▖▌▞▛▗▚▐▜▄▙▟█")

  /// The bit of the dot `x` from the left and `y` from the top of a cell.
  func bit(_ x: Int, _ y: Int) -> UInt8 {
    switch self {
    case .braille: y == 3 ? 0x40 << x : 1 << (3 * x + y)
    case .blocks, .ascii: 1 << (across * y + x)
    }
  }

  /// The character of a cell with some dots, nil without any.
  func character(_ mask: UInt8) -> Character? {
    guard mask != 0 else { return nil }
    switch self {
    case .braille: return Unicode.Scalar(0x2800 + UInt32(mask)).map(Character.init)
    case .blocks: return Self.quadrants[Int(mask & 15)]
    case .ascii: return mask == 1 ? "'" : mask == 2 ? "." : ":"
    }
  }

  /// Marks that tell curves apart without colour, in order of use.
  package var marks: [Character] {
    self == .ascii ? Array("o+x*#@%&") : Array("●▲■◆✚▼★○")
  }

  /// The axis line, a tick on it, and the crosshair.
  var lines: (axis: Character, tick: Character, cross: Character) {
    self == .ascii ? ("|", "+", "|") : ("│", "┤", "┊")
  }
}

/// A grid of dots, several to a cell.
struct DotGrid {
  let columns: Int
  let rows: Int
  let symbols: PlotSymbols
  private var masks: [UInt8]

  init(columns: Int, rows: Int, symbols: PlotSymbols = .braille) {
    self.columns = max(0, columns)
    self.rows = max(0, rows)
    self.symbols = symbols
    masks = Array(repeating: 0, count: self.columns * self.rows)
  }

  /// Dots across.
  var width: Int { columns * symbols.across }
  /// Dots down.
  var height: Int { rows * symbols.down }

  /// The cell's character, nil without dots.
  func character(_ column: Int, _ row: Int) -> Character? {
    symbols.character(masks[row * columns + column])
  }

  /// Sets the dot `x` from the left and `y` from the top.
  mutating func set(x: Int, y: Int) {
    guard x >= 0, x < width, y >= 0, y < height else { return }
    let index = (y / symbols.down) * columns + x / symbols.across
    masks[index] |= symbols.bit(x % symbols.across, y % symbols.down)
  }

  /// Sets the dots of a straight line by Bresenham's method.
  mutating func drawLine(from start: (x: Int, y: Int), to end: (x: Int, y: Int)) {
    var (x, y) = start
    let dx = abs(end.x - x)
    let dy = -abs(end.y - y)
    let stepX = x < end.x ? 1 : -1
    let stepY = y < end.y ? 1 : -1
    var error = dx + dy
    while true {
      set(x: x, y: y)
      if (x, y) == end { return }
      let doubled = 2 * error
      if doubled >= dy {
        error += dy
        x += stepX
      }
      if doubled <= dx {
        error += dx
        y += stepY
      }
    }
  }
}
