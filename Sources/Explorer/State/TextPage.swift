/// Text over the screen that can be scrolled.
package struct TextPage: Equatable, Sendable {
  /// The heading.
  package let title: String
  /// The lines.
  package var lines: [String]
  /// The run that draws the set that is shown, which is read again every second.
  package var run: String?
  /// The file of tensors that is described.
  package var file: String?
  /// Small pictures of the set below the lines.
  package var picture: Picture?
  /// The first row shown.
  package var first = 0

  /// Shows text from its start.
  package init(title: String, lines: [String]) { (self.title, self.lines) = (title, lines) }
}
