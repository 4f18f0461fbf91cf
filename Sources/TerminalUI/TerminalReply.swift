import Foundation

/// What the terminal answered to a question about itself, or tells without being asked.
package enum TerminalReply: Equatable, Sendable {
  /// Primary device attributes (DA1); 4 among them means sixel.
  case deviceAttributes([Int])
  /// Name and version (XTVERSION).
  case version(String)
  /// The size of one cell in pixels.
  case cellSize(PixelSize)
  /// An answer to XTSMGRAPHICS: item 1 is the number of colour registers, 2 the largest sixel image.
  case graphics(item: Int, status: Int, values: [Int])
  /// An answer of the kitty graphics protocol about the image `id`.
  case kitty(id: Int, isOK: Bool)
  /// The state of a private mode (DECRPM): 0 unknown, 1 set, 2 reset, 3 and 4 the same for good.
  case mode(number: Int, state: Int)
  /// The colour of the background (OSC 11).
  case background(RGB)
  /// Whether the terminal prefers a dark background (mode 2031).
  case colorScheme(isDark: Bool)
  /// The place of the cursor, from 1 on.
  case position(row: Int, column: Int)
  /// Anything else that is an answer and not a key; swallowed.
  case other

  /// Most bytes of a string that are looked at.
  static let longest = 512

  /// The meaning of `CSI mark numbers final`.
  init(mark: Character, _ numbers: [Int], _ text: String, final: UInt8) {
    self = .other
    guard mark == "?" else { return }
    switch final {
    case 0x63: self = .deviceAttributes(numbers)  // c
    case 0x53 where numbers.count >= 2:  // S
      self = .graphics(
        item: numbers[0], status: numbers[1], values: Array(numbers.dropFirst(2)))
    case 0x79 where text.last == "$" && numbers.count == 2:  // y
      self = .mode(number: numbers[0], state: numbers[1])
    case 0x6e where numbers.count == 2 && numbers[0] == 997 && (1...2).contains(numbers[1]):  // n
      self = .colorScheme(isDark: numbers[1] == 1)
    default: break
    }
  }

  /// The meaning of a string that `ESC kind` has introduced.
  init(string bytes: [UInt8], kind: UInt8) {
    self = .other
    let text = String(decoding: bytes, as: UTF8.self)
    switch kind {
    case 0x50 where text.hasPrefix(">|"):  // DCS
      self = .version(String(text.dropFirst(2)))
    case 0x5d where text.hasPrefix("11;"):  // OSC
      if let color = RGB(reported: text.dropFirst(3)) { self = .background(color) }
    case 0x5f where text.hasPrefix("G"):  // APC
      let parts = text.dropFirst().split(separator: ";", maxSplits: 1)
      guard parts.count == 2,
        let id = parts[0].split(separator: ",").first(where: { $0.hasPrefix("i=") })
      else { return }
      self = .kitty(id: KeyDecoder.number(id.dropFirst(2)), isOK: parts[1] == "OK")
    default: break
    }
  }
}

/// A colour as red, green and blue of 8 bits.
package struct RGB: Hashable, Sendable {
  /// Red, 0 to 255.
  package let red: Int
  /// Green, 0 to 255.
  package let green: Int
  /// Blue, 0 to 255.
  package let blue: Int

  /// Makes a colour.
  package init(_ red: Int, _ green: Int, _ blue: Int) {
    (self.red, self.green, self.blue) = (red, green, blue)
  }

  /// Reads `rgb:1e1e/1e1e/2e2e`, `rgba:…` or `#1e1e2e`, as terminals report colours; nil for anything else.
  init?(reported text: Substring) {
    var parts: [Substring]
    if text.hasPrefix("#") {
      let digits = text.dropFirst()
      let width = digits.count / 3
      guard width > 0, digits.count == 3 * width else { return nil }
      parts = (0..<3).map { digits.dropFirst($0 * width).prefix(width) }
    } else {
      guard text.hasPrefix("rgb"), let colon = text.firstIndex(of: ":") else { return nil }
      parts = text[text.index(after: colon)...].split(separator: "/")
    }
    let values = parts.prefix(3).compactMap { part -> Int? in
      guard (1...4).contains(part.count), let value = Int(part, radix: 16), value >= 0 else {
        return nil
      }
      let most = (1 << (4 * part.count)) - 1
      return (value * 255 + most / 2) / most
    }
    guard values.count == 3 else { return nil }
    self.init(values[0], values[1], values[2])
  }

  /// Relative luminance of sRGB (WCAG 2), 0 for black to 1 for white.
  package var luminance: Double {
    func linear(_ value: Int) -> Double {
      let share = Double(value) / 255
      return share <= 0.04045 ? share / 12.92 : Foundation.pow((share + 0.055) / 1.055, 2.4)
    }
    return 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue)
  }

  /// Contrast ratio of two colours (WCAG 2), 1 to 21.
  package func contrast(with other: RGB) -> Double {
    let (a, b) = (luminance, other.luminance)
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)
  }
}
