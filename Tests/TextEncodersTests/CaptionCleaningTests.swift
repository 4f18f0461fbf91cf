import Testing
import TextEncoders

@Suite("Caption cleaning")
struct CaptionCleaningTests {
  /// Captions and what the default of PixArt's pipeline makes of them.
  private static let cases = [
    ("  A Red+Fox%21  ", "a red fox!"), ("<b>bold</b> &amp; <i>thin</i>", "bold thin"),
    ("x &hellip; y", "x … y"), ("tree<script>a < b</script> leaf<!-- no -->", "tree leaf"),
    ("see https://example.com/a or www.example.org", "see or"), ("@painter paints", "paints"),
    ("猫 cat ねこ", "cat ねこ"), ("a — b", "a - b"), ("#12 and 1234567 and #12345", "and and"),
    ("photo.jpg by the sea", "by the sea"), ("one-two-three-four-five", "one two three four five"),
    ("one-two-three", "one-two-three"), ("ab1234 item", "item"), ("10x20 cm", "cm"),
    ("\"quoted\"", "quoted"), ("ΟΔΟΣ", "οδος"), ("ﬁne ＡＢ", "fine ab"),
    ("a &unknown; b", "a unknown b"),
  ]

  @Test(arguments: cases)
  func cleansAsThePipelineDoes(caption: String, expected: String) {
    #expect(CaptionCleaning.cleaned(caption) == expected)
  }

  @Test func lowersOnlyCaseAndEdges() {
    #expect(CaptionCleaning.lowered("  <B>Bold</B> #1 ") == "<b>bold</b> #1")
  }
}
