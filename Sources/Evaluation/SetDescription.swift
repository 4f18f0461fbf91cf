import Files
import Foundation

/// File beside an archive of images that says how they were drawn.
package enum SetDescription {
  /// Path of the description of an archive.
  package static func path(beside images: String) -> String { "\(images).json" }

  /// Writes a description.
  ///
  /// - Throws: `FileError` if the file cannot be written.
  package static func write(_ entries: [String: String], beside images: String) throws {
    let lines = try JSONEncoder.sorted(isPretty: true).encode(entries)
    try AtomicFile.write(lines + Data("\n".utf8), to: path(beside: images))
  }

  /// Writes a description, unless images that were drawn in the same way are there already.
  ///
  /// - Throws: `FileError` that names what differs from them.
  package static func claim(_ entries: [String: String], beside images: String) throws {
    guard let known = read(beside: images) else { return try write(entries, beside: images) }
    let differing = Set(known.keys).union(entries.keys)
      .filter { $0 != "program" && known[$0] != entries[$0] }
    guard differing.isEmpty else {
      throw FileError(
        "\(path(beside: images)): \(images) has images that were drawn with another"
          + " \(differing.sorted().joined(separator: ", ").replacing("_", with: " ")); name another folder, or"
          + " remove both")
    }
  }

  /// Reads the description of images; nil if there is none.
  package static func read(beside images: String) -> [String: String]? {
    guard let text = try? AtomicFile.read(path(beside: images), limit: 1 << 20) else { return nil }
    return try? JSONDecoder().decode([String: String].self, from: Data(text))
  }
}
