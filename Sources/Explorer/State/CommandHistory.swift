import Files
import Foundation

/// The command lines, or the prompts of previews, that were typed, oldest first, kept between the explorer's starts.
package struct CommandHistory: Equatable, Sendable {
  /// The lines.
  package private(set) var lines: [String]
  /// The file that keeps them; nil for none.
  package let path: String?

  /// Most lines that are kept.
  private static let capacity = 500

  /// Makes a history of lines.
  package init(lines: [String] = [], path: String? = nil) {
    (self.lines, self.path) = (lines, path)
  }

  /// Reads the lines of a file, none if it cannot be read: a history is no reason not to start.
  package init(path: String) {
    let bytes = (try? AtomicFile.read(path, limit: 1 << 20)) ?? []
    let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n").map(String.init)
    self.init(lines: Array(lines.suffix(Self.capacity)), path: path)
  }

  /// The file of the commands, or of the prompts, in the directory of what programs keep.
  package static func path(
    environment: [String: String] = ProcessInfo.processInfo.environment, ofPrompts: Bool = false
  ) -> String {
    UserDirectory.state.path(environment: environment) + (ofPrompts ? "/prompts" : "/commands")
  }

  /// Adds a line; the same line earlier on goes.
  package mutating func add(_ line: String) {
    lines.removeAll { $0 == line }
    lines = (lines + [line]).suffix(Self.capacity)
  }

  /// Adds a line to a file, with what other explorers have added meanwhile.
  ///
  /// - Throws: `FileError` if the file cannot be written.
  static func keep(_ line: String, at path: String) throws(FileError) {
    var history = CommandHistory(path: path)
    history.add(line)
    try AtomicFile.makeDirectory(AtomicFile.directory(of: path))
    try AtomicFile.write(
      Data(history.lines.map { $0 + "\n" }.joined().utf8), to: path, permissions: 0o600)
  }

  /// The line before or after a place that begins with a text, and its place; the end stands for what is being typed.
  func line(from place: Int, by step: Int, beginning text: String) -> (place: Int, line: String?)? {
    var place = place + step
    while lines.indices.contains(place) {
      if lines[place].hasPrefix(text) { return (place, lines[place]) }
      place += step
    }
    return place >= lines.count && step > 0 ? (lines.count, nil) : nil
  }
}
