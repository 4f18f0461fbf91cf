import TerminalUI
import Text

/// The text of the help page, made from the key table.
package enum HelpText {
  /// One line of the page.
  package enum Line: Equatable, Sendable {
    /// A heading.
    case heading(String)
    /// Keys, what they do, and the command's name, empty where it has none.
    case key(keys: String, summary: String, name: String)
    /// Plain text.
    case text(String)
    /// Nothing.
    case blank
  }

  /// The width of the page's text on a screen.
  static func width(_ size: Size) -> Int { min(92, size.columns - 6) }

  /// Columns of the keys before their meaning.
  static func keyColumns(_ width: Int) -> Int { width >= 90 ? 20 : 14 }

  /// The whole page, with the keys of a table.
  package static func lines(width: Int, table: [KeyBinding] = KeyBinding.all) -> [Line] {
    var lines: [Line] = []
    for group in KeyBinding.Group.allCases where group != .list {
      append(
        group.rawValue, table.filter { $0.context == .grid && $0.group == group }, width,
        to: &lines)
    }
    lines += [.heading("Marks")]
    let marks =
      SlotPhase.allCases.map { ($0.mark, $0.meaning) } + [
        ("•", "marked by Space or m"), ("›", "in the range or the typed pattern"),
        ("0 … 9", "price of replacing the slot, from the lowest to the highest (H)"),
        ("–", "in the place of a price: the operator saves no time"),
        ("= +", "locked in a search: the teacher's, or the shown operator"),
      ]
    lines += marks.flatMap { row($0.0, $0.1, width: width) } + [.blank]
    for context in KeyContext.allCases where context != .grid {
      append(context.title, table.filter { $0.context == context }, width, to: &lines)
    }
    lines.append(.heading("Words"))
    lines += glossary.flatMap { row($0.0, $0.1, width: width) }
    lines.append(.blank)
    let about =
      "A number before a key repeats it. Names on the right work after “:”, with an argument where "
      + "one is shown. A ~ marks an estimate."
    lines += TextWidth.wrap(about, width).map { .text($0) }
    return lines
  }

  /// The words that the screen uses, and what they mean.
  private static let glossary: [(String, String)] = [
    ("teacher", "the pretrained model that the plan refers to"),
    ("slot", "attention or MLP of one block; a replaced one holds another operator"),
    ("graft", "the teacher with some operators replaced"),
    ("plan", "which slots hold which operators, and how they are trained"),
    ("distil", "stage 1: each new operator learns the outputs of the replaced one"),
    (
      "finetune",
      "stage 2: the grafted model is trained as a whole, with the losses that the plan weighs"
    ),
    ("loss", "on the samples of the training step"),
    ("held-out", "the loss on samples that are never trained on"),
    (
      "band, L32",
      "share of attention within k tokens of the query, in raster order; L32 is that for k = 32, "
        + "the paper's band"
    ),
    ("var", "variance of the teacher's attention output in the block"),
    ("cfg", "scale of classifier-free guidance; 1 is none"),
    ("seed", "number from which the noise of a picture is drawn"),
    ("r4", "an MLP whose inner width is 4 times the model's; likewise r3, r6"),
    ("k4", "a convolution of 4 tokens"),
    ("∥ ╗ ╝", "two neighbouring blocks that run in parallel on the same input"),
    ("⏎", "the Enter key; shown as ~ where only ASCII is drawn"),
    ("FLOPs", "floating-point operations of one forward pass of the model"),
    ("params", "numbers that the operator or model has learned"),
    (
      "error",
      "squared error of the model's guided prediction with a change, in percent of the teacher's"
        + " prediction; an error sum adds those of single changes"
    ),
    ("library", "operators of every slot of the model, trained by themselves, scored and timed"),
    ("price", "percent of error for each millisecond that a change saves; H shows it in the grid"),
    ("best plans, front", "the smallest sum of errors for every budget; B shows them"),
    ("budget", "fraction of the teacher's time, FLOPs, parameters or memory that a plan may take"),
    (
      "i l w n r",
      "baselines: interleaved, last, least local, most local and random blocks; capitals were"
        + " measured whole, S by a search, t is a training, @ the present plan"
    ),
    ("lost", "a run without a last event whose worker is gone"),
  ]

  /// The first line of a place's section.
  static func start(of context: KeyContext, width: Int, table: [KeyBinding]) -> Int {
    context == .grid
      ? 0 : lines(width: width, table: table).firstIndex(of: .heading(context.title)) ?? 0
  }

  /// Keys with what they do, on as many lines as that takes.
  private static func row(
    _ keys: String, _ summary: String, name: String = "", width: Int
  ) -> [Line] {
    let column = keyColumns(width)
    // On a narrow screen the words need the room of the command's name.
    let name = width - column - 5 - TextWidth.columns(of: name) < 12 ? "" : name
    let room = width - column - 4 - (name.isEmpty ? 0 : TextWidth.columns(of: name) + 1)
    let keys = TextWidth.wrap(keys, column)
    let texts = TextWidth.wrap(summary, max(10, room))
    return (0..<max(keys.count, texts.count)).map { index in
      .key(
        keys: index < keys.count ? keys[index] : "",
        summary: index < texts.count ? texts[index] : "", name: index == 0 ? name : "")
    }
  }

  private static func append(
    _ title: String, _ bindings: [KeyBinding], _ width: Int, to lines: inout [Line]
  ) {
    guard !bindings.isEmpty else { return }
    lines.append(.heading(title))
    for binding in bindings {
      let command = binding.command
      let name =
        command.hasName && binding.context == .grid
        ? ":\(command.rawValue)" + (command.argument.map { " \($0)" } ?? "") : ""
      lines += row(binding.keysText, binding.summary, name: name, width: width)
    }
    lines.append(.blank)
  }
}

extension HelpText.Line {
  /// What the line says, without its layout.
  var plainText: String {
    switch self {
    case .heading(let text), .text(let text): text
    case .key(let keys, let summary, let name): "\(keys) \(summary) \(name)"
    case .blank: ""
    }
  }
}

extension HelpPage {
  /// The page at the section of a place.
  init(at context: KeyContext, size: Size, table: [KeyBinding]) {
    self.init()
    scroll = HelpText.start(of: context, width: HelpText.width(size), table: table)
  }
}

/// The table of keys over the whole screen.
struct HelpView {
  let state: AppState
  let page: HelpPage

  func draw(on frame: inout Frame) {
    let width = HelpText.width(state.size)
    let lines = HelpText.lines(width: width, table: state.configuration.keys.bindings)
    let rows = frame.rows - 2
    let inside = Popup.open(on: &frame, columns: width + 4, rows: rows, title: "keys")
    let first = min(page.scroll, max(0, lines.count - inside.rows))
    for (index, line) in lines.dropFirst(first).prefix(inside.rows).enumerated() {
      draw(line, on: &frame, in: inside, row: inside.row + index)
      if !state.searched.isEmpty,
        line.plainText.lowercased().contains(state.searched.lowercased())
      {
        frame.put("›", column: inside.column - 1, row: inside.row + index, style: Theme.warning)
      }
    }
    let last = min(lines.count, first + inside.rows)
    frame.putPosition(of: first..<last, count: lines.count, in: inside)
  }

  private func draw(_ line: HelpText.Line, on frame: inout Frame, in inside: Rect, row: Int) {
    switch line {
    case .heading(let text):
      frame.put(text, column: inside.column, row: row, style: Theme.heading)
    case .text(let text):
      frame.put(text, column: inside.column, row: row, style: Theme.quiet)
    case .key(let keys, let summary, let name):
      let column = HelpText.keyColumns(inside.columns)
      frame.put(
        keys, column: inside.column + 2, row: row, style: Theme.strong, maxColumns: column + 1)
      let room = inside.columns - column - 4 - (name.isEmpty ? 0 : TextWidth.columns(of: name) + 1)
      frame.put(TextWidth.clip(summary, room), column: inside.column + column + 4, row: row)
      frame.putRight(name, right: inside.right, row: row, style: Theme.quiet)
    case .blank: break
    }
  }
}
