/// Turns the bytes of a terminal into keys, one byte at a time, without looking at a clock.
///
/// An ESC may be a key, the start of a sequence, or Alt before a key: after `timeoutMilliseconds` without another byte
/// the caller says so with `timeOut()`. Nothing else that has begun is ever taken for keys, however slow the link: a
/// control sequence waits for its final byte, a character for its last byte, a paste for its end marker. If the rest
/// of a sequence comes after its ESC was taken for the key, that rest is dropped. Answers of the terminal never become
/// keys, and a key with modifiers is never the key without them.
package struct KeyDecoder: Sendable {
  /// What a run of bytes meant.
  package enum Input: Equatable, Sendable {
    /// A key press.
    case key(Key)
    /// Pasted text (bracketed paste) or, if it comes slowly, a part of it; control characters are replaced by spaces.
    case paste(String)
    /// A press, drag, release or turn of the mouse.
    case mouse(MouseEvent)
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
    /// The three bytes of a mouse event in the oldest encoding.
    case oldMouse
    case paste
  }

  private var state = State.ground
  private var bytes: [UInt8] = []
  /// Whether the open sequence's ESC was taken for the key.
  private var isLate = false
  /// Whether the character that has begun came after an ESC.
  private var hasAlt = false
  /// Whether `CSI row ; column R` answers a question; else it may be F3.
  package var expectsPosition = false
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
      max(escapeDelay, 100)
    case .string(_, endsNext: false) where bytes.isEmpty: escapeDelay
    case .string(_, endsNext: false): pause.goesOn ? nil : 1000
    case .paste: finishedPaste.isEmpty ? nil : 1000
    case .ground, .afterEscape, .utf8, .csi, .linuxFunction, .ss3, .string, .oldMouse: nil
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
      state = .ground
      return [.key(.modified(.alt, .character(Character(Unicode.Scalar(kind)))))]
    case .string(_, endsNext: false):
      // The rest of an answer comes in one piece; a second pause means that its end is lost.
      if pause.isKnown { state = .ground } else { pause = (true, true) }
      return []
    case .paste:
      let finished = finishedPaste
      guard !finished.isEmpty else { return [] }
      bytes.removeFirst(finished.count)
      return handOver(finished)
    case .ground, .afterEscape, .utf8, .csi, .linuxFunction, .ss3, .string, .oldMouse: return []
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
      if begin(byte, isLate: false) { return [] }
      let inputs = ground(byte)
      if case .utf8 = state { hasAlt = true }
      return inputs.map { input in
        if case .key(let key) = input { .key(.modified(.alt, key)) } else { input }
      }
    case .afterEscape: return begin(byte, isLate: true) ? [] : ground(byte)
    case .csi: return csi(byte)
    case .linuxFunction:
      state = .ground
      return (0x41...0x45).contains(byte) ? press(.function(Int(byte) - 0x40)) : []
    case .ss3: return ss3(byte)
    case .string(let kind, let endsNext):
      return string(byte, kind: kind, endsNext: endsNext)
    case .oldMouse: return oldMouse(byte)
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
      (bytes, hasAlt) = ([byte], false)
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
    return [.key(hasAlt ? .modified(.alt, .character(character)) : .character(character))]
  }

  /// Begins the sequence that ESC and this byte introduce; false if they introduce none.
  private mutating func begin(_ byte: UInt8, isLate: Bool) -> Bool {
    switch byte {
    // No answer begins with these.
    case 0x58 where isLate, 0x5e where isLate: return false
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
    case 0x4d where bytes.isEmpty:
      state = .oldMouse
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
      let modifiers = Self.number(Substring(String(decoding: bytes, as: UTF8.self)))
      return press(Self.key(function: byte).map { .with(Self.modifiers(modifiers), $0) })
    default: return ground(byte)
    }
  }

  private mutating func oldMouse(_ byte: UInt8) -> [Input] {
    bytes.append(byte)
    guard bytes.count == 3 else { return [] }
    state = .ground
    let numbers = bytes.map { Int($0) - 32 }
    guard !isLate, numbers.allSatisfy({ $0 >= 0 }) else { return [] }
    // A release does not say which button it is.
    let isRelease = numbers[0] & 0b110_0011 == 3
    return Self.mouse(
      [isRelease ? numbers[0] & ~3 : numbers[0]] + numbers[1...], isRelease: isRelease)
  }

  private mutating func string(_ byte: UInt8, kind: UInt8, endsNext: Bool) -> [Input] {
    if endsNext && byte == 0x5c || byte == 0x07 {
      state = .ground
      return [.reply(TerminalReply(string: bytes, kind: kind))]
    }
    if endsNext {
      // An ESC that does not end the string starts something new, or was pressed to end the waiting.
      return begin(byte, isLate: false) ? [] : ground(byte)
    }
    // What a person types after Esc is not what an answer begins with.
    if isLate, bytes.isEmpty, !Self.canBegin(kind, byte) {
      let key = giveUp(Unicode.Scalar(kind))
      return key + ground(byte)
    }
    state = .string(kind: kind, endsNext: byte == 0x1b)
    if byte != 0x1b, bytes.count < TerminalReply.longest { bytes.append(byte) }
    return []
  }

  /// Whether an answer that is a string of a kind can begin with a byte: `P>|`, `]11;`, `_G`.
  private static func canBegin(_ kind: UInt8, _ byte: UInt8) -> Bool {
    switch kind {
    case 0x50: byte == 0x3e
    case 0x5d: (0x30...0x39).contains(byte)
    default: byte == 0x47
    }
  }

  private static let pasteStart = Array("\u{1b}[200~".utf8)
  private static let pasteEnd = Array("\u{1b}[201~".utf8)
  /// Most bytes that are taken of one paste.
  private static let pasteLimit = 1 << 16

  private mutating func paste(_ byte: UInt8) -> [Input] {
    if pasted + bytes.count >= Self.pasteLimit, bytes.count >= Self.pasteEnd.count {
      bytes.remove(at: bytes.count - Self.pasteEnd.count)
    }
    // No text has a Ctrl-C: whoever presses it waits for an end marker that was lost.
    if byte == 3 {
      state = .ground
      return handOver(finishedPaste)
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
    if text.first == "<", final == 0x4d || final == 0x6d {
      return isLate ? [] : Self.mouse(numbers, isRelease: final == 0x6d)
    }
    if let mark = text.first, "?>=<".contains(mark) {
      return [.reply(TerminalReply(mark: mark, numbers, text, final: final))]
    }
    // Some terminals tell when a key is let go, too.
    if text.hasSuffix(":3") { return [] }
    let modifiers = Self.modifiers(numbers.count > 1 ? numbers[1] : 1)
    switch final {
    case 0x74:  // t
      if numbers.count == 3 && numbers[0] == 6 {
        return [.reply(.cellSize(PixelSize(numbers[2], numbers[1])))]
      }
      return [.reply(.other)]
    case 0x52 where numbers.count == 2 && (numbers[0] > 1 || expectsPosition):
      guard expectsPosition else { return [.reply(.other)] }
      expectsPosition = false
      return [.reply(.position(row: numbers[0], column: numbers[1]))]
    case 0x63 where !body.isEmpty, 0x6e, 0x79: return [.reply(.other)]
    case 0x49, 0x4f: return [.reply(.other)]  // focus in and out
    case 0x5a: return press(.backTab)
    case 0x7e where numbers.first == 27 && numbers.count == 3:  // xterm's modifyOtherKeys
      return press(Self.key(codePoint: numbers[2], modifiers))
    case 0x7e:  // ~
      return press(Self.key(number: numbers.first ?? 0).map { .with(modifiers, $0) })
    case 0x75: return press(Self.key(codePoint: numbers.first ?? 0, modifiers))  // u
    case 0x61...0x64: return press(Self.key(final: final - 0x20).map { .with(.shift, $0) })  // rxvt
    default: return press(Self.key(final: final).map { .with(modifiers, $0) })
    }
  }

  /// A parameter of a control sequence; one that is too large for any use becomes the largest.
  static func number(_ text: Substring) -> Int {
    let digits = text.prefix { $0.isASCII && $0.isNumber }
    return min(Int(digits) ?? (digits.isEmpty ? 0 : .max), largestNumber)
  }

  private static let largestNumber = 9_999_999

  /// The modifiers of a sequence's parameter; locks (64, 128) are none.
  private static func modifiers(_ number: Int) -> Modifiers {
    Modifiers(rawValue: UInt8(max(0, number - 1) & 0b1111))
  }

  /// A mouse event: the button's number with its bits, column and row from 1 on.
  private static func mouse(_ numbers: [Int], isRelease: Bool) -> [Input] {
    guard numbers.count == 3 else { return [] }
    let (code, button) = (numbers[0], numbers[0] & 3)
    let kind: MouseEvent.Kind
    if code & 64 != 0 {
      kind = .wheel([.up, .down, .left, .right][button])
    } else {
      // Motion without a button is not asked for.
      guard button < 3 else { return [] }
      let pressed: MouseEvent.Button = [.left, .middle, .right][button]
      kind = isRelease ? .release(pressed) : code & 32 != 0 ? .drag(pressed) : .press(pressed)
    }
    var modifiers = Modifiers()
    for (bit, modifier) in [(4, Modifiers.shift), (8, .alt), (16, .control)] where code & bit != 0 {
      modifiers.insert(modifier)
    }
    return [
      .mouse(
        MouseEvent(
          kind, column: max(0, numbers[1] - 1), row: max(0, numbers[2] - 1), modifiers: modifiers))
    ]
  }

  /// The key of `SS3 final`: as in control sequences, and the keypad's and rxvt's own.
  private static func key(function final: UInt8) -> Key? {
    switch final {
    case 0x61...0x64: key(final: final - 0x20).map { .with(.control, $0) }
    case 0x6a...0x79: .character(Array("*+,-./0123456789")[Int(final) - 0x6a])
    default: key(final: final)
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
    case 23...26: .function(number - 12)
    case 28, 29: .function(number - 13)
    case 31...34: .function(number - 14)
    default: nil
    }
  }

  /// The key of `CSI code ; modifiers u` and `CSI 27 ; modifiers ; code ~`.
  private static func key(codePoint code: Int, _ modifiers: Modifiers) -> Key? {
    switch code {
    case 9:
      return modifiers.contains(.shift)
        ? .with(modifiers.subtracting(.shift), .backTab) : .with(modifiers, .tab)
    case 13: return .with(modifiers, .enter)
    case 27: return .with(modifiers, .escape)
    case 8, 127: return .with(modifiers, .backspace)
    default:
      guard code >= 0x20, let scalar = Unicode.Scalar(UInt32(code)),
        scalar.properties.generalCategory != .control,
        scalar.properties.generalCategory != .privateUse
      else { return nil }
      var character = Character(scalar)
      var rest = modifiers
      if rest.contains(.control),
        ("a"..."z").contains(character.lowercased()) || "@[\\]^_".contains(character)
      {
        rest.remove(.control)
        return .with(rest, .control(Character(character.lowercased())))
      }
      // Shift is part of a character that is typed with it.
      if rest.remove(.shift) != nil, let upper = character.uppercased().first { character = upper }
      return .with(rest, .character(character))
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
