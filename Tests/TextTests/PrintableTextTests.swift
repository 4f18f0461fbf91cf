import Foundation
import Testing

import Text

@Suite struct PrintableTextTests {
  @Test(arguments: [
    ("plain ~ text", "plain ~ text"), ("", ""),
    ("a\u{1b}]0;title\u{7}b", "a\\u{1b}]0;title\\u{7}b"),
    ("\0\u{8}\u{7f}", "\\u{0}\\u{8}\\u{7f}"), ("a\nb\r\nc\td", "a\\nb\\r\\nc\\td"),
    ("\u{9b}31m\u{85}\u{9d}", "\\u{9b}31m\\u{85}\\u{9d}"),
    ("x\u{2028}y\u{2029}z", "x\\u{2028}y\\u{2029}z"),
    ("file\u{202e}gnp.exe", "file\\u{202e}gnp.exe"),
    ("\u{2066}a\u{2069}\u{200e}\u{200f}\u{61c}", "\\u{2066}a\\u{2069}\\u{200e}\\u{200f}\\u{61c}"),
    ("a\u{200b}b\u{feff}c\u{ad}d\u{2060}e", "a\\u{200b}b\\u{feff}c\\u{ad}d\\u{2060}e"),
    ("m\u{e0061}n", "m\\u{e0061}n"), ("\u{3164}\u{ffa0}", "\\u{3164}\\u{ffa0}"),
    ("\u{fff9}\u{fffe}\u{10ffff}", "\\u{fff9}\\u{fffe}\\u{10ffff}"),
  ])
  func whatControlsOrHidesIsEscaped(text: String, shown: String) {
    #expect(text.printable == shown)
    #expect(shown.printable == shown)
  }

  @Test(arguments: [
    "größe", "日本語", "नमस्ते", "한국", "👩‍👩‍👧 ❤️ 1️⃣ 🇩🇪", "می‌خواهم", "e\u{301}\u{308}", "─│█▁⠿⏎←",
    "\u{1112}\u{1161}\u{11ab}", "葛\u{e0100}", "\u{fffd}", "a\u{a0}b\u{3000}c",
  ])
  func scriptsAndEmojiStay(text: String) {
    #expect(text.printable == text)
  }

  @Test func joinersAndSelectorsStayOnlyWhereTheyBelong() {
    #expect("ab\u{200d}c".printable == "ab\\u{200d}c")
    #expect("a\u{200c}".printable == "a\\u{200c}")
    #expect("a\u{fe0f}b".printable == "a\\u{fe0f}b")
    #expect("\u{fe0f}x".printable == "\\u{fe0f}x")
    #expect("\u{200d}\u{200d}日".printable == "\\u{200d}\\u{200d}日")
  }

  @Test func marksNeedABaseAndAreFew() {
    #expect("\u{301}a".printable == "\\u{301}a")
    #expect("a \u{301}".printable == "a \\u{301}")
    #expect("\u{1b}\u{301}".printable == "\\u{1b}\\u{301}")
    let four = String(repeating: "\u{301}", count: 4)
    #expect("a\(four)\u{301}\u{301}b".printable == "a\(four)\\u{301}\\u{301}b")
    #expect("a\u{1161}".printable == "a\\u{1161}")
  }

  @Test func everyScalarGivesTextWithoutControls() {
    for value in UInt32(0)...0x1ffff {
      guard let scalar = Unicode.Scalar(value) else { continue }
      let shown = "a\(Character(scalar))b".printable
      let isClean = shown.unicodeScalars.allSatisfy {
        let properties = $0.properties
        return properties.generalCategory != .control
          && (!properties.isDefaultIgnorableCodePoint || (0xfe00...0xfe0f).contains($0.value))
      }
      #expect(isClean, "U+\(String(value, radix: 16))")
      #expect(shown.printable == shown)
    }
  }

  @Test func longTextKeepsBothEnds() {
    let long = String(repeating: "x", count: 5000)
    let cut = "start\(long)end".printable(limit: 40)
    #expect(
      cut.count == 40 && cut.hasPrefix("startx") && cut.hasSuffix("xend") && cut.contains("…"))
    #expect(String(repeating: "\u{1b}", count: 5000).printable(limit: 40).count == 40)
    #expect("short\u{7}".printable(limit: 40) == "short\\u{7}")
    #expect(String(repeating: "é", count: 40).printable(limit: 40).count == 40)
  }

  @Test func aSentenceIsOneBoundedLine() {
    let name = String(repeating: "n", count: 5000)
    let text = "\(name): no such file;\n  check the \u{1b}[31mpath".printableSentence
    #expect(text.count < 400 && text.hasPrefix("nnn") && text.contains("…"))
    #expect(text.hasSuffix(": no such file;   check the \\u{1b}[31mpath"))
    let words = String(repeating: "word ", count: 1000)
    #expect("expected one of \(words)".printableSentence.count == 1200)
  }

  @Test func escapedJSONHasTheSameValue() throws {
    let names = ["a\u{1b}\u{9b}31m\u{202e}\u{200b}\u{e0061}日\u{301}", "plain", "\u{7f}\"\\\n"]
    let encoder = JSONEncoder()
    encoder.outputFormatting = .prettyPrinted
    let text = String(decoding: try encoder.encode(names), as: UTF8.self).printableJSON
    #expect(
      text.split(separator: "\n").allSatisfy {
        $0.unicodeScalars.allSatisfy { $0.properties.generalCategory != .control }
      })
    #expect(text.contains("\\u009b31m\\u202e\\u200b\\udb40\\udc61") && text.contains("\\u007f"))
    #expect(try JSONDecoder().decode([String].self, from: Data(text.utf8)) == names)
  }
}
