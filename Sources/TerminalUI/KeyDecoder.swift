/// What the terminal answered to a question about itself.
package enum TerminalReply: Equatable, Sendable {
  /// Primary device attributes (DA1); 4 among them means sixel.
  case deviceAttributes([Int])
  /// The size of one cell in pixels.
  case cellSize(width: Int, height: Int)
  /// An answer to XTSMGRAPHICS: item 1 is the number of colour registers, 2 the largest sixel image.
  case graphics(item: Int, status: Int, values: [Int])
  /// The state of a private mode (DECRPM): 0 unknown, 1 set, 2 reset, 3 and 4 the same for good.
  case mode(number: Int, state: Int)
  /// The terminal's name and version (XTVERSION).
  case version(String)
  /// Anything else that is an answer and not a key; swallowed.
  case other
}

/// Turns the bytes of a terminal into keys, one byte at a time, without looking at a clock.
///
/// An ESC may be a key or the start of a sequence: after `timeoutMilliseconds` without another byte the
/// caller says so with `timeOut()`. Answers of the terminal, late ones too, never become keys.
package struct KeyDecoder: Sendable {
  /// What a run of bytes meant.
  package enum Input: Equatable, Sendable {
    /// A key press.
    case key(Key)
    /// Pasted text (bracketed paste), control characters replaced by spaces.
    case paste(String)
    /// An answer of the terminal.
    case reply(TerminalReply)
  }

  private enum State {
    case ground
    case utf8(missing: Int)
    case escape
    case csi
    case linuxFunction
    case ss3
    case string(kind: UInt8, endsNext: Bool)
    case paste
  }

  private var state = State.ground
  private var bytes: [UInt8] = []

  /// Makes a decoder with nothing pending.
  package init() {}

  /// How long to wait for the next byte before `timeOut()`; nil when no sequence is open.
  package var timeoutMilliseconds: Int? {
    switch state {
    case .ground: nil
    case .escape, .linuxFunction: 40
    case .csi, .ss3, .string: bytes.isEmpty ? 40 : 1000
    case .utf8, .paste: 1000
    }
  }

  /// Ends an open sequence: a lone ESC is the key, an unfinished answer is dropped.
  package mutating func timeOut() -> [Input] {
    defer {
      state = .ground
      bytes = []
    }
    switch state {
    case .escape: return [.key(.escape)]
    case .csi where bytes.isEmpty: return [.key(.escape), .key(.character("["))]
    case .ss3: return [.key(.escape), .key(.character("O"))]
    case .string(let kind, endsNext: false) where bytes.isEmpty:
      return [.key(.escape), .key(.character(Character(Unicode.Scalar(kind))))]
    case .paste: return [.paste(Self.text(bytes))]
    default: return []
    }
  }

  /// Takes one byte and returns what it completed, usually nothing or one input.
  package mutating func feed(_ byte: UInt8) -> [Input] {
    switch state {
    case .ground: return ground(byte)
    case .utf8(let missing): return utf8(byte, missing: missing)
    case .escape: return escape(byte)
    case .csi: return csi(byte)
    case .linuxFunction:
      state = .ground
      return (0x41...0x45).contains(byte) ? [.key(.function(Int(byte) - 0x40))] : []
    case .ss3:
      if byte < 0x20 || byte == 0x7f {
        let before = timeOut()
        return before + ground(byte)
      }
      state = .ground
      return Self.key(final: byte).map { [.key($0)] } ?? []
    case .string(let kind, let endsNext):
      return string(byte, kind: kind, endsNext: endsNext)
    case .paste: return paste(byte)
    }
  }

  // MARK: - States

  private mutating func ground(_ byte: UInt8) -> [Input] {
    switch byte {
    case 0x1b:
      state = .escape
      bytes = []
      return []
    case 0x0d, 0x0a: return [.key(.enter)]
    case 0x09: return [.key(.tab)]
    case 0x08, 0x7f: return [.key(.backspace)]
    case 0x00: return [.key(.control("@"))]
    case 0x01...0x1a: return [.key(.control(Character(Unicode.Scalar(byte + 0x60))))]
    case 0x1c...0x1f: return [.key(.control(Character(Unicode.Scalar(byte + 0x40))))]
    case 0x20...0x7e: return [.key(.character(Character(Unicode.Scalar(byte))))]
    case 0xc2...0xdf: return begin(byte, missing: 1)
    case 0xe0...0xef: return begin(byte, missing: 2)
    case 0xf0...0xf4: return begin(byte, missing: 3)
    default: return []
    }
  }

  private mutating func begin(_ byte: UInt8, missing: Int) -> [Input] {
    bytes = [byte]
    state = .utf8(missing: missing)
    return []
  }

  private mutating func utf8(_ byte: UInt8, missing: Int) -> [Input] {
    guard (0x80...0xbf).contains(byte) else {
      state = .ground
      return ground(byte)
    }
    bytes.append(byte)
    guard missing == 1 else {
      state = .utf8(missing: missing - 1)
      return []
    }
    state = .ground
    guard let text = String(validating: bytes, as: UTF8.self), let character = text.first,
      let scalar = text.unicodeScalars.first, scalar.properties.generalCategory != .control
    else { return [] }
    return [.key(.character(character))]
  }

  private mutating func escape(_ byte: UInt8) -> [Input] {
    bytes = []
    switch byte {
    case 0x1b: return [.key(.escape)]
    case 0x5b: state = .csi
    case 0x4f: state = .ss3
    case 0x50, 0x58, 0x5d, 0x5e, 0x5f: state = .string(kind: byte, endsNext: false)
    default:
      state = .ground
      return [.key(.escape)] + ground(byte)
    }
    return []
  }

  private mutating func csi(_ byte: UInt8) -> [Input] {
    switch byte {
    case 0x5b where bytes.isEmpty:
      state = .linuxFunction
      return []
    case 0x20...0x3f where bytes.count < 256:
      bytes.append(byte)
      return []
    case 0x40...0x7e:
      state = .ground
      let body = bytes
      bytes = []
      return finish(body, final: byte)
    default:
      state = .ground
      bytes = []
      return ground(byte)
    }
  }

  private mutating func string(_ byte: UInt8, kind: UInt8, endsNext: Bool) -> [Input] {
    if endsNext && byte == 0x5c || byte == 0x07 {
      state = .ground
      let body = bytes
      bytes = []
      guard kind == 0x50, body.starts(with: [0x3e, 0x7c]) else { return [.reply(.other)] }
      return [.reply(.version(Self.text(Array(body.dropFirst(2)))))]
    }
    if endsNext {
      // An ESC that does not end the string starts something new.
      state = .escape
      return escape(byte)
    }
    state = .string(kind: kind, endsNext: byte == 0x1b)
    if byte != 0x1b && bytes.count < 1024 { bytes.append(byte) }
    return []
  }

  private static let pasteEnd = Array("\u{1b}[201~".utf8)

  private mutating func paste(_ byte: UInt8) -> [Input] {
    if bytes.count >= 1 << 16 { bytes.remove(at: bytes.count - Self.pasteEnd.count) }
    bytes.append(byte)
    guard bytes.suffix(Self.pasteEnd.count).elementsEqual(Self.pasteEnd) else { return [] }
    let text = Self.text(Array(bytes.dropLast(Self.pasteEnd.count)))
    state = .ground
    bytes = []
    return [.paste(text)]
  }

  // MARK: - Meaning

  /// A control sequence: `CSI body final`.
  private mutating func finish(_ body: [UInt8], final: UInt8) -> [Input] {
    let text = String(decoding: body, as: UTF8.self)
    let numbers = text.drop { !$0.isASCII || !$0.isNumber }
      .split(separator: ";", omittingEmptySubsequences: false)
      .map { Int($0.prefix { $0.isNumber }) ?? 0 }
    if let mark = text.first, "?>=<".contains(mark) {
      return [.reply(Self.reply(mark: mark, numbers, text, final: final))]
    }
    switch final {
    case 0x74:  // t
      if numbers.count == 3 && numbers[0] == 6 {
        return [.reply(.cellSize(width: numbers[2], height: numbers[1]))]
      }
      return [.reply(.other)]
    case 0x63, 0x6e,
      0x52 where numbers.count == 2 && numbers[0] > 1, 0x79:
      return [.reply(.other)]
    case 0x49, 0x4f: return [.reply(.other)]  // focus in and out
    case 0x5a: return [.key(.backTab)]
    case 0x7e:  // ~
      if numbers.first == 200 {
        state = .paste
        return []
      }
      return Self.key(number: numbers.first ?? 0).map { [.key($0)] } ?? []
    case 0x75: return Self.key(codePoint: numbers).map { [.key($0)] } ?? []  // u
    default: return Self.key(final: final).map { [.key($0)] } ?? []
    }
  }

  private static func reply(mark: Character, _ numbers: [Int], _ text: String, final: UInt8)
    -> TerminalReply
  {
    guard mark == "?" else { return .other }
    switch final {
    case 0x63: return .deviceAttributes(numbers)  // c
    case 0x53 where numbers.count >= 2:  // S
      return .graphics(item: numbers[0], status: numbers[1], values: Array(numbers.dropFirst(2)))
    case 0x79 where text.last == "$" && numbers.count == 2:  // y
      return .mode(number: numbers[0], state: numbers[1])
    default: return .other
    }
  }

  /// The key of `CSI ... final` or `SS3 final`.
  private static func key(final: UInt8) -> Key? {
    switch final {
    case 0x41: .up
    case 0x42: .down
    case 0x43: .right
    case 0x44: .left
    case 0x46: .end
    case 0x48: .home
    case 0x4d: .enter
    case 0x50...0x53: .function(Int(final) - 0x4f)
    default: nil
    }
  }

  /// The key of `CSI number ~`.
  private static func key(number: Int) -> Key? {
    switch number {
    case 1, 7: .home
    case 3: .delete
    case 4, 8: .end
    case 5: .pageUp
    case 6: .pageDown
    case 11...15: .function(number - 10)
    case 17...21: .function(number - 11)
    case 23, 24: .function(number - 12)
    default: nil
    }
  }

  /// The key of `CSI code ; modifiers u`.
  private static func key(codePoint numbers: [Int]) -> Key? {
    let modifiers = max(0, (numbers.count > 1 ? numbers[1] : 1) - 1)
    switch numbers.first ?? 0 {
    case 9: return modifiers & 1 == 1 ? .backTab : .tab
    case 13: return .enter
    case 27: return .escape
    case 127: return .backspace
    case let code:
      guard (0x20...0x10ffff).contains(code), let scalar = Unicode.Scalar(UInt32(code)) else {
        return nil
      }
      let character = Character(scalar)
      return modifiers & 4 == 4 ? .control(character) : .character(character)
    }
  }

  private static func text(_ bytes: [UInt8]) -> String {
    String(
      String.UnicodeScalarView(
        String(decoding: bytes, as: UTF8.self).unicodeScalars.map {
          $0.properties.generalCategory == .control ? " " : $0
        }))
  }
}
