import TerminalUI

extension KeyBinding {
  /// The keys of what is known of the teacher.
  static let evidenceBindings: [KeyBinding] = [
    key(.evidence, .list, ["j", .down], .next, "next block", hint: hint("jk", "block")),
    key(.evidence, .list, ["k", .up], .previous, "block before"),
    key(.evidence, .list, ["g", .home], .first, "first block"),
    key(.evidence, .list, ["G", .end], .last, "last block"),
    key(
      .evidence, .list, [.tab, "v"], .evidencePage, "attention, or histogram and channels",
      hint: hint("Tab", "page")),
    key(.evidence, .list, ["l", .right], .right, "attention or MLP", hint: hint("hl", "slot", 6)),
    key(.evidence, .list, ["h", .left], .left, "attention or MLP"),
    key(.evidence, .list, ["]"], .nextHead, "next head", hint: hint("[]", "head")),
    key(.evidence, .list, ["["], .previousHead, "head before"),
    key(
      .evidence, .list, ["w"], .windowShare,
      "another share of the attention for the suggested window", hint: hint("w", "window", 7)),
    key(.evidence, .list, [.escape, "q", "V"], .escape, "back", hint: hint("Esc", "back", 0)),
  ]
}
