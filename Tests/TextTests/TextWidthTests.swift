import Testing

import Text

@Suite struct TextWidthTests {
  @Test(arguments: [
    ("abc", 3), ("日本x", 5), ("e\u{301}", 1), ("👩", 2), ("👩‍👩", 4), ("❤️", 1), ("½", 1), ("ｱ", 1),
    ("\u{1112}\u{1161}\u{11ab}", 2), ("한", 2), ("\u{1b}[m", 8), ("\n", 2), ("\u{3000}", 2), ("", 0),
  ])
  func columnsAreThoseOfTheTerminal(text: String, columns: Int) {
    #expect(TextWidth.columns(of: text) == columns)
  }

  @Test func clippedTextIsNeverTooWide() {
    #expect(TextWidth.clip("abc", 3) == "abc")
    #expect(TextWidth.clip("abcdef", 5) == "abcd…")
    #expect(TextWidth.clip("日本語", 4) == "日…")
    #expect(TextWidth.clip("日本語", 5) == "日本…")
    #expect(TextWidth.clip("x", 0) == "" && TextWidth.clip("xy", 1) == "…")
    #expect(TextWidth.clip("e\u{301}e\u{301}e\u{301}", 2) == "e\u{301}…")
  }

  @Test func paddedTextHasExactlyTheColumns() {
    #expect(TextWidth.pad("日", 5) == "日   ")
    #expect(TextWidth.padLeft("日", 5) == "   日")
    #expect(TextWidth.pad("日本語", 4) == "日… " && TextWidth.padLeft("日本語", 4) == " 日…")
    for text in ["a日b本c語", "e\u{301}\u{1b}x", "👩‍👩‍👧 family", "plain text"] {
      for columns in 0...12 {
        #expect(TextWidth.columns(of: TextWidth.pad(text, columns)) == columns)
        #expect(TextWidth.columns(of: TextWidth.padLeft(text, columns)) == columns)
      }
    }
  }

  @Test func columnsOfATableLineUp() {
    let rows = [
      ["run", "loss", "remark"], ["日本語", "0.5", ""], ["e\u{301}\u{7}", "12", "long text"],
    ]
    #expect(
      TextWidth.table(rows, numeric: [1]) == [
        "run     loss  remark", "日本語   0.5", "e\u{301}\\u{7}    12  long text",
      ])
    #expect(
      TextWidth.table(rows, widest: 4) == [
        "run   loss  remark", "日…   0.5", "e\u{301}\\u…  12    long text",
      ])
    #expect(TextWidth.table([]) == [])
  }

  @Test func wrappedLinesFit() {
    #expect(TextWidth.wrap("one two  three", 7) == ["one two", "three"])
    #expect(TextWidth.wrap("abcdefgh ij", 3) == ["abc", "def", "gh", "ij"])
    #expect(TextWidth.wrap("日本語 x", 5) == ["日本", "語 x"])
    #expect(TextWidth.wrap("one\ntwo", 9) == ["one", "two"])
    #expect(TextWidth.wrap("日本", 1) == ["日", "本"])
    #expect(TextWidth.wrap("", 5) == [] && TextWidth.wrap("a", 0) == ["a"])
    for columns in 2...20 {
      let text = "日本語 wide \u{1b}[31mred e\u{301}e\u{301}e\u{301} narrow👩‍👩‍👧words"
      for line in TextWidth.wrap(text, columns) {
        #expect(TextWidth.columns(of: line) <= columns)
      }
    }
  }
}
