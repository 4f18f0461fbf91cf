/// Regular files of a tar archive (POSIX ustar with pax headers, GNU long names), in archive order.
///
/// Header checksums and the end-of-archive marker are required, which detects truncated downloads;
/// links and devices are refused.
package struct TarArchive {
  /// One file.
  package struct Member {
    /// Its path inside the archive.
    package let name: String
    /// Byte range in the archive.
    package let range: Range<Int>
  }

  package let members: [Member]

  private static let blockSize = 512
  /// Maximum size of a pax header or GNU name in bytes.
  private static let extensionLimit = 1 << 20

  /// Reads all headers of an archive.
  ///
  /// - Throws: `FileError` for a damaged or truncated archive and for members other than files.
  package init(_ bytes: UnsafeRawBufferPointer, path: String) throws(FileError) {
    func damaged(_ reason: String, at position: Int) -> FileError {
      FileError("\(path): \(reason) at byte \(position); fetch or save the archive again")
    }
    var members: [Member] = []
    var (longName, longSize): (String?, Int?) = (nil, nil)
    var position = 0
    while true {
      guard position + Self.blockSize <= bytes.count else {
        throw damaged("the tar archive ends without its closing block", at: bytes.count)
      }
      let header = UnsafeRawBufferPointer(
        rebasing: bytes[position..<(position + Self.blockSize)])
      if header.allSatisfy({ $0 == 0 }) { break }
      guard Self.number(header[148..<156]) == Self.checksum(header) else {
        throw damaged("a tar header with a wrong checksum stands", at: position)
      }
      guard let ownSize = Self.number(header[124..<136]) else {
        throw damaged("a tar header without a size stands", at: position)
      }
      let kind = header[156]
      let isExtension = [UInt8(ascii: "x"), UInt8(ascii: "g"), UInt8(ascii: "L")].contains(kind)
      let size = isExtension ? ownSize : longSize ?? ownSize
      let start = position + Self.blockSize
      guard size >= 0, size <= bytes.count - start else {
        throw damaged("a tar member of \(size) bytes reaches beyond the end", at: position)
      }
      let content = UnsafeRawBufferPointer(rebasing: bytes[start..<(start + size)])
      guard !isExtension || size <= Self.extensionLimit else {
        throw damaged("a tar header of \(size) bytes stands", at: position)
      }
      switch kind {
      case UInt8(ascii: "x"):
        guard let records = Self.records(content) else {
          throw damaged("a malformed pax header stands", at: position)
        }
        longName = records["path"] ?? longName
        if let text = records["size"] {
          guard let value = Int(text), value >= 0 else {
            throw damaged("a malformed pax header stands", at: position)
          }
          longSize = value
        }
      case UInt8(ascii: "g"): break
      case UInt8(ascii: "L"): longName = Self.text(content)
      case 0, UInt8(ascii: "0"), UInt8(ascii: "5"):
        let name = longName ?? Self.name(header)
        if kind != UInt8(ascii: "5") {
          members.append(Member(name: name, range: start..<start + size))
        }
        (longName, longSize) = (nil, nil)
      default:
        let name = longName ?? Self.name(header)
        throw FileError(
          "\(path): member \(name.jsonQuoted) is a link or a device, expected plain files;"
            + " pack the files themselves")
      }
      position = start + (size + Self.blockSize - 1) / Self.blockSize * Self.blockSize
    }
    self.members = members
  }

  /// Path of a ustar header: prefix and name.
  private static func name(_ header: UnsafeRawBufferPointer) -> String {
    let name = text(header[0..<100])
    let isPosix = header[257..<263].elementsEqual([0x75, 0x73, 0x74, 0x61, 0x72, 0])
    let prefix = isPosix ? text(header[345..<500]) : ""
    return prefix.isEmpty ? name : "\(prefix)/\(name)"
  }

  private static func text(_ bytes: some Sequence<UInt8>) -> String {
    String(decoding: Array(bytes.prefix { $0 != 0 }), as: UTF8.self)
  }

  /// Parses an octal number padded with spaces and zeros, or a big-endian one marked by the top
  /// bit.
  private static func number(_ field: Slice<UnsafeRawBufferPointer>) -> Int? {
    guard let first = field.first else { return nil }
    if first == 0x80 {
      return field.dropFirst().reduce(Int?(0)) { total, byte in
        guard let total, total >> 54 == 0 else { return nil }
        return total << 8 | Int(byte)
      }
    }
    let digits = field.drop { $0 == 0x20 }.prefix { $0 != 0x20 && $0 != 0 }
    guard !digits.isEmpty, digits.allSatisfy({ (0x30...0x37).contains($0) }) else { return nil }
    return digits.reduce(0) { $0 << 3 | Int($1 - 0x30) }
  }

  /// Sum of the header bytes with the checksum field read as spaces.
  private static func checksum(_ header: UnsafeRawBufferPointer) -> Int {
    header.enumerated().reduce(0) { sum, byte in
      sum + ((148..<156).contains(byte.offset) ? 0x20 : Int(byte.element))
    }
  }

  /// Parses the records `length key=value` of a pax header.
  private static func records(_ bytes: UnsafeRawBufferPointer) -> [String: String]? {
    var result: [String: String] = [:]
    var rest = bytes[...]
    while !rest.isEmpty {
      let digits = rest.prefix { $0 != 0x20 }
      guard let length = Int(String(decoding: digits, as: UTF8.self)), length > digits.count + 1,
        length <= rest.count, rest[rest.startIndex + length - 1] == 0x0A
      else { return nil }
      let record = rest.prefix(length).dropFirst(digits.count + 1).dropLast()
      guard let equals = record.firstIndex(of: 0x3D) else { return nil }
      result[String(decoding: record[..<equals], as: UTF8.self)] =
        String(decoding: record[(equals + 1)...], as: UTF8.self)
      rest = rest.dropFirst(length)
    }
    return result
  }
}
