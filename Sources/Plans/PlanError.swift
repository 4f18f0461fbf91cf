/// A plan, or a text that describes a part of one, cannot be accepted.
///
/// Prints as one sentence: file and line where known, key, what was expected, what was found, and
/// the next step.
package struct PlanError: Error, CustomStringConvertible, Equatable {
  /// The plan file, when the plan came from one.
  package var file: String?
  /// The line of the file, counted from 1.
  package var line: Int?
  /// The key, for example `7.attention.config.window_left` or `stage1.steps`.
  package var key: String?
  /// What was expected and found, and the next step.
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
