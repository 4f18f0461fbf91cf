/// Invalid plan, or text for a part of one.
///
/// Prints as one sentence: file and line if known, key, expectation, value found, and the next
/// step.
package struct PlanError: Error, CustomStringConvertible, Equatable {
  /// The plan file, if any.
  package var file: String?
  /// The line of the file, counted from 1.
  package var line: Int?
  /// The key, for example `7.attention.config.window_left` or `stage1.steps`.
  package var key: String?
  /// Expectation, value found, and the next step.
  package var message: String

  /// Makes an error about a key.
  package init(key: String?, _ message: String) {
    self.key = key
    self.message = message
  }

  /// The sentence, so that `"\(error)"` prints it.
  package var description: String {
    var place = file ?? ""
    if let line { place += place.isEmpty ? "line \(line)" : ":\(line)" }
    return [place, key ?? "", message].filter { !$0.isEmpty }.joined(separator: ": ")
  }
}
