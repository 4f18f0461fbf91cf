/// Text over the screen that can be scrolled.
package struct TextPage: Equatable, Sendable {
  /// The heading.
  package let title: String
  /// The lines.
  package let lines: [String]
  /// The first row shown.
  package var first = 0

  /// Shows text from its start.
  package init(title: String, lines: [String]) { (self.title, self.lines) = (title, lines) }
}
