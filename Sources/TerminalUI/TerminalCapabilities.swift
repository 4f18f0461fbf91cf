/// What the terminal reports that it can do, and how images are drawn in it.
package struct TerminalCapabilities: Equatable, Sendable {
  /// Whether it answered at all.
  package var answered = false
  /// Name and version as it reports them (XTVERSION).
  package var name: String?
  /// Whether it reported sixel graphics (attribute 4 of DA1).
  package var sixel = false
  /// Whether it takes images of the kitty graphics protocol.
  package var kitty = false
  /// Whether the terminal around a multiplexer takes them, sent through it.
  package var kittyAround = false
  /// Whether a multiplexer stands between this program and the terminal.
  package var isMultiplexed = false
  /// Sixel colour registers; nil if it did not say.
  package var colorRegisters: Int?
  /// The largest sixel image in pixels; nil if it did not say.
  package var largestImage: PixelSize?
  /// Whether it draws a frame at once when asked (private mode 2026).
  package var synchronizedUpdates = false
  /// Whether it tells when its colours change between light and dark (private mode 2031).
  package var reportsColorScheme = false
  /// Whether it reports the mouse in numbers without limit (private mode 1006); nil if it did not say.
  package var mouse: Bool?
  /// Its background colour (OSC 11); nil if it did not say.
  package var background: RGB?
  /// Whether it prefers a dark background; nil if it did not say.
  package var prefersDark: Bool?
  /// One cell in pixels as the terminal reported it; nil if it did not say.
  package var reportedCell: PixelSize?
  /// Colours of text; 0 for none.
  package var colors = 0
  /// The terminal's type, as TERM names it.
  package var term = ""
  /// The encoding that the locale names.
  package var encoding = "UTF-8"
  /// Whether two bytes of UTF-8 moved the cursor by one cell; nil where that was not tried.
  package var movesByCharacter: Bool?
  /// Whether the terminal is a virtual console of Linux.
  package var isConsole = false
  /// How images were asked to be drawn.
  package private(set) var wantedGraphics = GraphicsMode.auto
  /// How images are drawn; never `auto`.
  package var graphics = GraphicsMode.none
  /// Which characters were asked for.
  package private(set) var wantedSymbols = SymbolSet.auto
  /// Which characters are drawn; never `auto`.
  package private(set) var symbols = SymbolSet.unicode

  /// Makes capabilities of a terminal that has said nothing.
  package init() {}

  /// The number in the question whether kitty images are taken, directly and through a multiplexer.
  static let (directQuery, aroundQuery) = (31, 32)

  /// The same terminal before it is asked about itself: only what no answer tells is known.
  var unanswered: TerminalCapabilities {
    var fresh = TerminalCapabilities()
    (fresh.colors, fresh.term, fresh.encoding) = (colors, term, encoding)
    (fresh.movesByCharacter, fresh.isConsole) = (movesByCharacter, isConsole)
    (fresh.isMultiplexed, fresh.wantedGraphics) = (isMultiplexed, wantedGraphics)
    (fresh.wantedSymbols, fresh.graphics, fresh.symbols) = (wantedSymbols, graphics, symbols)
    return fresh
  }

  /// Takes one answer in.
  package mutating func note(_ reply: TerminalReply) {
    switch reply {
    case .deviceAttributes(let attributes):
      answered = true
      sixel = attributes.contains(4)
    case .version(let text): name = text
    case .kitty(Self.directQuery, let isOK): kitty = isOK
    case .kitty(Self.aroundQuery, let isOK): kittyAround = isOK
    case .cellSize(let size):
      if size.isCell { reportedCell = size }
    case .graphics(item: 1, status: 0, let values):
      if let count = values.first, count > 1 { colorRegisters = count }
    case .graphics(item: 2, status: 0, let values):
      if values.count == 2, values[0] > 0, values[1] > 0 {
        let limit = SixelEncoder.largestSide
        largestImage = PixelSize(min(values[0], limit), min(values[1], limit))
      }
    case .mode(number: 2026, let state): synchronizedUpdates = (1...3).contains(state)
    case .mode(number: 1006, let state): mouse = (1...3).contains(state)
    case .mode(number: 2031, let state): reportsColorScheme = (1...3).contains(state)
    case .background(let color): background = color
    case .colorScheme(let isDark): (reportsColorScheme, prefersDark) = (true, isDark)
    case .position(_, let column): movesByCharacter = column == 2
    default: break
    }
  }

  /// Chooses how images are drawn and with which characters.
  package mutating func choose(_ wanted: GraphicsMode, symbols wantedSymbols: SymbolSet = .auto) {
    (wantedGraphics, self.wantedSymbols) = (wanted, wantedSymbols)
    symbols = wantedSymbols != .auto ? wantedSymbols : chosenSymbols.0
    graphics = wanted != .auto ? wanted : chosenGraphics.0
  }

  /// Whether kitty images are drawn as placeholder characters, which a multiplexer moves like text.
  package var usesPlaceholders: Bool { graphics == .kitty && isMultiplexed && !kitty }

  /// Whether sixel images go through a multiplexer that does not draw them itself; only if that was asked for.
  package var passesSixels: Bool { graphics == .sixel && isMultiplexed && !sixel }

  /// Whether images are drawn as pixels that lie over the cells.
  var hasPixels: Bool { graphics == .sixel || graphics == .kitty && !usesPlaceholders }

  /// Whether text may lie on a dark background; dark is assumed where nothing is known.
  package var isDark: Bool { background.map { $0.luminance < 0.18 } ?? prefersDark ?? true }

  /// Colours to encode a sixel image with.
  package var sixelColors: Int { min(256, colorRegisters ?? 256) }

  /// The largest image in pixels.
  var pixelLimit: PixelSize {
    graphics == .kitty
      ? PixelSize(SixelEncoder.largestSide, SixelEncoder.largestSide)
      : largestImage ?? PixelSize(1000, 1000)
  }

  /// One cell in pixels: from the window's size, else as reported, else 10 x 20.
  ///
  /// A report that disagrees with the window's size wins: some multiplexers make the latter up.
  package func cell(_ size: Size) -> PixelSize { measuredCell(size).0 }

  private func measuredCell(_ size: Size) -> (PixelSize, String) {
    if let reportedCell { return (reportedCell, "the terminal answered CSI 16 t") }
    if let cell = size.cell, cell.isCell { return (cell, "from the window's size in pixels") }
    if let largestImage, size.columns > 0, size.rows > 0 {
      let guess = PixelSize(largestImage.width / size.columns, largestImage.height / size.rows)
      // The geometry is the text area's in some terminals and a fixed limit in others.
      if (4...40).contains(guess.width), (guess.width...(guess.width * 3)).contains(guess.height) {
        return (guess, "from the largest sixel image")
      }
    }
    return (PixelSize(10, 20), "assumed: the terminal tells no size in pixels")
  }

  // MARK: - Choices and their reasons

  private var chosenGraphics: (GraphicsMode, String) {
    if kitty { return (.kitty, "the terminal answered the kitty query with OK") }
    if kittyAround, colors >= 256, symbols == .unicode {
      return (.kitty, "the terminal around the multiplexer answered the kitty query with OK")
    }
    if sixel { return (.sixel, "DA1 reports sixel, and no kitty query was answered") }
    let missing = "neither kitty nor sixel was reported"
    if colors >= 256, symbols != .ascii {
      return (.blocks, "\(missing); \(colors) colours are enough for half blocks")
    }
    return (
      .ascii,
      symbols == .ascii ? "\(missing); only ASCII is drawn" : "\(missing); \(colors) colours"
    )
  }

  private var chosenSymbols: (SymbolSet, String) {
    if isConsole { return (.console, "a console's font has few characters") }
    if encoding == "UTF-8" { return (.unicode, "the locale's encoding is UTF-8") }
    if movesByCharacter == true {
      return (.unicode, "the locale names \(encoding), but the terminal reads UTF-8")
    }
    return (.ascii, "the locale names \(encoding), and the terminal was not seen to read UTF-8")
  }

  /// One line of the self-check: what it is about, what was found, and why.
  package struct Finding: Equatable, Sendable {
    /// What it is about.
    package let title: String
    /// What was found or chosen.
    package let value: String
    /// Where that comes from.
    package let reason: String
  }

  /// Everything that was found, with reasons, for a screen of a size.
  package func findings(_ size: Size) -> [Finding] {
    let (cell, source) = measuredCell(size)
    func choice(_ wanted: String, _ chosen: String, _ reason: String) -> String {
      wanted == "auto" ? reason : wanted == chosen ? "asked for" : "\(wanted) asked for"
    }
    let scheme =
      background.map { "#" + [$0.red, $0.green, $0.blue].map(Self.hex).joined() }
      ?? (prefersDark == nil ? "unknown" : isDark ? "dark" : "light")
    return [
      Finding(
        title: "terminal", value: name ?? "unknown",
        reason: name != nil
          ? "answer to XTVERSION"
          : answered ? "it answers, but not to XTVERSION" : "no answer in a second"),
      Finding(title: "type", value: term, reason: "TERM"),
      Finding(title: "multiplexer", value: isMultiplexed ? "yes" : "no", reason: "TMUX"),
      Finding(
        title: "size", value: "\(size.columns)x\(size.rows) cells", reason: "the terminal device"),
      Finding(title: "cell", value: "\(cell.width)x\(cell.height) pixels", reason: source),
      Finding(
        title: "colours", value: colors >= 1 << 24 ? "24 bits" : "\(colors)",
        reason: colors == 0 ? "NO_COLOR, or terminfo has none" : "terminfo"),
      Finding(
        title: "background", value: "\(scheme), \(isDark ? "dark" : "light")",
        reason: background != nil
          ? "answer to OSC 11"
          : prefersDark != nil ? "mode 2031" : "no answer to OSC 11: dark is assumed"),
      Finding(
        title: "colour scheme", value: reportsColorScheme ? "changes are reported" : "not reported",
        reason: "private mode 2031"),
      Finding(
        title: "images",
        value: graphics.rawValue
          + (usesPlaceholders ? ", as placeholders" : passesSixels ? ", through tmux" : ""),
        reason: choice(wantedGraphics.rawValue, graphics.rawValue, chosenGraphics.1)),
      Finding(
        title: "kitty images", value: kitty ? "yes" : kittyAround ? "through tmux" : "no",
        reason: "answer to the query a=q"),
      Finding(
        title: "sixel", value: sixel ? "yes, \(sixelColors) colours" : "no",
        reason: "attribute 4 of DA1"),
      Finding(
        title: "synchronised", value: synchronizedUpdates ? "yes" : "no",
        reason: "private mode 2026"),
      Finding(
        title: "mouse", value: mouse.map { $0 ? "yes" : "no" } ?? "unknown",
        reason: "private mode 1006; the setting mouse switches it"),
      Finding(
        title: "encoding", value: encoding,
        reason: movesByCharacter.map {
          $0 ? "the locale; the terminal reads UTF-8" : "the locale; the terminal reads bytes"
        } ?? "the locale"),
      Finding(
        title: "characters", value: symbols.rawValue,
        reason: choice(wantedSymbols.rawValue, symbols.rawValue, chosenSymbols.1)),
    ]
  }

  private static func hex(_ value: Int) -> String {
    (value < 16 ? "0" : "") + String(value, radix: 16)
  }
}
