import TerminalUI

extension KeyBinding {
  /// The keys of the search for the best plans.
  static let searchBindings: [KeyBinding] = [
    key(
      .search, .list, [.left, "h"], .left, "a smaller budget, by a hundredth",
      hint: hint("hl", "budget", 0)),
    key(.search, .list, [.right, "l", .wheelUp], .right, "a larger budget, by a hundredth"),
    key(.search, .list, ["<", .wheelDown], .panLeft, "a smaller budget, by a tenth"),
    key(.search, .list, [">"], .panRight, "a larger budget, by a tenth"),
    key(.search, .list, ["g", .home], .first, "the smallest budget"),
    key(.search, .list, ["G", .end], .last, "the teacher's own amount"),
    key(
      .search, .list, [.enter], .accept, "take the plan, as one step that u takes back",
      hint: hint("⏎", "take it", 1)),
    key(.search, .list, ["s"], .preview, "sample the plan", hint: hint("s", "sample", 2)),
    key(.search, .list, ["F"], .followEdits, "sample every plan that is shown, or not"),
    key(
      .search, .list, ["n"], .nextPoint,
      "next plan beside the front: the present one, baselines, searches, trainings",
      hint: hint("nN", "plans", 5)),
    key(.search, .list, ["N"], .previousPoint, "plan beside the front before"),
    key(.search, .list, [.down, "j"], .next, "next block", hint: hint("jk", "block", 7)),
    key(.search, .list, [.up, "k"], .previous, "block before"),
    key(.search, .list, [.tab], .otherSlot, "attention or MLP", hint: hint("Tab", "slot", 8)),
    key(
      .search, .list, [" "], .lock,
      "lock the slot: keep the teacher's operator (=), require the shown one (+), or free it",
      hint: hint("Space", "lock", 4)),
    key(.search, .list, ["e"], .lockPlan, "require the operators that the plan has already"),
    key(.search, .list, ["U"], .unlock, "free all slots"),
    key(
      .search, .list, ["-"], .fewerOperators, "fewer different operators",
      hint: hint("-+", "operators", 6)),
    key(.search, .list, ["+", "="], .moreOperators, "more different operators, or any number"),
    key(
      .search, .list, ["m"], .measure, "count time, FLOPs, parameters or memory",
      hint: hint("m", "measure", 5)),
    key(
      .search, .list, ["v"], .plotContent, "a larger plot in the grid's place, or the grid",
      hint: hint("v", "plot", 3)),
    key(.search, .list, ["R"], .startSearch, "evaluate the best plans and baselines in a run"),
    key(.search, .list, ["b"], .buildLibrary, "train, score and time operators in a run"),
    key(
      .search, .list, [.escape, "q", "B"], .escape, "back to the grid, the plan as it was",
      hint: hint("Esc", "back", 0)),
  ]
}
