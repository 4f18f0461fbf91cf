import TerminalUI

extension KeyBinding {
  /// The table of keys: dispatch, the hint bar, the help page and `docs/keys.md` all read this.
  package static let all: [KeyBinding] =
    gridBindings + pickerBindings + formBindings + promptBindings + questionBindings
    + runsBindings + compareBindings + logBindings + imagesBindings + plotBindings
    + overlayListBindings + evidenceBindings + searchBindings + helpBindings + textBindings
    + settingsBindings
    + terminalBindings + anywhereBindings

  static func key(
    _ context: KeyContext, _ group: Group, _ keys: [Key], _ command: Command, _ summary: String,
    hint: Hint? = nil
  ) -> KeyBinding {
    KeyBinding(
      context: context, group: group, keys: keys.map { [$0] }, command: command, summary: summary,
      hint: hint)
  }

  private static func grid(
    _ group: Group, _ keys: [Key], _ command: Command, _ summary: String, hint: Hint? = nil
  ) -> KeyBinding {
    key(.grid, group, keys, command, summary, hint: hint)
  }

  static func hint(_ keys: String, _ text: String, _ rank: Int = 5) -> Hint {
    Hint(keys: keys, text: text, rank: rank)
  }

  // In the order of the hint bar.
  private static let gridBindings: [KeyBinding] = [
    grid(.move, ["h", .left], .left, "to the slot on the left", hint: hint("hjkl", "move", 6)),
    grid(.move, ["j", .down, .wheelDown], .down, "to the next block; 5j moves five"),
    grid(.move, ["k", .up, .wheelUp], .up, "to the block before"),
    grid(.move, ["l", .right], .right, "to the slot on the right"),
    KeyBinding(
      context: .grid, group: .move, keys: [["g", "g"], [.home]], command: .first,
      summary: "to the first block; 7gg to block 7", hint: nil),
    grid(.move, ["G", .end], .last, "to the last block; 7G to block 7"),
    grid(.move, [.control("d"), .pageDown], .pageDown, "seven blocks down"),
    grid(.move, [.control("u"), .pageUp], .pageUp, "seven blocks up"),
    grid(.move, ["n"], .nextEdited, "to the next edited slot"),
    grid(.move, ["N"], .previousEdited, "to the edited slot before"),

    grid(
      .edit, [.enter], .pick, "choose an operator for the slots", hint: hint("⏎", "operator", 1)),
    grid(.select, ["v"], .range, "start or end a range", hint: hint("v", "range", 7)),
    grid(.select, [" "], .mark, "mark the slot and move on"),
    grid(
      .select, ["m"], .markPattern,
      "mark a pattern of blocks (odd, last 7, 3-9, top 8 by L32, L32 > .4 and odd)"),
    grid(.edit, ["e"], .configure, "configure the slots' operator"),
    grid(
      .edit, ["a"], .apply, "apply this slot's operator to a pattern of blocks",
      hint: hint("a", "pattern", 4)),
    grid(.edit, ["."], .again, "apply the last chosen operator again"),
    grid(.edit, ["x", .delete], .clear, "restore the teacher's operator"),
    grid(.edit, ["J"], .join, "make the block and the next one parallel, or split them"),

    grid(.search, ["H"], .costMap, "show what replacing each slot costs, or no longer"),
    grid(.search, ["}"], .nextOperator, "costs of the next operator; first the best of each slot"),
    grid(.search, ["{"], .previousOperator, "costs of the operator before"),
    grid(
      .search, ["B"], .bestPlans, "the best plans for every budget",
      hint: hint("B", "best plans", 6)),
    grid(.search, ["b"], .buildLibrary, "train, score and time operators for every slot"),
    grid(
      .search, ["$"], .costTable,
      "FLOPs, parameters, memory and measured time of plan and operators"),
    grid(
      .search, ["%"], .budget,
      "a budget of time, FLOPs, parameters or memory: a plan above it is red in the header"),

    grid(.distil, ["d"], .distil, "distil what the plan changes", hint: hint("d", "distil", 2)),
    grid(.distil, ["f"], .finetune, "finetune the whole model, after distilling"),
    grid(.distil, ["D"], .chain, "distil, finetune, measure and report, one after the other"),
    grid(.distil, ["M"], .report, "measure the trained graft and write its report"),
    grid(.distil, ["p"], .pause, "pause or resume the training"),
    grid(.distil, ["C"], .cancel, "cancel the training; asked again, kill it"),
    grid(.distil, ["t"], .series, "plot the losses of the slot, their mean, or all"),
    grid(.distil, ["L"], .scale, "linear or logarithmic losses"),
    grid(.distil, ["P"], .plot, "plot over the whole screen"),
    grid(.distil, ["r"], .runs, "list of runs", hint: hint("r", "runs", 9)),

    grid(.preview, ["s"], .preview, "sample teacher and graft", hint: hint("s", "sample", 2)),
    grid(.preview, ["F"], .followEdits, "fit and sample after every edit, or not"),
    grid(.preview, ["S"], .previewSettings, "set class, seed, steps and guidance"),
    grid(.preview, ["c"], .imageClass, "choose the class by its name"),
    grid(.preview, ["A"], .analyze, "recompute the teacher's statistics"),
    grid(.preview, ["V"], .evidence, "the teacher's attention and activations in this block"),
    grid(.preview, ["I"], .inspect, "what the model's file holds: tensors and their statistics"),
    grid(.preview, ["i"], .images, "the images over the whole screen"),
    grid(.preview, [">"], .nextClass, "next class; 3> goes on by three"),
    grid(.preview, ["<"], .previousClass, "class before"),
    grid(.preview, ["]"], .nextSeed, "next seed"),
    grid(.preview, ["["], .previousSeed, "seed before"),
    grid(.preview, [")"], .moreSteps, "five sampler steps more"),
    grid(.preview, ["("], .fewerSteps, "five sampler steps fewer"),
    grid(.preview, ["+"], .moreGuidance, "more guidance, by a half"),
    grid(.preview, ["-"], .lessGuidance, "less guidance, by a half"),

    grid(.edit, ["u"], .undo, "undo; 3u takes back three steps", hint: hint("u", "undo", 5)),
    grid(.edit, [.control("r")], .redo, "redo"),
    grid(.plan, ["w"], .save, "save the plan", hint: hint("w", "save", 3)),
    grid(.plan, ["W"], .saveAs, "save the plan under another name"),
    grid(.plan, ["o"], .open, "open a plan"),
    grid(.plan, ["E"], .new, "start an empty plan"),
    grid(.plan, ["U"], .history, "the history of the plan's edits"),
    grid(.plan, ["O"], .openModel, "open another model"),
    grid(.plan, ["="], .set, "set any setting of the plan, such as stage2.batch_size=8"),

    grid(.program, ["?", .function(1)], .help, "list all keys", hint: hint("?", "help", 0)),
    grid(.program, [":"], .command, "type a command by its name"),
    grid(.program, [.escape], .escape, "clear the count, the range or the marks"),
    grid(.program, [","], .settings, "settings of the explorer"),
    grid(.program, ["T"], .terminal, "what was found of the terminal"),
    grid(
      .program, [.tab], .nextPane, "the next pane of a small screen", hint: hint("Tab", "pane", 0)),
    grid(
      .program, ["0"], .resetPanes, "the usual sizes of all panes; the mouse drags their borders"),
    grid(.program, [.control("l")], .redraw, "ask the terminal anew and redraw the screen"),
    grid(.program, [.control("z")], .suspend, "suspend to the shell; fg resumes"),
    grid(.program, ["q"], .quit, "quit", hint: hint("q", "quit", 8)),
  ]

  private static let pickerBindings: [KeyBinding] =
    listBindings(.picker, "operator", next: [.tab], previous: [.backTab]) + [
      key(.picker, .list, [.enter, "l", .right], .accept, "choose it", hint: hint("⏎", "choose")),
      key(
        .picker, .list, [.escape, "q", "h", .left], .escape, "cancel",
        hint: hint("Esc", "back")),
    ]

  /// The keys that edit a line of text.
  private static func editingBindings(_ context: KeyContext) -> [KeyBinding] {
    [
      key(context, .list, [.left], .cursorLeft, "cursor left"),
      key(context, .list, [.right], .cursorRight, "cursor right"),
      key(context, .list, [.home, .control("a")], .first, "cursor to the start"),
      key(context, .list, [.end, .control("e")], .last, "cursor to the end"),
      key(context, .list, [.backspace], .erase, "erase the character before the cursor"),
      key(context, .list, [.delete], .delete, "erase the character under the cursor"),
      key(context, .list, [.control("u")], .eraseLine, "erase up to the cursor"),
    ]
  }

  private static let formBindings: [KeyBinding] =
    [
      key(
        .form, .list, [.down, .tab, "j", .wheelDown], .next, "next field", hint: hint("jk", "field")
      ),
      key(.form, .list, [.up, .backTab, "k", .wheelUp], .previous, "field before"),
      key(.form, .list, [.enter], .accept, "accept", hint: hint("⏎", "accept")),
      key(.form, .list, ["m"], .more, "show the less common settings", hint: hint("m", "more")),
      key(.form, .list, [.control("p")], .earlierText, "an earlier text of the field"),
      key(.form, .list, [.control("n")], .laterText, "a later one"),
      key(
        .form, .list, [.escape, "q"], .escape, "cancel",
        hint: hint("Esc", "back")),
    ] + editingBindings(.form)

  private static let promptBindings: [KeyBinding] =
    [
      key(.prompt, .list, [.enter], .accept, "accept", hint: hint("⏎", "accept")),
      key(.prompt, .list, [.tab], .complete, "complete a name: command, file, run, class …"),
      key(.prompt, .list, [.up, .control("p")], .previous, "an earlier command that begins so"),
      key(.prompt, .list, [.down, .control("n")], .next, "a later one"),
      key(
        .prompt, .list, [.escape], .escape, "cancel", hint: hint("Esc", "back")),
    ] + editingBindings(.prompt)

  private static let questionBindings: [KeyBinding] = [
    key(.question, .list, ["y"], .yes, "yes", hint: hint("y", "yes")),
    key(
      .question, .list, ["s"], .saveFirst, "save first, then go on", hint: hint("s", "save first")),
    key(
      .question, .list, ["d"], .difference, "see what differs", hint: hint("d", "differences")),
    key(
      .question, .list, ["r"], .reload, "read the file again", hint: hint("r", "read again")),
    key(
      .question, .list, ["a"], .elsewhere, "save under another name",
      hint: hint("a", "save elsewhere")),
    key(.question, .list, ["x"], .discard, "delete what was kept", hint: hint("x", "delete")),
    key(
      .question, .list, ["n", .escape, "q"], .no, "no, stay",
      hint: hint("n", "no")),
  ]

  private static let runsBindings: [KeyBinding] =
    listBindings(.runs, "run") + [
      key(
        .runs, .list, [.enter], .accept,
        "load its plan and follow its losses, or show what was measured or found",
        hint: hint("⏎", "open")),
      key(
        .runs, .list, [" "], .mark, "mark it, or take the mark away",
        hint: hint("Space", "mark", 3)),
      key(.runs, .list, ["*"], .markAll, "mark all that are listed, or none"),
      key(
        .runs, .list, ["c"], .compare, "compare the marked runs, or the marked one and this",
        hint: hint("c", "compare", 4)),
      key(.runs, .list, ["p"], .pause, "pause or resume it", hint: hint("p", "pause")),
      key(
        .runs, .list, ["C"], .cancel, "cancel it, or all that are marked; asked again, kill it",
        hint: hint("C", "cancel")),
      key(
        .runs, .list, ["R"], .retry,
        "restart it, or the marked ones, from the checkpoint, optionally with other learning rates",
        hint: hint("R", "retry")),
      key(
        .runs, .list, ["x", .delete], .remove, "remove it, or all that are marked",
        hint: hint("x", "remove", 6)),
      key(.runs, .list, ["l"], .log, "show its log", hint: hint("l", "log", 4)),
      key(
        .runs, .list, ["E"], .ranks,
        "show its engine: the ranks with their memory, what they wait for, silence and restarts"),
      key(
        .runs, .list, [">"], .nextColumn, "sort by the next column", hint: hint("<>", "sort", 6)),
      key(.runs, .list, ["<"], .previousColumn, "sort by the column before"),
      key(.runs, .list, ["o"], .reverse, "reverse the order"),
      key(.runs, .list, ["t"], .tag, "add tags to it or to the marked ones; -TAG removes one"),
      key(.runs, .list, ["e"], .note, "write a note on it or on the marked ones"),
      key(.runs, .list, ["M"], .report, "measure it and write its report"),
      key(.runs, .list, ["y"], .copy, "copy its identifier, or those of the marked ones"),
      key(
        .runs, .list, ["+"], .raise, "raise its priority by one",
        hint: hint("+-", "priority", 6)),
      key(.runs, .list, ["-"], .lower, "lower its priority by one"),
      key(
        .runs, .list, [.escape, "q", "r"], .escape, "clear the marks, then the filter, then back",
        hint: hint("Esc", "back")),
    ]

  private static let compareBindings: [KeyBinding] =
    scrollBindings(.compare) + [
      key(
        .compare, .list, ["d"], .difference,
        "only the entries of the plans that differ, or the facts",
        hint: hint("d", "differences")),
      key(.compare, .list, ["l", .right], .cursorRight, "to the runs on the right"),
      key(.compare, .list, ["h", .left], .cursorLeft, "to the runs on the left"),
      key(
        .compare, .list, ["t"], .series, "plot the held-out or the training losses",
        hint: hint("t", "losses")),
      key(.compare, .list, ["L"], .scale, "linear or logarithmic losses", hint: hint("L", "scale")),
      key(
        .compare, .list, [.escape, "q", "c"], .escape, "back to the list",
        hint: hint("Esc", "back")),
    ]

  private static let logBindings: [KeyBinding] =
    scrollBindings(.log) + [
      key(
        .log, .list, [.escape, "q", "l"], .escape, "back to the runs", hint: hint("Esc", "back"))
    ]

  /// The motions of lists and pages.
  static func motions(_ context: KeyContext) -> [KeyBinding] {
    [
      key(context, .list, [.control("d")], .halfPageDown, "half a page down"),
      key(context, .list, [.control("u")], .halfPageUp, "half a page up"),
      KeyBinding(
        context: context, group: .list, keys: [["g", "g"], [.home]], command: .first,
        summary: "to the first line; 7gg goes to the seventh", hint: nil),
      key(context, .list, ["G", .end], .last, "to the last line"),
      key(context, .list, ["n"], .nextMatch, "next match"),
      key(context, .list, ["N"], .previousMatch, "match before"),
    ]
  }

  /// The keys that move in a list.
  static func listBindings(
    _ context: KeyContext, _ noun: String, next: [Key] = [], previous: [Key] = []
  ) -> [KeyBinding] {
    [
      key(
        context, .list, ["j", .down, .wheelDown] + next, .next, "next \(noun); 5j moves five",
        hint: hint("jk", "move", 2)),
      key(context, .list, ["k", .up, .wheelUp] + previous, .previous, "\(noun) before"),
      key(context, .list, [.pageDown, .control("f")], .pageDown, "a page down"),
      key(context, .list, [.pageUp, .control("b")], .pageUp, "a page up"),
      key(
        context, .list, ["/"], .search,
        context == .runs
          ? "list only what matches: text, state:running, loss<.05, op:swa, tag:x"
          : "look for text", hint: hint("/", context == .runs ? "filter" : "find", 3)),
    ] + motions(context)
  }

  /// The keys that scroll a page.
  private static func scrollBindings(_ context: KeyContext) -> [KeyBinding] {
    [
      key(
        context, .list, ["j", .down, .wheelDown], .next, "scroll down", hint: hint("jk", "scroll")),
      key(context, .list, ["k", .up, .wheelUp], .previous, "scroll up"),
      key(context, .list, [" ", .pageDown, .control("f")], .pageDown, "a page down"),
      key(context, .list, ["b", .pageUp, .control("b")], .pageUp, "a page up"),
      key(context, .list, ["/"], .search, "look for text", hint: hint("/", "find")),
      key(context, .list, ["y"], .copy, "copy the lines that are shown"),
    ] + motions(context)
  }

  private static let imagesBindings: [KeyBinding] = [
    key(.images, .list, ["s"], .preview, "sample teacher and graft", hint: hint("s", "sample")),
    key(.images, .list, ["S"], .previewSettings, "set class, seed, steps and guidance"),
    key(
      .images, .list, [">", "l", .right], .nextClass, "next class", hint: hint("<>", "class")),
    key(.images, .list, ["<", "h", .left], .previousClass, "class before"),
    key(.images, .list, ["]", "j", .down], .nextSeed, "next seed", hint: hint("[]", "seed")),
    key(.images, .list, ["[", "k", .up], .previousSeed, "seed before"),
    key(.images, .list, [")"], .moreSteps, "five sampler steps more", hint: hint("()", "steps")),
    key(.images, .list, ["("], .fewerSteps, "five sampler steps fewer"),
    key(
      .images, .list, ["+"], .moreGuidance, "more guidance, by a half",
      hint: hint("+-", "guidance")),
    key(.images, .list, ["-"], .lessGuidance, "less guidance, by a half"),
    key(
      .images, .list, ["f", .tab], .flip, "teacher or graft alone, in the same place",
      hint: hint("f", "flip", 2)),
    key(.images, .list, ["v"], .arrangement, "one picture, or all beside each other"),
    key(
      .images, .list, ["g"], .gridSize, "one picture, or a grid of 2, 3 or 4 classes and seeds",
      hint: hint("g", "grid", 3)),
    key(.images, .list, ["m"], .frames, "keep what the sampler predicts on its way, or not"),
    key(
      .images, .list, ["."], .laterFrame, "later prediction of the sampler",
      hint: hint(",.", "frames", 7)),
    key(.images, .list, [","], .earlierFrame, "earlier prediction of the sampler"),
    key(
      .images, .list, ["}"], .laterCheckpoint, "weights of a later checkpoint",
      hint: hint("{}", "checkpoint", 4)),
    key(.images, .list, ["{"], .earlierCheckpoint, "weights of an earlier checkpoint"),
    key(
      .images, .list, ["r"], .secondRun, "the graft of another run beside this one, or not",
      hint: hint("r", "run", 6)),
    key(
      .images, .list, ["a"], .renewal,
      "renew by itself: never, at the end, at every or every fourth checkpoint"),
    key(.images, .list, ["w"], .savePicture, "save as PNG", hint: hint("w", "save", 5)),
    key(
      .images, .list, [.escape, "q", "i"], .escape, "back to the grid",
      hint: hint("Esc", "back")),
  ]

  private static let helpBindings: [KeyBinding] =
    scrollBindings(.help) + [
      key(
        .help, .list, [.escape, "q", "?", .enter], .escape, "back", hint: hint("Esc", "back"))
    ]

  private static let textBindings: [KeyBinding] =
    scrollBindings(.text) + [
      key(.text, .list, [.escape, "q", .enter], .escape, "back", hint: hint("Esc", "back"))
    ]

  private static let settingsBindings: [KeyBinding] =
    listBindings(.settings, "setting", next: [.tab], previous: [.backTab]) + [
      key(
        .settings, .list, [.enter, " ", "l", .right], .accept,
        "its next value, used and kept at once",
        hint: hint("⏎", "next value")),
      key(.settings, .list, ["h", .left], .cursorLeft, "its value before"),
      key(.settings, .list, [.escape, "q", ","], .escape, "back", hint: hint("Esc", "back")),
    ]

  private static let terminalBindings: [KeyBinding] =
    scrollBindings(.terminal) + [
      key(
        .terminal, .list, [.control("l")], .redraw, "ask the terminal anew",
        hint: hint("Ctrl-L", "ask anew")),
      key(
        .terminal, .list, [.escape, "q", "T", .enter], .escape, "back", hint: hint("Esc", "back")),
    ]

  private static let anywhereBindings: [KeyBinding] = [
    key(
      .anywhere, .list, ["?", .function(1)], .help, "the keys of this place; F1 where ? is text"),
    key(.anywhere, .list, [.control("l")], .redraw, "ask the terminal anew and redraw the screen"),
    key(.anywhere, .list, [.control("z")], .suspend, "suspend to the shell; fg resumes"),
  ]
}
