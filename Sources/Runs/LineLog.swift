import Foundation

/// A file of JSON records, one a line, that grows by whole lines only.
struct LineLog {
  let path: String

  /// Appends one record with a single `write`.
  ///
  /// A last line that a dead writer left torn is closed first, so that it spoils no other record.
  ///
  /// - Throws: `RunError` naming the file and the reason, for example a full disk.
  func append(_ record: some Encodable) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    encoder.nonConformingFloatEncodingStrategy = .convertToString(
      positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
    var line = [UInt8](try encoder.encode(record))
    line.append(UInt8(ascii: "\n"))
    let descriptor = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0o666)
    guard descriptor >= 0 else { throw failure(errno) }
    defer { close(descriptor) }
    if endsTorn(descriptor) { line.insert(UInt8(ascii: "\n"), at: 0) }
    var moved = write(descriptor, line, line.count)
    while moved < 0, errno == EINTR { moved = write(descriptor, line, line.count) }
    guard moved == line.count else { throw failure(moved < 0 ? errno : ENOSPC) }
  }

  /// The complete lines after `offset` that `Record` understands, in order; others are skipped.
  ///
  /// `offset` moves behind the last complete line. A line without its end is "not yet". A file that
  /// is missing has no lines.
  func read<Record: Decodable>(_ type: Record.Type, after offset: inout UInt64) -> [Record] {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else { return [] }
    defer { close(descriptor) }
    let decoder = JSONDecoder()
    decoder.nonConformingFloatDecodingStrategy = .convertFromString(
      positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
    let bytes = rest(descriptor, from: offset)
    guard let end = bytes.lastIndex(of: UInt8(ascii: "\n")) else { return [] }
    offset += UInt64(end + 1)
    return bytes[..<end].split(separator: UInt8(ascii: "\n")).compactMap { line in
      try? decoder.decode(type, from: Data(line))
    }
  }

  private func rest(_ descriptor: Int32, from offset: UInt64) -> [UInt8] {
    var status = stat()
    guard fstat(descriptor, &status) == 0, UInt64(status.st_size) > offset else { return [] }
    var bytes = [UInt8](repeating: 0, count: Int(UInt64(status.st_size) - offset))
    var done = 0
    while done < bytes.count {
      let count = bytes.count - done
      let moved = bytes.withUnsafeMutableBytes { buffer in
        pread(descriptor, buffer.baseAddress.map { $0 + done }, count, off_t(offset) + off_t(done))
      }
      if moved > 0 {
        done += moved
      } else if moved == 0 || errno != EINTR {
        break
      }
    }
    return Array(bytes[..<done])
  }

  private func endsTorn(_ descriptor: Int32) -> Bool {
    let size = lseek(descriptor, 0, SEEK_END)
    var last: UInt8 = 0
    return size > 0 && pread(descriptor, &last, 1, size - 1) == 1 && last != UInt8(ascii: "\n")
  }

  /// Why the file cannot be written.
  func failure(_ code: Int32) -> RunError {
    switch code {
    case ENOENT, ENOTDIR:
      RunError("\(path): the run directory is gone; start the run again")
    case ENOSPC, EDQUOT:
      RunError(
        "\(path): the disk is full, the record was not written; free some space", isDiskFull: true)
    case EFBIG:
      RunError("\(path): the file size limit is reached; raise `ulimit -f`")
    case EACCES, EPERM, EROFS:
      RunError("\(path): cannot be written (read-only); change its permissions")
    default:
      RunError("\(path): cannot be written (\(String(cString: strerror(code)))); check the disk")
    }
  }
}
