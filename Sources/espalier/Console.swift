import Foundation
import Text

/// Prints one line with control characters escaped.
///
/// Shadows the standard library's function in this target, so that all output is escaped.
func print(_ line: String) { Swift.print(line.printable) }

/// Prints text line by line.
func print(lines text: String) {
  for line in text.split(separator: "\n", omittingEmptySubsequences: false) { print(String(line)) }
}

/// Prints JSON with control characters as `\u` escapes.
func print(json: String) { Swift.print(json.printableJSON) }

/// Prints lines to standard error with control characters escaped.
///
/// Write errors are ignored.
func printToStandardError(_ lines: String) {
  let text = lines.split(separator: "\n", omittingEmptySubsequences: false)
    .map { String($0).printable }.joined(separator: "\n")
  try? FileHandle.standardError.write(contentsOf: Data(text.utf8))
}

/// Number of columns of the terminal of a descriptor; nil for a file or a pipe.
func terminalColumns(of descriptor: Int32 = STDOUT_FILENO) -> Int? {
  var size = winsize()
  guard ioctl(descriptor, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0 else { return nil }
  return Int(size.ws_col)
}

/// Progress on standard error: one line that rewrites itself on a terminal, plain lines otherwise.
final class ProgressLine {
  private let isTerminal = isatty(STDERR_FILENO) == 1
  private var shown = false
  private var last = Date.distantPast

  /// Shows a new state; without a terminal, at most one line per second.
  func update(_ text: String) {
    let now = Date()
    guard now.timeIntervalSince(last) > (isTerminal ? 0.1 : 1) else { return }
    last = now
    shown = true
    guard isTerminal else { return printToStandardError("\(text)\n") }
    // A wrapped line cannot be rewritten.
    let line = TextWidth.clip(text, (terminalColumns(of: STDERR_FILENO) ?? 80) - 1)
    try? FileHandle.standardError.write(contentsOf: Data("\r\u{1B}[K\(line)".utf8))
  }

  /// Ends the line.
  func finish() {
    if shown, isTerminal { printToStandardError("\n") }
    shown = false
  }
}
