/// Parser of the central directory of a ZIP archive.
enum ZipDirectory {
  static let truncated = FormatFault(
    message: "the ZIP archive is truncated or damaged (its directory is incomplete)")
  private static let endSize = 22
  /// Maximum number of members; PyTorch writes one per tensor and a few more.
  private static let countLimit = 1 << 18

  /// Returns all members with payload ranges inside `bytes`; folders are skipped.
  static func members(of bytes: UnsafeRawBufferPointer) throws(FormatFault) -> [ZipArchive.Member] {
    do {
      let (count, directory) = try end(bytes)
      var cursor = ByteCursor(
        UnsafeRawBufferPointer(rebasing: bytes[..<directory.upperBound]),
        at: directory.lowerBound)
      var members: [ZipArchive.Member] = []
      for _ in 0..<count {
        if let member = try member(&cursor, bytes) { members.append(member) }
      }
      return members
    } catch let fault as FormatFault {
      throw fault
    } catch {
      throw truncated
    }
  }

  /// Returns the number of entries and the byte range of the central directory.
  private static func end(_ bytes: UnsafeRawBufferPointer) throws -> (Int, Range<Int>) {
    guard bytes.count >= endSize else { throw truncated }
    // The record may be followed by a comment of up to 65535 bytes, which must end at the end of
    // file.
    var position = bytes.count - endSize
    let first = max(0, position - 65535)
    while true {
      var cursor = ByteCursor(bytes, at: position)
      if try cursor.read(UInt32.self) == 0x0605_4b50 {
        var tail = ByteCursor(bytes, at: position + 20)
        if Int(try tail.read(UInt16.self)) == tail.left { break }
      }
      position -= 1
      guard position >= first else {
        throw FormatFault(
          message: "the ZIP archive has no end record, so it is truncated or damaged")
      }
    }
    var cursor = ByteCursor(bytes, at: position + 4)
    var disks = [Int(try cursor.read(UInt16.self)), Int(try cursor.read(UInt16.self))]
    let here = UInt64(try cursor.read(UInt16.self))
    var count = UInt64(try cursor.read(UInt16.self))
    var size = UInt64(try cursor.read(UInt32.self))
    var offset = UInt64(try cursor.read(UInt32.self))
    var limit = position
    if disks.contains(0xFFFF) || here == 0xFFFF || count == 0xFFFF || size == 0xFFFF_FFFF
      || offset == 0xFFFF_FFFF
    {
      guard position >= 20 else { throw truncated }
      var locator = ByteCursor(bytes, at: position - 20)
      guard try locator.read(UInt32.self) == 0x0706_4b50 else { throw truncated }
      _ = try locator.read(UInt32.self)
      guard let record = Int(exactly: try locator.read(UInt64.self)), record < position - 20 else {
        throw truncated
      }
      var wide = ByteCursor(bytes, at: record)
      guard try wide.read(UInt32.self) == 0x0606_4b50 else { throw truncated }
      _ = try wide.take(12)
      disks = [Int(try wide.read(UInt32.self)), Int(try wide.read(UInt32.self))]
      _ = try wide.read(UInt64.self)
      count = try wide.read(UInt64.self)
      size = try wide.read(UInt64.self)
      offset = try wide.read(UInt64.self)
      limit = record
    }
    guard disks == [0, 0] else {
      throw FormatFault(message: "the ZIP archive is split over several files, expected one")
    }
    guard count <= countLimit else {
      throw FormatFault(
        message: "the ZIP archive states \(count) members, expected at most \(countLimit)")
    }
    guard offset <= UInt64(limit), size <= UInt64(limit) - offset, count <= size / 46 else {
      throw truncated
    }
    return (Int(count), Int(offset)..<Int(offset + size))
  }

  /// Reads the entry at the cursor; nil for a folder.
  private static func member(
    _ cursor: inout ByteCursor, _ bytes: UnsafeRawBufferPointer
  ) throws -> ZipArchive.Member? {
    guard try cursor.read(UInt32.self) == 0x0201_4b50 else { throw truncated }
    _ = try cursor.take(4)
    let flags = try cursor.read(UInt16.self)
    let method = try cursor.read(UInt16.self)
    _ = try cursor.take(4)
    let crc = try cursor.read(UInt32.self)
    var compressed = UInt64(try cursor.read(UInt32.self))
    var size = UInt64(try cursor.read(UInt32.self))
    let nameLength = Int(try cursor.read(UInt16.self))
    let extraLength = Int(try cursor.read(UInt16.self))
    let commentLength = Int(try cursor.read(UInt16.self))
    _ = try cursor.take(8)
    var offset = UInt64(try cursor.read(UInt32.self))
    let nameBytes = try cursor.take(nameLength)
    let extra = try cursor.take(extraLength)
    _ = try cursor.take(commentLength)
    guard let name = String(validating: nameBytes, as: UTF8.self) else {
      throw FormatFault(message: "a member name of the ZIP archive is no UTF-8 text")
    }
    try widen(&size, &compressed, &offset, extra)
    guard flags & 1 == 0 else {
      throw FormatFault(message: "member \"\(name)\" of the ZIP archive is encrypted")
    }
    guard method == 0 || method == 8 else {
      throw FormatFault(
        message: "member \"\(name)\" of the ZIP archive has compression method \(method), expected"
          + " 0 (stored) or 8 (deflated)")
    }
    if name.hasSuffix("/") { return nil }
    let payload = try payload(name, at: offset, count: compressed, bytes)
    // The compression ratio of deflate is at most about 1032.
    guard method == 0 ? size == compressed : size / 1032 <= compressed,
      let size = Int(exactly: size)
    else {
      throw FormatFault(
        message: "member \"\(name)\" of the ZIP archive states \(size) bytes for the"
          + " \(compressed) it has")
    }
    return ZipArchive.Member(
      name: name, isDeflated: method == 8, crc: crc, size: size, payload: payload)
  }

  /// Replaces fields of all ones by those of the ZIP64 extra field.
  private static func widen(
    _ size: inout UInt64, _ compressed: inout UInt64, _ offset: inout UInt64,
    _ extra: UnsafeRawBufferPointer
  ) throws {
    let ones: UInt64 = 0xFFFF_FFFF
    guard size == ones || compressed == ones || offset == ones else { return }
    var cursor = ByteCursor(extra)
    while cursor.left >= 4 {
      let id = try cursor.read(UInt16.self)
      var field = ByteCursor(try cursor.take(Int(try cursor.read(UInt16.self))))
      guard id == 1 else { continue }
      if size == ones { size = try field.read(UInt64.self) }
      if compressed == ones { compressed = try field.read(UInt64.self) }
      if offset == ones { offset = try field.read(UInt64.self) }
      return
    }
  }

  /// Returns the byte range of a member's data, after the local header with its name and extra
  /// field.
  private static func payload(
    _ name: String, at offset: UInt64, count: UInt64, _ bytes: UnsafeRawBufferPointer
  ) throws -> Range<Int> {
    guard offset < UInt64(bytes.count), count <= UInt64(bytes.count) else {
      throw truncated
    }
    var cursor = ByteCursor(bytes, at: Int(offset))
    guard try cursor.read(UInt32.self) == 0x0403_4b50 else {
      throw FormatFault(
        message: "member \"\(name)\" of the ZIP archive does not start where it should")
    }
    _ = try cursor.take(22)
    let nameLength = Int(try cursor.read(UInt16.self))
    let extraLength = Int(try cursor.read(UInt16.self))
    _ = try cursor.take(nameLength + extraLength)
    let start = cursor.position
    _ = try cursor.take(Int(count))
    return start..<cursor.position
  }
}
