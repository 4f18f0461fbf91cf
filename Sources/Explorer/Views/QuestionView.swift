import TerminalUI
import Text

/// A question with its answers.
struct QuestionView {
  let state: AppState
  let question: Question

  func draw(on frame: inout Frame) {
    let width = min(64, frame.columns - 4)
    let lines = Self.text(question, state)
      .flatMap { TextWidth.wrap($0.printableSentence, width - 4) }.prefix(frame.rows - 6)
    let inside = Popup.open(on: &frame, columns: width, rows: lines.count + 4, title: "question")
    for (index, line) in lines.enumerated() {
      frame.put(line, column: inside.column, row: inside.row + index, maxColumns: inside.columns)
    }
    frame.put(
      Self.answers(question), column: inside.column, row: inside.bottom - 1, style: Theme.strong,
      maxColumns: inside.columns)
  }

  static func text(_ question: Question, _ state: AppState) -> [String] {
    let runs = state.runs.aliveTraining != nil
    switch question {
    case .unsaved(.quit):
      return ["\(state.document.title) has unsaved changes."]
        + (runs ? ["The training continues without the explorer."] : [])
    case .unsaved(let step):
      let what =
        switch step {
        case .load(let path): "Opening \(path)"
        case .openRun: "Opening the run"
        case .show(let opening): "Opening \(opening.model)"
        case .new: "Starting an empty plan"
        case .quit: "Leaving"
        }
      return ["\(what) would lose the unsaved changes of \(state.document.title)."]
    case .mixture(let weights):
      return [
        weights.summary { state.runs.title(of: $0) } + ".",
        weights.freshText.map { "Start with these \($0)?" } ?? "Mix the weights of these runs?",
      ]
    case .lastSession(let opening):
      return [
        "The last session showed \(opening.plan ?? "the run \(opening.run ?? "")")"
          + (opening.model == state.subject.model ? "" : " on \(opening.model)") + ".",
        "Show it again?",
      ]
    case .recover(let unsaved, _):
      return [
        "An explorer ended with unsaved changes of"
          + " \(PlanDocument(plan: unsaved.plan, path: unsaved.opening.plan).title)"
          + (unsaved.opening.model == state.subject.model ? ":" : " on \(unsaved.opening.model):"),
        unsaved.steps.suffix(4).joined(separator: "; ") + ".", "Take them up?",
      ]
    case .forget(let unsaved, _):
      let title = PlanDocument(plan: unsaved.plan, path: unsaved.opening.plan).title
      return [
        "Delete \(Format.count(unsaved.steps.count, "unsaved change")) of \(title) for good?",
        "Nothing brings them back.",
      ]
    case .cancelRun(let id):
      let record = state.runs.record(id)
      if state.runs.stopping.contains(id) {
        return [
          "\(state.runs.title(of: id)) was asked to stop already. Kill its worker?",
          "What came after its last checkpoint is lost.",
        ]
      }
      if record?.state == .queued, record?.step == 0 {
        return ["Take \(state.runs.title(of: id)) out of the queue?", "It has not begun."]
      }
      return [
        "Cancel \(state.runs.title(of: id))" + (record.map { " at \($0.progressText)" } ?? "")
          + "?",
        "Its checkpoints stay.",
      ]
    case .many(let bulk, let ids):
      let count = Format.count(ids.count, "run")
      return [
        "\(bulk.verb) \(count): \(state.runs.names(of: ids, limit: 12))?",
        bulk == .cancel ? "Their checkpoints stay." : "Their checkpoints and logs are deleted.",
      ]
    case .overwrite(let path, let present):
      let what = path == state.document.path ? "was changed by another program" : "exists already"
      let content = present.map { "It holds the plan \($0.name): \($0.extent)." }
      return ["\(path) \(what).", content ?? "It holds no plan.", "Write over it?"]
    }
  }

  static func answers(_ question: Question) -> String {
    switch question {
    case .unsaved(.quit): "[s] save, leave  [y] leave unsaved  [d] see  [n] stay"
    case .unsaved: "[s] save first  [y] lose them  [d] see them  [n] stay"
    case .mixture: "[y] start   [n] back"
    case .lastSession: "[y] show it   [n] an empty plan"
    case .recover: "[y] take them up  [d] see them  [x] delete them  [n] later"
    case .forget: "[y] delete them  [d] see them  [n] back"
    case .many: "[y] do it   [n] leave them"
    case .cancelRun: "[y] do it   [n] let it run"
    case .overwrite(_, nil): "[y] write over it  [a] save elsewhere  [n] keep it"
    case .overwrite: "[y] overwrite  [r] read  [a] elsewhere  [d] see  [n] keep"
    }
  }
}
