import Files
import Foundation

/// Cache file of the content read from a run's log up to an offset.
///
/// The log is identified by its first bytes and those before the offset, and the cache has a digest
/// of itself; a cache that is damaged, of another version, or of another log is ignored and
/// replaced.
struct LogCache<Content: Codable & Sendable> {
  /// The file.
  let path: String
  /// Path of the log.
  let logPath: String

  private struct Record: Codable {
    static var formatVersion: Int { 1 }

    /// Digest of the rest of the file, see `digest(_:)`.
    var digest = String(repeating: "0", count: digestLength)
    /// Digest of the bytes that identify the log.
    let log: String
    /// Offset up to which the log was read.
    let offset: UInt64
    let summary: Content
    var version = formatVersion
  }

  private static var digestLength: Int { 32 }
  /// Start of every file; keys are sorted, so the digest comes first.
  private static var opening: String { #"{"digest":""# }

  /// Reads the content and the offset up to which it covers the log; nil if it is invalid.
  func read() -> (content: Content, offset: UInt64)? {
    guard let bytes = try? AtomicFile.read(path, limit: 64 << 20),
      bytes.starts(with: Self.opening.utf8),
      bytes.dropFirst(Self.opening.utf8.count).prefix(Self.digestLength)
        .elementsEqual(Self.digest(bytes).utf8)
    else { return nil }
    guard let record = try? JSONDecoder.snakeCase.decode(Record.self, from: Data(bytes)),
      record.version == Record.formatVersion, record.log == logDigest(upTo: record.offset)
    else { return nil }
    return (record.summary, record.offset)
  }

  /// Writes the file atomically.
  ///
  /// - Throws: `FileError` when it cannot be written.
  func write(_ content: Content, offset: UInt64) throws {
    guard let log = logDigest(upTo: offset) else { return }
    var bytes = [UInt8](
      try JSONEncoder.sorted(snakeCase: true)
        .encode(Record(log: log, offset: offset, summary: content)))
    let start = Self.opening.utf8.count
    bytes.replaceSubrange(start..<start + Self.digestLength, with: Self.digest(bytes).utf8)
    try AtomicFile.write(Data(bytes), to: path, followingLinks: false)
  }

  /// Digest of the bytes after the digest in the file.
  private static func digest(_ bytes: [UInt8]) -> String {
    let rest = bytes.dropFirst(opening.utf8.count + digestLength)
    return String(ContentHash.sha256(Data(rest)).prefix(digestLength))
  }

  /// Identifies a log by its first bytes and those before the offset; nil if it is missing or
  /// shorter than the offset.
  private func logDigest(upTo offset: UInt64) -> String? {
    guard let file = try? RegularFile(logPath), offset <= UInt64(file.size) else { return nil }
    let count = Int(min(offset, 512))
    guard let first = try? file.bytes(count: count),
      let last = try? file.bytes(from: Int(offset) - count, count: count)
    else { return nil }
    let ends = first + last
    return String(ContentHash.sha256(Data(ends)).prefix(Self.digestLength))
  }
}
