import Files
import Foundation

/// Append-only file of JSON records, one per line.
struct LineLog {
  let path: String

  /// Appends one record with a single `write`.
  ///
  /// An incomplete last line of a killed writer is terminated first, so that it does not damage the
  /// new record.
  ///
  /// - Throws: `FileError` naming the file and the reason, for example a full disk.
  func append(_ record: some Encodable) throws {
    var line = [UInt8](try JSONEncoder.sorted().encode(record))
    line.append(UInt8(ascii: "\n"))
    let descriptor = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0o666)
    guard descriptor >= 0 else { throw failure(errno) }
    defer { close(descriptor) }
    if endsTorn(descriptor) { line.insert(UInt8(ascii: "\n"), at: 0) }
    var moved = write(descriptor, line, line.count)
    while moved < 0, errno == EINTR { moved = write(descriptor, line, line.count) }
    guard moved == line.count else { throw failure(moved < 0 ? errno : ENOSPC) }
  }

  /// Result of reading the file.
  struct Reading: Equatable {
    /// Number of skipped lines longer than `lineLimit` and of holes in a sparse file.
    var damaged = 0
    /// Whether all complete lines were read; false if the byte limit was reached.
    var isAtEnd = true
  }

  /// Maximum length of a line in bytes.
  static let lineLimit = 1 << 20

  /// Calls `body` with each complete line after `offset`, without its line end, in order.
  ///
  /// `offset` advances to the end of the last complete line; an incomplete line is read later. A
  /// file that is missing or not regular has no lines. Memory is bounded: lines longer than
  /// `lineLimit` and holes of that size in a sparse file are skipped.
  ///
  /// - Parameters:
  ///   - offset: Start offset.
  ///   - limit: Maximum number of bytes to read.
  ///   - body: Called with each line; the bytes are valid until it returns.
  /// - Returns: The number of skipped lines, and whether the end was reached.
  func read(
    after offset: inout UInt64, limit: Int = .max, _ body: (UnsafeRawBufferPointer) -> Void
  ) -> Reading {
    guard let file = try? RegularFile(path), UInt64(file.size) > offset else { return Reading() }
    let (descriptor, size) = (file.descriptor, UInt64(file.size))
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: Self.lineLimit, alignment: 16)
    defer { buffer.deallocate() }
    guard let base = buffer.baseAddress else { return Reading() }
    var reading = Reading()
    // Bytes of an incomplete line at the start of the buffer, which is at `offset` in the file.
    var kept = 0
    var isPassingOver = false
    var budget = limit
    while true {
      if let data = Self.dataAfter(offset + UInt64(kept), descriptor, size: size) {
        reading.damaged += isPassingOver ? 0 : 1
        (offset, kept, isPassingOver) = (data, 0, true)
      }
      let moved = pread(descriptor, base + kept, buffer.count - kept, off_t(offset) + off_t(kept))
      if moved < 0, errno == EINTR { continue }
      guard moved > 0 else { break }
      let filled = kept + moved
      var start = 0
      while let end = memchr(base + start, Int32(UInt8(ascii: "\n")), filled - start) {
        let length = UnsafeRawPointer(end) - UnsafeRawPointer(base + start)
        if !isPassingOver { body(UnsafeRawBufferPointer(start: base + start, count: length)) }
        isPassingOver = false
        start += length + 1
      }
      offset += UInt64(start)
      kept = filled - start
      if kept == buffer.count {
        reading.damaged += isPassingOver ? 0 : 1
        isPassingOver = true
      }
      if isPassingOver {
        offset += UInt64(kept)
        kept = 0
      } else if start > 0 {
        memmove(base, base + start, kept)
      }
      budget -= moved
      guard budget > 0 else {
        reading.isAtEnd = false
        break
      }
    }
    return withExtendedLifetime(file) { reading }
  }

  /// Offset of the next data after a hole of at least `lineLimit` bytes at `position`; nil if there
  /// is none or the file system does not support it.
  private static func dataAfter(_ position: UInt64, _ descriptor: Int32, size: UInt64) -> UInt64? {
    // SEEK_DATA of Linux's lseek(2).
    let found = lseek(descriptor, off_t(position), 3)
    let data = found >= 0 ? UInt64(found) : errno == ENXIO ? size : position
    return data >= position + UInt64(lineLimit) ? data : nil
  }

  private func endsTorn(_ descriptor: Int32) -> Bool {
    let size = lseek(descriptor, 0, SEEK_END)
    var last: UInt8 = 0
    return size > 0 && pread(descriptor, &last, 1, size - 1) == 1 && last != UInt8(ascii: "\n")
  }

  /// Error for a failed write; a record that does not fit is not written.
  func failure(_ code: Int32) -> FileError {
    guard code == ENOENT || code == ENOTDIR else { return .writing(path, errno: code) }
    return FileError("\(path): the run directory no longer exists; start the run again")
  }
}
