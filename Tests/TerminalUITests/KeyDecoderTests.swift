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
    ("\u{1b}[C", .right), ("\u{1b}[1;5D", .left), ("\u{1b}[H", .home), ("\u{1b}OF", .end),
    ("\u{1b}[1~", .home), ("\u{1b}[8~", .end), ("\u{1b}[5~", .pageUp), ("\u{1b}[6~", .pageDown),
    ("\u{1b}[3~", .delete), ("\u{1b}[Z", .backTab), ("\u{1b}OP", .function(1)),
    ("\u{1b}[[C", .function(3)), ("\u{1b}[15~", .function(5)), ("\u{1b}[17~", .function(6)),
    ("\u{1b}[24;2~", .function(12)), ("\u{1b}[97;5u", .control("a")), ("\u{1b}[9;2u", .backTab),
    ("\u{1b}OM", .enter),
  ])
  func oneKey(text: String, key: Key) {
    #expect(decode(text) == [.key(key)])
  }

  @Test func anEscapeBeforeAKeyIsBoth() {
    #expect(decode("\u{1b}q") == [.key(.escape), .key(.character("q"))])
    #expect(decode("\u{1b}\u{1b}") == [.key(.escape), .key(.escape)])
    #expect(decode("\u{1b}\u{1b}[A") == [.key(.escape), .key(.up)])
    #expect(decode("\u{1b}[") == [.key(.escape), .key(.character("["))])
    #expect(decode("\u{1b}O") == [.key(.escape), .key(.character("O"))])
    #expect(decode("\u{1b}P") == [.key(.escape), .key(.character("P"))])
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
    #expect(decode("\u{1b}[6;13;6t") == [.reply(.cellSize(width: 6, height: 13))])
    #expect(decode("\u{1b}[?1;0;1024S") == [.reply(.graphics(item: 1, status: 0, values: [1024]))])
    #expect(
      decode("\u{1b}[?2;0;1000;900S")
        == [.reply(.graphics(item: 2, status: 0, values: [1000, 900]))])
    #expect(decode("\u{1b}[?2026;2$y") == [.reply(.mode(number: 2026, state: 2))])
    #expect(decode("\u{1b}P>|XTerm(379)\u{1b}\\") == [.reply(.version("XTerm(379)"))])
    for other in [
      "\u{1b}P1$r0m\u{1b}\\", "\u{1b}]11;rgb:0/0/0\u{7}", "\u{1b}_Gi=1;OK\u{1b}\\",
      "\u{1b}[>41;379;0c", "\u{1b}[24;80R", "\u{1b}[I",
    ] {
      #expect(decode(other + "q") == [.reply(.other), .key(.character("q"))])
    }
  }

  @Test func aLateAnswerCutByAPauseIsSwallowed() {
    var decoder = KeyDecoder()
    for byte in "\u{1b}P>|XTe".utf8 { #expect(decoder.feed(byte).isEmpty) }
    #expect((decoder.timeoutMilliseconds ?? 0) >= 500)
    #expect(decoder.timeOut().isEmpty)
    #expect(decoder.feed(0x71) == [.key(.character("q"))])
  }

  @Test func pastedTextIsNoKeys() {
    #expect(
      decode("\u{1b}[200~qq\u{1b}[31m\ré\u{1b}[201~x")
        == [.paste("qq [31m é"), .key(.character("x"))])
    #expect(decode("\u{1b}[200~abc") == [.paste("abc")])
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
