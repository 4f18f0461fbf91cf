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

  /// Reads the description of images; nil if there is none.
  package static func read(beside images: String) -> [String: String]? {
    guard let text = try? AtomicFile.read(path(beside: images), limit: 1 << 20) else { return nil }
    return try? JSONDecoder().decode([String: String].self, from: Data(text))
  }
}
