import Foundation

/// The columns of the terminal that standard output goes to; nil for a file or a pipe.
func terminalColumns() -> Int? {
  var size = winsize()
  guard ioctl(STDOUT_FILENO, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0 else { return nil }
  return Int(size.ws_col)
}

/// Progress on standard error: one line that rewrites itself on a terminal, plain lines otherwise.
final class ProgressLine {
  private let isTerminal = isatty(STDERR_FILENO) == 1
  private var shown = false
  private var last = Date.distantPast

  /// Shows a new state; on something else than a terminal at most one line a second.
  func update(_ text: String) {
    let now = Date()
    guard now.timeIntervalSince(last) > (isTerminal ? 0.1 : 1) else { return }
    last = now
    shown = true
    let line = isTerminal ? "\r\u{1B}[K\(text)" : "\(text)\n"
    printToStandardError(line)
  }

  /// Ends the line.
  func finish() {
    if shown, isTerminal { printToStandardError("\n") }
  }
}
