import CZlib
import Foundation

/// Memory-mapped ZIP archive, read by its central directory (APPNOTE 6.3 with ZIP64).
///
/// Members are stored or deflated; encrypted and multi-part archives are refused. The CRC-32 of a
/// member is checked when its content is first read.
package final class ZipArchive: @unchecked Sendable {
  /// One member.
  package struct Member {
    package let name: String
    package let isDeflated: Bool
    package let crc: UInt32
    /// Uncompressed size in bytes.
    package let size: Int
    /// Byte range of its stored or compressed data in the file.
    package let payload: Range<Int>
  }

  package let path: String
  /// The members in the order of the central directory.
  package let members: [Member]
  private let mapping: MappedFile
  private let indices: [String: Int]
  private let verified = NSLock()
  /// Members whose checksum was verified; guarded by the lock.
  private var isVerified: [Bool]

  /// Reads the central directory of a mapped file.
  ///
  /// - Throws: `FileError` for an archive that is truncated, damaged or unsupported.
  package init(_ mapping: MappedFile, path: String) throws(FileError) {
    let members: [Member]
    do throws(FormatFault) {
      members = try ZipDirectory.members(of: mapping.bytes)
    } catch {
      throw FileError("\(path): \(error.message); fetch or save the file again")
    }
    var indices: [String: Int] = [:]
    for (index, member) in members.enumerated() {
      guard indices.updateValue(index, forKey: member.name) == nil else {
        throw FileError(
          "\(path): the archive has two members \"\(member.name)\"; fetch or save the file again")
      }
    }
    self.path = path
    self.mapping = mapping
    self.members = members
    self.indices = indices
    isVerified = [Bool](repeating: false, count: members.count)
  }

  /// Size of the file in bytes.
  package var byteCount: Int { mapping.bytes.count }

  /// Index of the member called `name`, or nil.
  package func index(of name: String) -> Int? { indices[name] }

  /// Calls `body` with a member's content, decompressed and checked.
  ///
  /// - Throws: `FileError` when the content is damaged.
  package func withContent<Result>(
    _ index: Int, _ body: (UnsafeRawBufferPointer) -> Result
  ) throws(FileError) -> Result {
    let member = members[index]
    let raw = UnsafeRawBufferPointer(rebasing: mapping.bytes[member.payload])
    defer { withExtendedLifetime(mapping) {} }
    guard member.isDeflated else {
      if !verified.withLock({ isVerified[index] }) {
        try requireChecksum(raw, member)
        verified.withLock { isVerified[index] = true }
      }
      return body(raw)
    }
    guard member.size <= Self.inflatedLimit else {
      throw FileError(
        "\(path): member \"\(member.name)\" unpacks to \(member.size) bytes, expected at most"
          + " \(Self.inflatedLimit) compressed ones; save it without compression")
    }
    guard let content = Self.inflate(raw, limit: member.size), content.count == member.size else {
      throw FileError(
        "\(path): member \"\(member.name)\" does not decompress to its \(member.size) bytes;"
          + " the file is damaged, fetch or save it again")
    }
    return try content.withUnsafeBytes { bytes in
      Swift.Result { () throws(FileError) in
        try requireChecksum(bytes, member)
        return body(bytes)
      }
    }.get()
  }

  /// Returns at most the first `limit` bytes of a member's content, without verifying the checksum.
  package func prefix(_ index: Int, limit: Int) -> [UInt8]? {
    let member = members[index]
    let raw = UnsafeRawBufferPointer(rebasing: mapping.bytes[member.payload])
    defer { withExtendedLifetime(mapping) {} }
    if member.isDeflated { return Self.inflate(raw, limit: min(limit, member.size)) }
    return Array(raw.prefix(limit))
  }

  /// Maximum uncompressed size in bytes of a deflated member, which is decompressed into memory.
  private static let inflatedLimit = 1 << 28
  /// Maximum size in bytes of archives that are verified when they are opened.
  private static let eagerLimit = 64 << 20

  /// Verifies all members of a small archive; those of large ones are verified when they are read.
  ///
  /// - Throws: `FileError` that names the first damaged member.
  package func verifyIfSmall() throws(FileError) {
    var total = 0
    for member in members where total <= Self.eagerLimit {
      total += min(member.size, Self.eagerLimit + 1)
    }
    guard total <= Self.eagerLimit else { return }
    for index in members.indices { try withContent(index) { _ in } }
  }

  private func requireChecksum(_ bytes: UnsafeRawBufferPointer, _ member: Member)
    throws(FileError)
  {
    guard Self.crc32(bytes) != member.crc else { return }
    throw FileError(
      "\(path): member \"\(member.name)\" does not match its checksum (CRC-32);"
        + " the file is damaged, fetch or save it again")
  }

  /// Computes the CRC-32 of bytes, continuing from that of the preceding bytes.
  package static func crc32(_ bytes: UnsafeRawBufferPointer, from start: UInt32 = 0) -> UInt32 {
    guard let base = bytes.baseAddress else { return start }
    return UInt32(crc32_z(UInt(start), base.assumingMemoryBound(to: UInt8.self), bytes.count))
  }

  /// Inflates at most `limit` bytes of raw deflate data; nil if it is damaged.
  private static func inflate(_ raw: UnsafeRawBufferPointer, limit: Int) -> [UInt8]? {
    var stream = z_stream()
    guard cz_inflate_init_raw(&stream) == Z_OK else { return nil }
    defer { inflateEnd(&stream) }
    var isIntact = true
    let piece = Int(UInt32.max)
    let content = [UInt8](unsafeUninitializedCapacity: limit) { buffer, filled in
      var taken = 0
      while filled < limit {
        let given = min(piece, raw.count - taken)
        let room = min(piece, limit - filled)
        stream.next_in = raw.baseAddress.map {
          UnsafeMutableRawPointer(mutating: $0 + taken).assumingMemoryBound(to: UInt8.self)
        }
        stream.avail_in = UInt32(given)
        stream.next_out = buffer.baseAddress.map { $0 + filled }
        stream.avail_out = UInt32(room)
        let status = CZlib.inflate(&stream, Z_NO_FLUSH)
        let (used, made) = (given - Int(stream.avail_in), room - Int(stream.avail_out))
        taken += used
        filled += made
        if status == Z_STREAM_END { return }
        guard status == Z_OK, used + made > 0 else {
          isIntact = false
          return
        }
      }
    }
    return isIntact ? content : nil
  }
}
