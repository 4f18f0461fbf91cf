/// What the terminal answered to a question about itself.
package enum TerminalReply: Equatable, Sendable {
  /// Primary device attributes (DA1); 4 among them means sixel.
  case deviceAttributes([Int])
  /// The size of one cell in pixels.
  case cellSize(PixelSize)
  /// An answer to XTSMGRAPHICS: item 1 is the number of colour registers, 2 the largest sixel image.
  case graphics(item: Int, status: Int, values: [Int])
  /// The state of a private mode (DECRPM): 0 unknown, 1 set, 2 reset, 3 and 4 the same for good.
  case mode(number: Int, state: Int)
  /// Anything else that is an answer and not a key; swallowed.
  case other
}

/// Turns the bytes of a terminal into keys, one byte at a time, without looking at a clock.
///
/// An ESC may be a key or the start of a sequence: after `timeoutMilliseconds` without another byte the caller says so
/// with `timeOut()`. Nothing else that has begun is ever taken for keys, however slow the link: a control sequence
/// waits for its final byte, a character for its last byte, a paste for its end marker. If the rest of a sequence
/// comes after its ESC was taken for the key, that rest is dropped. Answers of the terminal never become keys.
package struct KeyDecoder: Sendable {
  /// What a run of bytes meant.
  package enum Input: Equatable, Sendable {
    /// A key press.
    case key(Key)
    /// Pasted text (bracketed paste) or, if it comes slowly, a part of it; control characters are replaced by spaces.
    case paste(String)
    /// An answer of the terminal.
    case reply(TerminalReply)
  }

  private enum State {
    case ground
    case utf8(missing: Int)
    case escape
    /// An ESC was taken for the key; the rest of its sequence may still come.
    case afterEscape
    case csi
    case linuxFunction
    case ss3
    case string(kind: UInt8, endsNext: Bool)
    case paste
  }

  private var state = State.ground
  private var bytes: [UInt8] = []
  /// Whether the open sequence's ESC was taken for the key.
  private var isLate = false
  /// Whether a pause has cut the open string, and whether nothing has come since.
  private var pause = (isKnown: false, goesOn: false)
  /// Bytes of the start marker of a paste that have just come, with whatever pauses between them.
  private var marked = 0
  /// Bytes of the open paste that were handed over.
  private var pasted = 0
  private let escapeDelay: Int

  /// Makes a decoder with nothing pending.
  ///
  /// - Parameter escapeDelay: Milliseconds after which an ESC that nothing follows is the key.
  package init(escapeDelay: Int = 40) { self.escapeDelay = escapeDelay }

  /// The delay that an environment asks for: `ESCDELAY` in milliseconds, as for curses, else more over ssh than here.
  package static func escapeDelay(_ environment: [String: String]) -> Int {
    if let text = environment["ESCDELAY"], let delay = Int(text) {
      return min(max(0, delay), 10_000)
    }
    let isRemote = ["SSH_CONNECTION", "SSH_TTY"].contains { !(environment[$0] ?? "").isEmpty }
    return isRemote ? 300 : 40
  }

  /// How long to wait for the next byte before `timeOut()`; nil when time changes nothing.
  package var timeoutMilliseconds: Int? {
    switch state {
    case .escape: escapeDelay
    case .csi where isLate && bytes.isEmpty, .ss3 where isLate && bytes.isEmpty,
      .string where isLate && bytes.isEmpty:
      max(escapeDelay, 500)
    case .string(_, endsNext: false) where bytes.isEmpty: escapeDelay
    case .string(_, endsNext: false): pause.goesOn ? nil : 1000
    case .paste: finishedPaste.isEmpty ? nil : 1000
    case .ground, .afterEscape, .utf8, .csi, .linuxFunction, .ss3, .string: nil
    }
  }

  /// Takes a pause in: a lone ESC is the key, what has come of a paste is handed over.
  package mutating func timeOut() -> [Input] {
    switch state {
    case .escape:
      state = .afterEscape
      return [.key(.escape)]
    case .csi where isLate && bytes.isEmpty: return giveUp("[")
    case .ss3 where isLate && bytes.isEmpty: return giveUp("O")
    case .string(let kind, endsNext: false) where isLate && bytes.isEmpty:
      return giveUp(Unicode.Scalar(kind))
    case .string(let kind, endsNext: false) where bytes.isEmpty:
      return [.key(.escape)] + giveUp(Unicode.Scalar(kind))
    case .string(_, endsNext: false):
      // The rest of an answer comes in one piece; a second pause means that its end is lost.
      if pause.isKnown { state = .ground } else { pause = (true, true) }
      return []
    case .paste:
      let finished = finishedPaste
      guard !finished.isEmpty else { return [] }
      bytes.removeFirst(finished.count)
      return handOver(finished)
    case .ground, .afterEscape, .utf8, .csi, .linuxFunction, .ss3, .string: return []
    }
  }

  /// Takes what looked like the rest of a sequence for a key of its own.
  private mutating func giveUp(_ introducer: Unicode.Scalar) -> [Input] {
    state = .ground
    return [.key(.character(Character(introducer)))]
  }

  /// Takes one byte and returns what it completed, usually nothing or one input.
  package mutating func feed(_ byte: UInt8) -> [Input] {
    pause.goesOn = false
    if case .paste = state { return paste(byte) }
    marked = byte == Self.pasteStart[marked] ? marked + 1 : byte == 0x1b ? 1 : 0
    if marked == Self.pasteStart.count {
      (state, bytes, pasted, marked) = (.paste, [], 0, 0)
      return []
    }
    switch state {
    case .ground: return ground(byte)
    case .utf8(let missing): return utf8(byte, missing: missing)
    case .escape:
      if byte == 0x1b { return [.key(.escape)] }
      return begin(byte, isLate: false) ? [] : [.key(.escape)] + ground(byte)
    case .afterEscape: return begin(byte, isLate: true) ? [] : ground(byte)
    case .csi: return csi(byte)
    case .linuxFunction:
      state = .ground
      return (0x41...0x45).contains(byte) ? press(.function(Int(byte) - 0x40)) : []
    case .ss3: return ss3(byte)
    case .string(let kind, let endsNext):
      return string(byte, kind: kind, endsNext: endsNext)
    case .paste: return []
    }
  }

  /// A key that ends a sequence; it is dropped if the sequence's ESC was taken for a key already.
  private func press(_ key: Key?) -> [Input] {
    isLate ? [] : key.map { [.key($0)] } ?? []
  }

  // MARK: - States

  private mutating func ground(_ byte: UInt8) -> [Input] {
    state = .ground
    switch byte {
    case 0x1b:
      state = .escape
      return []
    case 0x0d, 0x0a: return [.key(.enter)]
    case 0x09: return [.key(.tab)]
    case 0x08, 0x7f: return [.key(.backspace)]
    case 0x00: return [.key(.control("@"))]
    case 0x01...0x1a: return [.key(.control(Character(Unicode.Scalar(byte + 0x60))))]
    case 0x1c...0x1f: return [.key(.control(Character(Unicode.Scalar(byte + 0x40))))]
    case 0x20...0x7e: return [.key(.character(Character(Unicode.Scalar(byte))))]
    case 0xc2...0xf4:
      bytes = [byte]
      state = .utf8(missing: Self.length(of: byte) - 1)
      return []
    default: return []
    }
  }

  /// Bytes of the UTF-8 sequence that a byte begins.
  private static func length(of lead: UInt8) -> Int {
    lead < 0xc0 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4
  }

  private mutating func utf8(_ byte: UInt8, missing: Int) -> [Input] {
    guard (0x80...0xbf).contains(byte) else { return ground(byte) }
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

  /// Begins the sequence that ESC and this byte introduce; false if they introduce none.
  private mutating func begin(_ byte: UInt8, isLate: Bool) -> Bool {
    switch byte {
    case 0x5b: state = .csi
    case 0x4f: state = .ss3
    case 0x50, 0x58, 0x5d, 0x5e, 0x5f: state = .string(kind: byte, endsNext: false)
    default: return false
    }
    bytes = []
    self.isLate = isLate
    pause = (false, false)
    return true
  }

  private mutating func csi(_ byte: UInt8) -> [Input] {
    switch byte {
    case 0x5b where bytes.isEmpty:
      state = .linuxFunction
      return []
    case 0x20...0x3f:
      if bytes.count < 256 { bytes.append(byte) }
      return []
    case 0x40...0x7e:
      state = .ground
      return finish(bytes, final: byte)
    default: return ground(byte)
    }
  }

  private mutating func ss3(_ byte: UInt8) -> [Input] {
    switch byte {
    case 0x30...0x3f:
      // Modifiers, which some terminals put here.
      if bytes.count < 256 { bytes.append(byte) }
      return []
    case 0x20...0x7e:
      state = .ground
      return press(Self.key(final: byte))
    default: return ground(byte)
    }
  }

  private mutating func string(_ byte: UInt8, kind: UInt8, endsNext: Bool) -> [Input] {
    if endsNext && byte == 0x5c || byte == 0x07 {
      state = .ground
      return [.reply(.other)]
    }
    if endsNext {
      // An ESC that does not end the string starts something new.
      state = .escape
      return feed(byte)
    }
    state = .string(kind: kind, endsNext: byte == 0x1b)
    // Nothing that comes in a string is needed; whether it is empty tells a key from an answer.
    if byte != 0x1b { bytes = [byte] }
    return []
  }

  private static let pasteStart = Array("\u{1b}[200~".utf8)
  private static let pasteEnd = Array("\u{1b}[201~".utf8)
  /// Most bytes that are taken of one paste.
  private static let pasteLimit = 1 << 16

  private mutating func paste(_ byte: UInt8) -> [Input] {
    if pasted + bytes.count >= Self.pasteLimit, bytes.count >= Self.pasteEnd.count {
      bytes.remove(at: bytes.count - Self.pasteEnd.count)
    }
    bytes.append(byte)
    guard bytes.suffix(Self.pasteEnd.count).elementsEqual(Self.pasteEnd) else { return [] }
    state = .ground
    return handOver(bytes.dropLast(Self.pasteEnd.count))
  }

  /// What has come of a paste, without the beginning of its end marker or of a character.
  private var finishedPaste: ArraySlice<UInt8> {
    let marker = (1..<Self.pasteEnd.count).last {
      bytes.suffix($0).elementsEqual(Self.pasteEnd.prefix($0))
    }
    let lead = bytes.suffix(3).lastIndex { $0 & 0xc0 != 0x80 }
    let character = lead.map {
      bytes.count - $0 < Self.length(of: bytes[$0]) ? bytes.count - $0 : 0
    }
    return bytes.dropLast(marker ?? character ?? 0)
  }

  private mutating func handOver(_ finished: ArraySlice<UInt8>) -> [Input] {
    let taken = finished.prefix(max(0, Self.pasteLimit - pasted))
    pasted += taken.count
    return taken.isEmpty ? [] : [.paste(Self.text(Array(taken)))]
  }

  // MARK: - Meaning

  /// A control sequence: `CSI body final`.
  private mutating func finish(_ body: [UInt8], final: UInt8) -> [Input] {
    let text = String(decoding: body, as: UTF8.self)
    let numbers = text.drop { !$0.isNumber }
      .split(separator: ";", omittingEmptySubsequences: false)
      .map(Self.number)
    if let mark = text.first, "?>=<".contains(mark) {
      return [.reply(Self.reply(mark: mark, numbers, text, final: final))]
    }
    switch final {
    case 0x74:  // t
      if numbers.count == 3 && numbers[0] == 6 {
        return [.reply(.cellSize(PixelSize(numbers[2], numbers[1])))]
      }
      return [.reply(.other)]
    case 0x63, 0x6e,
      0x52 where numbers.count == 2 && numbers[0] > 1, 0x79:
      return [.reply(.other)]
    case 0x49, 0x4f: return [.reply(.other)]  // focus in and out
    case 0x5a: return press(.backTab)
    case 0x7e:  // ~
      return press(Self.key(number: numbers.first ?? 0))
    case 0x75: return press(Self.key(codePoint: numbers))  // u
    default: return press(Self.key(final: final))
    }
  }

  /// A parameter of a control sequence; one that is too large for any use becomes the largest.
  private static func number(_ text: Substring) -> Int {
    let digits = text.prefix { $0.isNumber }
    return min(Int(digits) ?? (digits.isEmpty ? 0 : .max), largestNumber)
  }

  private static let largestNumber = 9_999_999

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
      guard code >= 0x20, let scalar = Unicode.Scalar(UInt32(code)),
        scalar.properties.generalCategory != .control
      else { return nil }
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
