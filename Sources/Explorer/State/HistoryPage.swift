import Text

extension AppState {
  /// The steps of the plan's history, the oldest first, with the place where it is now.
  package var historyPage: TextPage {
    let steps = document.done.map(\.title) + document.undone.reversed().map(\.title)
    let now = document.done.count
    let start = document.path.map { "\($0) as it was read" } ?? "the plan as it was at first"
    var lines = ["\(now == 0 ? "›" : " ")  0  \(start)"]
    for (index, title) in steps.enumerated() {
      let number = TextWidth.padLeft(String(index + 1), 3)
      let mark = index + 1 == now ? "›" : " "
      lines.append("\(mark)\(number)  \(title)" + (index < now ? "" : "  (taken back)"))
    }
    lines += ["", "u takes steps back, Ctrl-R repeats them; 3u takes three"]
    var page = TextPage(title: "history of \(document.title)", lines: lines)
    page.first = max(0, now - 10)
    return page
  }
}
