import Files
import Foundation

/// Note and tags that a user gave to a run; content of its `notes.json`.
package struct RunAnnotation: Equatable, Sendable {
  /// Version of the file format.
  static let formatVersion = 1
  /// Maximum length of a note in characters.
  package static let noteLimit = 2000
  /// Maximum number of tags of a run, and of characters of a tag.
  package static let (tagCountLimit, tagLimit) = (32, 40)

  /// One line of text; empty for none.
  package private(set) var note = ""
  /// Tags in alphabetical order.
  package private(set) var tags: [String] = []

  /// Makes an annotation without note and tags.
  package init() {}

  /// Whether there is neither note nor tag.
  package var isEmpty: Bool { note.isEmpty && tags.isEmpty }

  /// Replaces the note; empty text removes it.
  ///
  /// - Throws: `FileError` for more than one line or a text that is too long.
  package mutating func setNote(_ text: String) throws(FileError) {
    guard text.count <= Self.noteLimit, !text.contains(where: \.isNewline) else {
      throw FileError(
        "a note is one line of at most \(Self.noteLimit) characters, found \(text.count) in"
          + " \(text.split(whereSeparator: \.isNewline).count) lines; shorten it")
    }
    note = text
  }

  /// Adds tags, and removes others.
  ///
  /// - Throws: `FileError` for a text that is no tag, or too many tags; nothing is changed then.
  package mutating func setTags(
    adding added: [String], removing removed: [String] = []
  ) throws(FileError) {
    for tag in added where !Self.isTag(tag) {
      throw FileError(
        "\(tag.prefix(60).debugDescription) is no tag; expected 1 to \(Self.tagLimit) letters, digits,"
          + " '-', '_' or '.', not beginning with '-'")
    }
    let all = Set(tags).subtracting(removed).union(added)
    guard all.count <= Self.tagCountLimit else {
      throw FileError("a run has at most \(Self.tagCountLimit) tags, found \(all.count)")
    }
    tags = all.sorted()
  }

  /// Whether a text is a tag, which a filter can name without quotation marks.
  private static func isTag(_ text: String) -> Bool {
    (1...tagLimit).contains(text.count) && text.first != "-"
      && text.allSatisfy { $0.isLetter || $0.isNumber || "-_.".contains($0) }
  }
}

extension RunAnnotation: Codable {
  private enum CodingKeys: String, CodingKey {
    case version = "espalier_notes"
    case note, tags
  }

  /// Reads `{"espalier_notes": 1, "note": …, "tags": […]}`.
  package init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: CodingKeys.self)
    let version = try container.decode(Int.self, forKey: .version)
    do {
      guard version == Self.formatVersion else {
        throw FileError("expected version \(Self.formatVersion), found \(version)")
      }
      try setNote(container.decode(String.self, forKey: .note))
      try setTags(adding: container.decode([String].self, forKey: .tags))
    } catch let error as FileError {
      throw DecodingError.dataCorrupted(
        .init(codingPath: container.codingPath, debugDescription: "\(error)"))
    }
  }

  /// Writes the form that `init(from:)` reads.
  package func encode(to encoder: any Encoder) throws {
    var container = encoder.container(keyedBy: CodingKeys.self)
    try container.encode(Self.formatVersion, forKey: .version)
    try container.encode(note, forKey: .note)
    try container.encode(tags, forKey: .tags)
  }
}

extension RunDirectory {
  /// Note and tags of the run.
  package var notesPath: String { "\(path)/notes.json" }

  /// Reads note and tags; empty ones without a file.
  ///
  /// - Throws: `FileError` when the file cannot be read or is invalid.
  package func annotation() throws -> RunAnnotation {
    access(notesPath, F_OK) == 0 ? try read(notesPath) : RunAnnotation()
  }

  /// Changes note and tags atomically; changes of several processes follow each other.
  ///
  /// - Returns: The annotation as changed.
  /// - Throws: Errors of `change`; `FileError` for a run of another user, a damaged file, or when the
  ///   disk fails.
  @discardableResult
  package func annotate(_ change: (inout RunAnnotation) throws -> Void) throws -> RunAnnotation {
    try requireOwn()
    // The lock of the run is held by its worker.
    let lockPath = "\(path)/.notes.lock"
    for _ in 0..<200 {
      guard let lock = try FileLock.take(lockPath) else {
        usleep(5_000)
        continue
      }
      return try withExtendedLifetime(lock) {
        var annotation = try annotation()
        let before = annotation
        try change(&annotation)
        if annotation != before { try write(annotation, to: notesPath) }
        return annotation
      }
    }
    throw FileError("\(notesPath): another process is changing it; try again")
  }
}
