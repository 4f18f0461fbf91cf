import Files
import Foundation
import TestSupport
import Testing

/// What is kept of files' digests, and when they are read again.
@Suite struct DigestCacheTests {
  private let scratch: Scratch
  private let folder: String

  init() throws {
    scratch = try Scratch()
    folder = scratch.file("data")
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
  }

  private func put(_ text: String, _ name: String) throws {
    try Data(text.utf8).write(to: URL(fileURLWithPath: "\(folder)/\(name)"))
  }

  /// The digests of the files, and how many of them had to be read.
  private func digests(
    _ names: [String], unreadable: String? = nil, smallestKept: Int = 1
  ) throws -> ([String], read: Int) {
    var cache = DigestCache(of: folder, in: scratch.path, smallestKept: smallestKept)
    var read = 0
    let found = try cache.digests(of: names, unreadable: unreadable) { _ in read += 1 }
    return (found, read)
  }

  private func kept() throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: scratch.path)
      .filter { $0.hasPrefix("digests-") }
  }

  @Test func readsSettledFilesOnce() throws {
    try put("one", "a")
    try put("two", "b")
    let wanted = ["one", "two"].map { ContentHash.sha256(Data($0.utf8)) }
    // Changed a moment ago: another change could bear the same time.
    #expect(try digests(["a", "b"]) == (wanted, 2))
    #expect(try kept().isEmpty)
    Thread.sleep(forTimeInterval: 4.1)
    #expect(try digests(["a", "b"], smallestKept: 7) == (wanted, 2))
    #expect(try kept().isEmpty, "too small to be kept")
    #expect(try digests(["a", "b"]) == (wanted, 2))
    #expect(try kept().count == 1)
    #expect(try digests(["b", "a"]) == (wanted.reversed(), 0))

    // Other bytes of the same number, with the old time of modification.
    let url = URL(fileURLWithPath: "\(folder)/a")
    let time = try FileManager.default.attributesOfItem(atPath: url.path)[.modificationDate]
    try put("One", "a")
    try FileManager.default.setAttributes([.modificationDate: time as Any], ofItemAtPath: url.path)
    let changed = [ContentHash.sha256(Data("One".utf8)), wanted[1]]
    #expect(try digests(["a", "b"]) == (changed, 1))

    // What is kept may be damaged.
    try Data("\u{0}nonsense\n\n\t\t\t\n".utf8).write(
      to: URL(fileURLWithPath: "\(scratch.path)/\(try kept()[0])"))
    #expect(try digests(["a", "b"]) == (changed, 2))
  }

  @Test func unreadableFiles() throws {
    try put("one", "a")
    #expect(throws: FileError.self) { try digests(["a", "gone"]) }
    let (found, _) = try digests(["a", "gone"], unreadable: "-")
    #expect(found == [ContentHash.sha256(Data("one".utf8)), "-"])
  }

  @Test func severalFoldersAndNone() throws {
    try put("one", "a")
    try put("two", "b")
    let other = try scratch.put("three".utf8)
    let paths = ["\(folder)/a", other, "\(folder)/b"]
    let plain = try ContentHash.sha256(paths: paths)
    #expect(try ContentHash.sha256(paths: paths, keptIn: scratch.path) == plain)
    #expect(try ContentHash.sha256(paths: paths, keptIn: nil) == plain)
    #expect(
      try ContentHash.sha256(paths: [other], keptIn: nil) == ContentHash.sha256(path: other))
  }
}
