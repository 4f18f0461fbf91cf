/// A run directory or what lies in it cannot be used as asked.
///
/// Prints as one sentence: the file, what was expected, what was found, and the next step.
package struct RunError: Error, CustomStringConvertible, Equatable {
  /// The whole sentence.
  package let message: String
  /// Whether nothing but room on the disk was missing, so that a later try may succeed.
  package let isDiskFull: Bool

  /// Makes an error from its sentence.
  package init(_ message: String, isDiskFull: Bool = false) {
    self.message = message
    self.isDiskFull = isDiskFull
  }

  /// The sentence, so that `"\(error)"` prints it.
  package var description: String { message }
}
