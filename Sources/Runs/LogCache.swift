import Files
import Foundation

/// A file with what was read of a run's log up to an offset, so that no reader begins from the start again.
///
/// It belongs to one log, which it knows by bytes at its start and just before the offset, and carries a
/// digest of itself; one that is damaged, of another version, or of another log is ignored and made anew.
struct LogCache<Content: Codable & Sendable> {
  /// The file.
  let path: String
  /// The log that it is about.
  let logPath: String

  private struct Record: Codable {
    static var formatVersion: Int { 1 }

    /// Of all that follows it in the file; see `digest(_:)`.
    var digest = String(repeating: "0", count: digestLength)
    /// Digest of the bytes of the log that tell it from others.
    let log: String
    /// Bytes of the log that were read.
    let offset: UInt64
    let summary: Content
    var version = formatVersion
  }

  private static var digestLength: Int { 32 }
  /// What every file begins with: keys are sorted, so the digest comes first.
  private static var opening: String { #"{"digest":""# }

  /// What the file holds, and the offset up to which that covers the log; nil where it is of no use.
  func read() -> (content: Content, offset: UInt64)? {
    guard let bytes = try? AtomicFile.read(path, limit: 64 << 20),
      bytes.starts(with: Self.opening.utf8),
      bytes.dropFirst(Self.opening.utf8.count).prefix(Self.digestLength)
        .elementsEqual(Self.digest(bytes).utf8)
    else { return nil }
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    decoder.nonConformingFloatDecodingStrategy = .texts
    guard let record = try? decoder.decode(Record.self, from: Data(bytes)),
      record.version == Record.formatVersion, record.log == logDigest(upTo: record.offset)
    else { return nil }
    return (record.summary, record.offset)
  }

  /// Writes the file in one piece.
  ///
  /// - Throws: `CheckpointError` when it cannot be written.
  func write(_ content: Content, offset: UInt64) throws {
    guard let log = logDigest(upTo: offset) else { return }
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    encoder.keyEncodingStrategy = .convertToSnakeCase
    encoder.nonConformingFloatEncodingStrategy = .texts
    var bytes = [UInt8](
      try encoder.encode(Record(log: log, offset: offset, summary: content)))
    let start = Self.opening.utf8.count
    bytes.replaceSubrange(start..<start + Self.digestLength, with: Self.digest(bytes).utf8)
    try AtomicFile.write(Data(bytes), to: path, followingLinks: false)
  }

  /// A digest of what follows the digest in the file.
  private static func digest(_ bytes: [UInt8]) -> String {
    let rest = bytes.dropFirst(opening.utf8.count + digestLength)
    return String(ContentHash.sha256(Data(rest)).prefix(digestLength))
  }

  /// Tells a log from others by its beginning and by the end of what was read; nil for a log that is
  /// shorter than the offset, or missing.
  private func logDigest(upTo offset: UInt64) -> String? {
    guard let (descriptor, status) = RegularFile.open(logPath) else { return nil }
    defer { close(descriptor) }
    guard offset <= UInt64(status.st_size) else { return nil }
    let count = Int(min(offset, 512))
    let ends =
      RegularFile.bytes(descriptor, from: 0, count: count)
      + RegularFile.bytes(descriptor, from: offset - UInt64(count), count: count)
    return String(ContentHash.sha256(Data(ends)).prefix(Self.digestLength))
  }
}

extension JSONEncoder.NonConformingFloatEncodingStrategy {
  /// Numbers that JSON lacks as the texts `nan`, `inf` and `-inf`.
  package static var texts: Self {
    .convertToString(positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
  }
}

extension JSONDecoder.NonConformingFloatDecodingStrategy {
  /// The same texts as numbers.
  package static var texts: Self {
    .convertFromString(positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
  }
}
