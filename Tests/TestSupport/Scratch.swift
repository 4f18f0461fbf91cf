import Foundation

/// A temporary directory that goes when the object does.
package final class Scratch: Sendable {
  /// The directory.
  package let path: String

  /// Makes the directory.
  package init() throws {
    path = NSTemporaryDirectory() + "espalier-tests-" + UUID().uuidString
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  }

  deinit {
    try? FileManager.default.removeItem(atPath: path)
  }

  /// One for tests that need no own; it goes with the process.
  package static let kept: Scratch = {
    guard let scratch = try? Scratch() else { preconditionFailure("no temporary directory") }
    return scratch
  }()

  /// The path of a file inside.
  package func file(_ name: String) -> String { "\(path)/\(name)" }

  /// Puts bytes into a file inside and gives its path.
  package func put(_ bytes: some Sequence<UInt8>, _ name: String = "x") throws -> String {
    // Not through Data, which syncs every file to the disk.
    let descriptor = open(file(name), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0o644)
    defer { close(descriptor) }
    let array = Array(bytes)
    guard descriptor >= 0, write(descriptor, array, array.count) == array.count else {
      throw CocoaError(.fileWriteUnknown)
    }
    return file(name)
  }

  /// Everything inside, hidden files too.
  package func listing() throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: path).sorted()
  }
}
