/// One line of editable text with a cursor.
package struct TextField: Equatable, Sendable {
  /// The text as typed.
  package private(set) var text: String
  /// The cursor's place, counted in characters from the start.
  package private(set) var cursor: Int

  /// The most bytes that a field takes; what is typed or pasted beyond them is left out.
  package static let capacity = 4096

  /// Makes a field holding `text`, the cursor at its end.
  package init(_ text: String = "") {
    self.text = text
    self.cursor = text.count
  }

  /// Puts one character at the cursor; an accent joins the character before it.
  package mutating func insert(_ character: Character) {
    guard text.utf8.count < Self.capacity else { return }
    let before = String(text.prefix(cursor)) + String(character)
    text = before + String(text.dropFirst(cursor))
    cursor = min(before.count, text.count)
  }

  /// Removes the character before the cursor and says whether there was one.
  @discardableResult
  package mutating func backspace() -> Bool {
    guard cursor > 0 else { return false }
    cursor -= 1
    text.remove(at: index(cursor))
    cursor = min(cursor, text.count)
    return true
  }

  /// Removes the character under the cursor.
  package mutating func delete() {
    guard cursor < text.count else { return }
    text.remove(at: index(cursor))
    cursor = min(cursor, text.count)
  }

  /// Moves the cursor by some characters, staying inside the text.
  package mutating func move(by offset: Int) {
    cursor = min(max(0, cursor + offset), text.count)
  }

  /// Moves the cursor to the start.
  package mutating func moveToStart() { cursor = 0 }

  /// Moves the cursor to the end.
  package mutating func moveToEnd() { cursor = text.count }

  /// Removes everything before the cursor.
  package mutating func eraseToStart() {
    text.removeFirst(cursor)
    cursor = 0
  }

  /// Replaces the text and puts the cursor at its end.
  package mutating func replace(_ newText: String) {
    text = newText
    cursor = newText.count
  }

  private func index(_ offset: Int) -> String.Index {
    text.index(text.startIndex, offsetBy: offset)
  }
}
