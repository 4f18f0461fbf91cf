/// Failure to use a run directory or its files.
///
/// The message is one sentence with the file, the expectation, the value found, and the next step.
package struct RunError: Error, CustomStringConvertible, Equatable {
  /// The whole sentence.
  package let message: String
  /// Whether the disk was full, so that a later attempt may succeed.
  package let isDiskFull: Bool

  /// Makes an error from its sentence.
  package init(_ message: String, isDiskFull: Bool = false) {
    self.message = message
    self.isDiskFull = isDiskFull
  }

  /// The sentence, so that `"\(error)"` prints it.
  package var description: String { message }
}
