/// Sequential writer of stored members and the central directory (APPNOTE 6.3).
///
/// Sizes are known in advance; checksums follow the data in a descriptor, as in PyTorch's writer.
/// ZIP64 records are written where a size or an offset requires them.
package struct ZipWriter {
  private struct Entry {
    let name: [UInt8]
    let crc: UInt32
    let size: Int
    let offset: Int
  }

  private let sink: FileSink
  /// Threshold of sizes and offsets for ZIP64 fields.
  private let limit: Int
  private var position = 0
  private var entries: [Entry] = []

  /// Maximum of a 32-bit field, which marks a value stored in a ZIP64 field.
  package static let standardLimit = 0xFFFF_FFFF

  /// Makes a writer to an empty file; a lower `limit` forces ZIP64 records.
  package init(_ sink: FileSink, limit: Int = standardLimit) {
    self.sink = sink
    self.limit = limit
  }

  /// Writes a member of exactly `size` bytes produced by `body` in chunks.
  ///
  /// - Throws: `FileError` as the file sink and `body` do.
  package mutating func member(
    _ name: String, size: Int, alignment: Int = 1,
    _ body: ((UnsafeRawBufferPointer) throws(FileError) -> Void) throws(FileError) ->
      Void
  ) throws(FileError) {
    let offset = position
    let isWide = size >= limit
    try append(localHeader(Array(name.utf8), size: size, isWide: isWide, alignment: alignment))
    var (crc, written): (UInt32, Int) = (0, 0)
    try body { bytes throws(FileError) in
      crc = ZipArchive.crc32(bytes, from: crc)
      written += bytes.count
      try sink.append(bytes)
    }
    precondition(written == size, "\(name): \(written) bytes, announced \(size)")
    position += size
    try append(
      Self.number(0x0807_4b50, 4) + Self.number(Int(crc), 4)
        + (isWide
          ? Self.number(size, 8) + Self.number(size, 8)
          : Self.number(size, 4) + Self.number(size, 4)))
    entries.append(Entry(name: Array(name.utf8), crc: crc, size: size, offset: offset))
  }

  /// Writes a member from memory.
  ///
  /// - Throws: `FileError` as the file sink does.
  package mutating func member(_ name: String, _ bytes: [UInt8], alignment: Int = 1)
    throws(FileError)
  {
    try member(name, size: bytes.count, alignment: alignment) { sink throws(FileError) in
      try bytes.withUnsafeBytes { bytes in
        Result { () throws(FileError) in try sink(bytes) }
      }.get()
    }
  }

  /// Writes the central directory; nothing may follow.
  ///
  /// - Throws: `FileError` as the file sink does.
  package mutating func finish() throws(FileError) {
    let start = position
    for entry in entries { try append(centralHeader(entry)) }
    let size = position - start
    if start >= limit || size >= limit || entries.count >= 0xFFFF {
      let record = position
      var wide = Self.number(0x0606_4b50, 4) + Self.number(44, 8) + Self.number(45, 2)
      wide += Self.number(45, 2) + Self.number(0, 8) + Self.number(entries.count, 8)
      wide += Self.number(entries.count, 8) + Self.number(size, 8) + Self.number(start, 8)
      wide += Self.number(0x0706_4b50, 4) + Self.number(0, 4) + Self.number(record, 8)
      try append(wide + Self.number(1, 4))
    }
    let count = min(entries.count, 0xFFFF)
    var end = Self.number(0x0605_4b50, 4) + Self.number(0, 4) + Self.number(count, 2)
    end += Self.number(count, 2) + Self.number(narrow(size), 4)
    end += Self.number(narrow(start), 4) + Self.number(0, 2)
    try append(end)
  }

  /// General purpose flags: data descriptor, UTF-8 names.
  private static let flags = 0x0808
  /// Fixed date, 1 January 1980, for reproducible bytes.
  private static let date = 0x21

  private func localHeader(_ name: [UInt8], size: Int, isWide: Bool, alignment: Int) -> [UInt8] {
    var extra: [UInt8] = []
    if isWide {
      extra += Self.number(1, 2) + Self.number(16, 2) + Self.number(size, 8) + Self.number(size, 8)
    }
    let start = position + 30 + name.count + extra.count
    if start % alignment != 0 {
      // PyTorch's padding record ("FB"): four bytes of header and the filler.
      let filler = (alignment - (start + 4) % alignment) % alignment
      extra += Array("FB".utf8) + Self.number(filler, 2)
      extra += [UInt8](repeating: UInt8(ascii: "Z"), count: filler)
    }
    let field = isWide ? Self.standardLimit : 0
    var header = Self.number(0x0403_4b50, 4) + Self.number(isWide ? 45 : 20, 2)
    header += Self.number(Self.flags, 2) + Self.number(0, 2) + Self.number(0, 2)
    header += Self.number(Self.date, 2) + Self.number(0, 4) + Self.number(field, 4)
    header += Self.number(field, 4) + Self.number(name.count, 2) + Self.number(extra.count, 2)
    return header + name + extra
  }

  /// The value, or the marker for a ZIP64 field.
  private func narrow(_ value: Int) -> Int { value >= limit ? Self.standardLimit : value }

  private func centralHeader(_ entry: Entry) -> [UInt8] {
    func number(_ value: Int, _ size: Int) -> [UInt8] { Self.number(value, size) }
    var extra: [UInt8] = []
    if entry.size >= limit { extra += number(entry.size, 8) + number(entry.size, 8) }
    if entry.offset >= limit { extra += number(entry.offset, 8) }
    if !extra.isEmpty { extra = number(1, 2) + number(extra.count, 2) + extra }
    let version = extra.isEmpty ? 20 : 45
    let size = narrow(entry.size)
    var header = number(0x0201_4b50, 4) + number(version, 2) + number(version, 2)
    header += number(Self.flags, 2) + number(0, 2) + number(0, 2) + number(Self.date, 2)
    header += number(Int(entry.crc), 4) + number(size, 4) + number(size, 4)
    header += number(entry.name.count, 2) + number(extra.count, 2) + number(0, 2) + number(0, 2)
    header += number(0, 2) + number(0, 4) + number(narrow(entry.offset), 4)
    return header + entry.name + extra
  }

  private mutating func append(_ bytes: [UInt8]) throws(FileError) {
    try sink.append(bytes)
    position += bytes.count
  }

  private static func number(_ value: Int, _ size: Int) -> [UInt8] {
    (0..<size).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
  }
}
