import TerminalUI

extension KeyBinding {
  /// The keys of the plot over the whole screen.
  static let plotBindings: [KeyBinding] = [
    key(.plot, .list, [.left, "h"], .left, "crosshair to the left", hint: hint("hl", "read", 2)),
    key(.plot, .list, [.right, "l"], .right, "crosshair to the right"),
    key(.plot, .list, [.tab], .nextQuantity, "next quantity", hint: hint("Tab", "quantity", 1)),
    key(.plot, .list, [.backTab], .previousQuantity, "quantity before"),
    key(
      .plot, .list, ["v"], .plotContent, "one chart, a chart for each slot, or slots by steps",
      hint: hint("v", "view", 3)),
    key(.plot, .list, ["j", .down], .next, "next slot", hint: hint("jk", "slot", 6)),
    key(.plot, .list, ["k", .up], .previous, "slot before"),
    key(.plot, .list, [.pageDown, .control("d")], .pageDown, "a page of slots down"),
    key(.plot, .list, [.pageUp, .control("u")], .pageUp, "a page of slots up"),
    key(.plot, .list, ["+", "="], .zoomIn, "show half as many steps", hint: hint("+-", "zoom", 2)),
    key(.plot, .list, ["-"], .zoomOut, "show twice as many steps"),
    key(.plot, .list, ["<"], .panLeft, "to earlier steps", hint: hint("<>", "pan", 4)),
    key(.plot, .list, [">"], .panRight, "to later steps"),
    key(.plot, .list, ["g", .home], .first, "to the first step"),
    key(.plot, .list, ["G", .end], .last, "to the newest step, and follow it"),
    key(.plot, .list, ["0"], .wholeRun, "all steps", hint: hint("0", "all", 7)),
    key(
      .plot, .list, ["e"], .moreSmoothing, "smooth more (bias-corrected moving average)",
      hint: hint("e", "smooth", 3)),
    key(.plot, .list, ["E"], .lessSmoothing, "smooth less"),
    key(.plot, .list, ["L"], .scale, "linear or logarithmic values", hint: hint("LX", "log", 5)),
    key(.plot, .list, ["X"], .scaleX, "linear or logarithmic steps"),
    key(.plot, .list, ["b"], .symbols, "braille, block or ASCII symbols"),
    key(
      .plot, .list, ["o"], .overlayRuns, "choose runs to plot beside this one",
      hint: hint("o", "runs", 4)),
    key(
      .plot, .list, [.escape], .escape, "take the crosshair away, then back",
      hint: hint("Esc", "back", 0)),
    key(.plot, .list, ["q", "P"], .quit, "back"),
  ]

  /// The keys of the list of runs beside the plotted one.
  static let overlayListBindings: [KeyBinding] =
    listBindings(.overlayList, "run") + [
      key(
        .overlayList, .list, [" ", .enter], .mark, "plot it, or no longer",
        hint: hint("Space", "plot")),
      key(
        .overlayList, .list, [.escape, "q", "o"], .escape, "back to the plot",
        hint: hint("Esc", "back")),
    ]
}
