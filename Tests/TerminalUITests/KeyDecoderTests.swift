import Testing

import TerminalUI

@Suite struct KeyDecoderTests {
  /// What a run of bytes decodes to, with a pause after it.
  private func decode(_ bytes: [UInt8]) -> [KeyDecoder.Input] {
    var decoder = KeyDecoder()
    var inputs = bytes.flatMap { decoder.feed($0) }
    if decoder.timeoutMilliseconds != nil { inputs += decoder.timeOut() }
    #expect(decoder.timeoutMilliseconds == nil)
    return inputs
  }

  private func decode(_ text: String) -> [KeyDecoder.Input] { decode(Array(text.utf8)) }

  @Test(arguments: [
    ("a", Key.character("a")), (" ", .character(" ")), ("é", .character("é")),
    ("日", .character("日")), ("🌳", .character("🌳")), ("\r", .enter), ("\n", .enter),
    ("\t", .tab), ("\u{7f}", .backspace), ("\u{8}", .backspace), ("\u{1}", .control("a")),
    ("\u{1a}", .control("z")), ("\0", .control("@")), ("\u{1c}", .control("\\")),
    ("\u{1f}", .control("_")), ("\u{1b}", .escape), ("\u{1b}[A", .up), ("\u{1b}OB", .down),
    ("\u{1b}[C", .right), ("\u{1b}[1;5D", .modified(.control, .left)), ("\u{1b}[H", .home),
    ("\u{1b}OF", .end),
    ("\u{1b}[1~", .home), ("\u{1b}[8~", .end), ("\u{1b}[5~", .pageUp), ("\u{1b}[6~", .pageDown),
    ("\u{1b}[3~", .delete), ("\u{1b}[Z", .backTab), ("\u{1b}OP", .function(1)),
    ("\u{1b}[[C", .function(3)), ("\u{1b}[15~", .function(5)), ("\u{1b}[17~", .function(6)),
    ("\u{1b}[24~", .function(12)), ("\u{1b}[24;2~", .modified(.shift, .function(12))),
    ("\u{1b}[97;5u", .control("a")), ("\u{1b}[9;2u", .backTab),
    ("\u{1b}OM", .enter),
  ])
  func oneKey(text: String, key: Key) {
    #expect(decode(text) == [.key(key)])
  }

  /// A key with a modifier that it has no meaning with is not the key alone.
  @Test(arguments: [
    ("\u{1b}x", Key.modified(.alt, "x")), ("\u{1b}é", .modified(.alt, "é")),
    ("\u{1b}]", .modified(.alt, "]")), ("\u{1b}\r", .modified(.alt, .enter)),
    ("\u{1b}\u{1}", .modified(.alt, .control("a"))), ("\u{1b}[1;2A", .modified(.shift, .up)),
    ("\u{1b}[1;3A", .modified(.alt, .up)), ("\u{1b}[1;9C", .modified(.super, .right)),
    ("\u{1b}[1;8C", .modified([.shift, .alt, .control], .right)),
    ("\u{1b}[3;5~", .modified(.control, .delete)), ("\u{1b}O5C", .modified(.control, .right)),
    ("\u{1b}Oc", .modified(.control, .right)), ("\u{1b}[c", .modified(.shift, .right)),
    ("\u{1b}[27;3;120~", .modified(.alt, "x")), ("\u{1b}[27;5;13~", .modified(.control, .enter)),
    ("\u{1b}[27;5;114~", .control("r")), ("\u{1b}[27;6;114~", .modified(.shift, .control("r"))),
    ("\u{1b}[27;2;65~", "A"), ("\u{1b}[27;2;33~", "!"), ("\u{1b}[27;2;9~", .backTab),
    ("\u{1b}[27;5;9~", .modified(.control, .tab)), ("\u{1b}[27;1;27~", .escape),
    ("\u{1b}[97;2u", "A"), ("\u{1b}[120;3u", .modified(.alt, "x")), ("\u{1b}[99;5u", .control("c")),
    ("\u{1b}[105;5u", .control("i")), ("\u{1b}[13;2u", .modified(.shift, .enter)),
    ("\u{1b}[97;65u", "a"), ("\u{1b}[1;129A", .up), ("\u{1b}[25~", .function(13)),
    ("\u{1b}Oy", "9"), ("\u{1b}Ok", "+"),
  ])
  func modifiersBelongToTheKey(text: String, key: Key) {
    #expect(decode(text) == [.key(key)])
    // After ESC ] an answer may follow.
    #expect(text == "\u{1b}]" || decode(text + "q").last == .key("q"))
  }

  @Test func aKeyThatIsLetGoIsNoKey() {
    #expect(decode("\u{1b}[97;1:3u") == [] && decode("\u{1b}[1;1:3A") == [])
    #expect(decode("\u{1b}[97;1:1u") == [.key("a")] && decode("\u{1b}[57399u") == [])
  }

  @Test func anEscapeBeforeAnEscapeIsBoth() {
    #expect(decode("\u{1b}\u{1b}") == [.key(.escape), .key(.escape)])
    #expect(decode("\u{1b}\u{1b}[A") == [.key(.escape), .key(.up)])
  }

  @Test func theMouseIsNoKeys() {
    func event(_ text: String) -> MouseEvent? {
      let inputs = decode(text + "q")
      guard inputs.count == 2, inputs[1] == .key("q"), case .mouse(let event) = inputs[0] else {
        return nil
      }
      return event
    }
    #expect(event("\u{1b}[<0;5;3M") == MouseEvent(.press(.left), column: 4, row: 2))
    #expect(event("\u{1b}[<0;5;3m") == MouseEvent(.release(.left), column: 4, row: 2))
    #expect(event("\u{1b}[<34;300;3M") == MouseEvent(.drag(.right), column: 299, row: 2))
    #expect(event("\u{1b}[<64;1;1M") == MouseEvent(.wheel(.up), column: 0, row: 0))
    #expect(
      event("\u{1b}[<81;1;1M") == MouseEvent(.wheel(.down), column: 0, row: 0, modifiers: .control))
    #expect(event("\u{1b}[<12;2;2M")?.modifiers == [.shift, .alt])
    #expect(event("\u{1b}[M !!") == MouseEvent(.press(.left), column: 0, row: 0))
    #expect(event("\u{1b}[M#\"!") == MouseEvent(.release(.left), column: 1, row: 0))
    // Motion without a button, and what is no mouse at all.
    #expect(decode("\u{1b}[<35;5;3M") == [] && decode("\u{1b}[<0;5M") == [])
    #expect(decode(pieces: ["\u{1b}", "[<0;5;3M"]) == [.key(.escape)])
    #expect(decode(pieces: ["\u{1b}[<0;", "5;3M"]).count == 1)
    #expect(decode(pieces: ["\u{1b}[M", "q", "q"]) == [])
  }

  @Test func sequencesMayArriveByteByByte() {
    var decoder = KeyDecoder()
    #expect(decoder.timeoutMilliseconds == nil)
    #expect(decoder.feed(0x1b).isEmpty)
    #expect(decoder.timeoutMilliseconds.map { (25...50).contains($0) } == true)
    #expect(decoder.feed(0x5b).isEmpty)
    #expect(decoder.feed(0x42) == [.key(.down)])
    #expect(decoder.timeoutMilliseconds == nil)
  }

  @Test func brokenTextIsDropped() {
    #expect(decode([0xff, 0x61]) == [.key(.character("a"))])
    #expect(decode([0xe6, 0x97, 0x61]) == [.key(.character("a"))])
    #expect(decode([0xc3]) == [])
    #expect(decode([0xc2, 0x9b, 0x62]) == [.key(.character("b"))])
    #expect(decode([0xed, 0xa0, 0x80, 0x62]) == [.key(.character("b"))])
    #expect(decode("\u{1b}[999z" + "x") == [.key(.character("x"))])
    #expect(decode("\u{1b}[12\rx") == [.key(.enter), .key(.character("x"))])
  }

  @Test func answersAreNotKeys() {
    #expect(decode("\u{1b}[?63;1;2;4;22c") == [.reply(.deviceAttributes([63, 1, 2, 4, 22]))])
    #expect(decode("\u{1b}[6;13;6t") == [.reply(.cellSize(PixelSize(6, 13)))])
    #expect(decode("\u{1b}[?1;0;1024S") == [.reply(.graphics(item: 1, status: 0, values: [1024]))])
    #expect(
      decode("\u{1b}[?2;0;1000;900S")
        == [.reply(.graphics(item: 2, status: 0, values: [1000, 900]))])
    #expect(decode("\u{1b}[?2026;2$y") == [.reply(.mode(number: 2026, state: 2))])
    #expect(decode("\u{1b}P>|XTerm(379)\u{1b}\\") == [.reply(.version("XTerm(379)"))])
    for end in ["\u{7}", "\u{1b}\\"] {
      #expect(
        decode("\u{1b}]11;rgb:1e1e/ffff/0\(end)") == [.reply(.background(RGB(30, 255, 0)))])
      #expect(decode("\u{1b}]11;#1e2e3e\(end)") == [.reply(.background(RGB(30, 46, 62)))])
    }
    #expect(
      decode("\u{1b}]11;rgba:00/80/ff/ff\u{7}") == [.reply(.background(RGB(0, 128, 255)))])
    #expect(decode("\u{1b}_Gi=31;OK\u{1b}\\") == [.reply(.kitty(id: 31, isOK: true))])
    #expect(
      decode("\u{1b}_Gi=31,p=2;ENOENT:no\u{1b}\\") == [.reply(.kitty(id: 31, isOK: false))])
    #expect(decode("\u{1b}[?997;1n") == [.reply(.colorScheme(isDark: true))])
    #expect(decode("\u{1b}[?997;2n") == [.reply(.colorScheme(isDark: false))])
    for other in [
      "\u{1b}P1$r0m\u{1b}\\", "\u{1b}]11;rgb:zz/0/0\u{7}", "\u{1b}]11;?\u{7}",
      "\u{1b}]10;rgb:0/0/0\u{7}", "\u{1b}_Xi=1;OK\u{1b}\\", "\u{1b}_GOK\u{1b}\\", "\u{1b}[?997;3n",
      "\u{1b}[>41;379;0c", "\u{1b}[24;80R", "\u{1b}[I",
    ] {
      #expect(decode(other + "q") == [.reply(.other), .key(.character("q"))])
    }
  }

  /// What pieces of input decode to, with a long pause after each.
  private func decode(pieces: [String], escapeDelay: Int = 40) -> [KeyDecoder.Input] {
    var decoder = KeyDecoder(escapeDelay: escapeDelay)
    return pieces.flatMap { piece -> [KeyDecoder.Input] in
      var inputs = Array(piece.utf8).flatMap { decoder.feed($0) }
      while decoder.timeoutMilliseconds != nil { inputs += decoder.timeOut() }
      return inputs
    }
  }

  /// Every way to cut a sequence in two or three, or into single bytes.
  private func cuts(_ text: String) -> [[String]] {
    let characters = text.map { String($0) }
    func piece(_ range: Range<Int>) -> String { characters[range].joined() }
    let count = characters.count
    return [characters]
      + (1..<count).flatMap { first in
        [[piece(0..<first), piece(first..<count)]]
          + ((first + 1)..<max(first + 1, count)).map {
            [piece(0..<first), piece(first..<$0), piece($0..<count)]
          }
      }
  }

  @Test(arguments: [
    "\u{1b}[C", "\u{1b}OC", "\u{1b}[1;5D", "\u{1b}[27;5;114~", "\u{1b}[<0;10;3M", "\u{1b}[3~",
    "\u{1b}OM", "\u{1b}[[A", "\u{1b}O5C",
    "\u{1b}[97;5u", "\u{1b}[Z", "\u{1b}[?63;4c", "\u{1b}[6;13;6t", "\u{1b}P>|XTerm(379)\u{1b}\\",
    "\u{1b}]11;rgb:0/0/0\u{7}",
  ])
  func aSequenceCutByPausesIsNoCharacters(sequence: String) {
    for pieces in cuts(sequence) {
      // Cut twice at its beginning it looks like keys that a person types one by one.
      if pieces.count > 2, pieces[0] == "\u{1b}", pieces[1].count == 1 { continue }
      // A string that two pauses cut is taken for one without an end.
      if pieces.count > 2, sequence.hasPrefix("\u{1b}P") || sequence.hasPrefix("\u{1b}]") {
        continue
      }
      let inputs = decode(pieces: pieces)
      let keys = inputs.compactMap { if case .key(let key) = $0 { key } else { nil } }
      let whole = decode(pieces: [sequence])
      let isAnswer = !whole.contains { if case .key = $0 { true } else { false } }
      // Nothing is asked for that a terminal answers with a string: its introducer alone is two keys.
      if ["\u{1b}]", "\u{1b}P"].contains(pieces[0]) { continue }
      if pieces[0] == "\u{1b}" {
        #expect(keys == [.escape], "\(pieces)")
      } else if isAnswer {
        #expect(keys.isEmpty, "\(pieces)")
      } else {
        #expect(inputs == whole, "\(pieces)")
      }
      #expect(decode(pieces: pieces + ["x"]).last == .key(.character("x")), "\(pieces)")
    }
  }

  @Test func keysAfterAnEscapeKeyStillWork() {
    for (text, key) in [("[", Key.character("[")), ("O", "O"), ("]", "]"), ("P", "P"), ("q", "q")] {
      #expect(decode(pieces: ["\u{1b}", text]) == [.key(.escape), .key(key)], "\(text)")
    }
    #expect(
      decode(pieces: ["\u{1b}", "[", "C"]) == [.key(.escape), .key("["), .key("C")])
    #expect(decode(pieces: ["\u{1b}", "\u{1b}[A"]) == [.key(.escape), .key(.up)])
  }

  /// Keys that are typed fast after Esc are all keys, although answers of the terminal begin with some of them.
  @Test func keysTypedFastAfterAnEscapeKeyAreKeys() {
    for text in ["Pvv", "]]n", "_x", "Xjk", "^^", "P\r", "]\u{1b}[A"] {
      var decoder = KeyDecoder()
      var inputs = decoder.feed(0x1b) + decoder.timeOut()
      for byte in Array(text.utf8) { inputs += decoder.feed(byte) }
      #expect(inputs.count == (text.hasSuffix("A") ? 3 : text.count + 1), "\(text): \(inputs)")
    }
    for introducer in ["[", "O", "P", "]"] {
      var decoder = KeyDecoder()
      _ = decoder.feed(0x1b)
      _ = decoder.timeOut()
      for byte in introducer.utf8 { _ = decoder.feed(byte) }
      #expect(decoder.timeoutMilliseconds == 100, "shorter than two keys of a person are apart")
    }
  }

  @Test func aCutCharacterIsWholeOrNothing() {
    var decoder = KeyDecoder()
    for byte in Array("日".utf8).dropLast() {
      #expect(decoder.feed(byte).isEmpty && decoder.timeoutMilliseconds == nil)
      #expect(decoder.timeOut().isEmpty)
    }
    #expect(decoder.feed(Array("日".utf8)[2]) == [.key(.character("日"))])
  }

  @Test func theDelayOfEscapeFollowsTheEnvironment() {
    #expect(KeyDecoder.escapeDelay([:]) == 40)
    #expect(KeyDecoder.escapeDelay(["SSH_CONNECTION": "10.0.0.1 22 10.0.0.2 22"]) >= 200)
    #expect(KeyDecoder.escapeDelay(["SSH_CONNECTION": ""]) == 40)
    #expect(KeyDecoder.escapeDelay(["ESCDELAY": "120", "SSH_CONNECTION": "x"]) == 120)
    #expect(KeyDecoder.escapeDelay(["ESCDELAY": "-5"]) == 0)
    #expect(KeyDecoder.escapeDelay(["ESCDELAY": "999999999999"]) == 10_000)
    #expect(KeyDecoder.escapeDelay(["ESCDELAY": "soon"]) == 40)
    var decoder = KeyDecoder(escapeDelay: 120)
    _ = decoder.feed(0x1b)
    #expect(decoder.timeoutMilliseconds == 120)
  }

  @Test func aLateAnswerCutByAPauseIsSwallowed() {
    #expect(
      decode(pieces: ["\u{1b}P>|XTe", "rm(379)\u{1b}\\", "q"])
        == [.reply(.version("XTerm(379)")), .key("q")])
    // Its end is lost: after another pause keys are keys again, and an Esc ends it at once.
    #expect(decode(pieces: ["\u{1b}P>|XTe", "rm", "q"]) == [.key("q")])
    #expect(decode(pieces: ["\u{1b}P>|XTe", "\u{1b}", "q"]).last == .key("q"))
  }

  @Test func pastedTextIsNoKeys() {
    #expect(
      decode("\u{1b}[200~qq\u{1b}[31m\ré\u{1b}[201~x")
        == [.paste("qq [31m é"), .key(.character("x"))])
    #expect(decode("\u{1b}[200~\u{1b}[201~") == [])
  }

  @Test func aPasteThatStallsStaysAPaste() {
    let text = "\u{1b}[200~d日q\n:quit\n\u{1b}[201~x"
    for pieces in cuts(text) {
      let inputs = decode(pieces: pieces)
      let pasted = inputs.compactMap { if case .paste(let text) = $0 { text } else { nil } }
      let keys = inputs.compactMap { if case .key(let key) = $0 { key } else { nil } }
      #expect(pasted.joined() == "d日q :quit ", "\(pieces)")
      // A pause within the start marker may look like keys, but what is pasted never does.
      #expect(
        pieces[0] == "\u{1b}"
          ? keys.allSatisfy { [.escape, "[", "2", "0", "x"].contains($0) } : keys == ["x"],
        "\(pieces)")
    }
    // Its very first byte alone is the key Esc; what follows is still a paste.
    #expect(
      decode(pieces: ["\u{1b}", "[200~dq\u{1b}[201~x"])
        == [.key(.escape), .paste("dq"), .key("x")])
    // Cut within a character, and never ended.
    var decoder = KeyDecoder()
    var inputs = Array("\u{1b}[200~".utf8).flatMap { decoder.feed($0) }
    for byte in "é日q".utf8 {
      inputs += decoder.feed(byte)
      while decoder.timeoutMilliseconds != nil { inputs += decoder.timeOut() }
    }
    #expect(inputs == [.paste("é"), .paste("日"), .paste("q")])
    #expect(decoder.feed(0x71).isEmpty)
  }

  /// A paste whose end marker was lost ends at Ctrl-C, and keys are keys again.
  @Test func controlCEndsAPasteWithoutEnd() {
    var decoder = KeyDecoder()
    let inputs = "\u{1b}[200~dq\u{3}x".utf8.flatMap { decoder.feed($0) }
    #expect(inputs == [.paste("dq"), .key(.character("x"))])
  }

  @Test func aPasteIsBounded() {
    let long = "\u{1b}[200~" + String(repeating: "abcdefgh", count: 40_000)
    let whole = decode(long + "\u{1b}[201~x")
    guard case .paste(let text) = whole.first, whole.count == 2 else {
      Issue.record("\(whole.count) inputs")
      return
    }
    #expect(text.utf8.count <= 1 << 16 && text.utf8.count > 60_000 && text.hasPrefix("abcdefgh"))
    #expect(whole.last == .key("x"))
    let slow = decode(
      pieces: (0..<40).map { ($0 == 0 ? "\u{1b}[200~" : "") + String(repeating: "y", count: 5000) })
    let total = slow.reduce(0) {
      if case .paste(let text) = $1 { $0 + text.utf8.count } else { $0 }
    }
    #expect(total <= 1 << 16 && total > 60_000)
  }

  @Test func hugeNumbersOfAnswersAreCut() {
    #expect(
      decode("\u{1b}[6;9223372036854775807;99999999999999999999t")
        == [.reply(.cellSize(PixelSize(9_999_999, 9_999_999)))])
    #expect(decode("\u{1b}[6;-5;0t") == [.reply(.cellSize(PixelSize(0, 0)))])
    #expect(decode("\u{1b}[155;1u") == [] && decode("\u{1b}[99999999999u") == [])
    let long = "\u{1b}[" + String(repeating: "1;", count: 4000) + "C"
    #expect(decode(long + "x") == [.key(.right), .key("x")])
  }

  @Test func anyBytesLeaveTheDecoderUsable() {
    var decoder = KeyDecoder()
    var state: UInt64 = 7
    for _ in 0..<200_000 {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      // Mostly bytes of sequences, so that every state is reached.
      let pick = UInt8(truncatingIfNeeded: state >> 40)
      _ = decoder.feed(
        pick < 60 ? 0x1b : (pick < 100 ? [0x5b, 0x50, 0x4f, 0x3f][Int(pick) % 4] : pick))
      if state >> 60 == 0 { _ = decoder.timeOut() }
    }
    while decoder.timeoutMilliseconds != nil { _ = decoder.timeOut() }
    #expect(decoder.feed(0x61) == [.key(.character("a"))])
  }
}
