/// Fault in the content of a file, without the path and the next step.
package struct FormatFault: Error {
  /// The fault, as the middle part of a sentence.
  package let message: String

  /// Makes a fault from its text.
  package init(message: String) { self.message = message }
}
