/// Read past the end of the bytes.
package struct EndOfBytes: Error {}

/// Bounds-checked sequential reader of little-endian values.
package struct ByteCursor {
  private let bytes: UnsafeRawBufferPointer
  /// Offset of the next unread byte.
  package private(set) var position: Int

  /// Starts at a position inside `bytes`, which must outlive the cursor.
  package init(_ bytes: UnsafeRawBufferPointer, at position: Int = 0) {
    self.bytes = bytes
    self.position = min(max(0, position), bytes.count)
  }

  /// Number of unread bytes.
  package var left: Int { bytes.count - position }

  /// Reads the next integer.
  package mutating func read<Number: FixedWidthInteger & BitwiseCopyable>(
    _ type: Number.Type
  ) throws(EndOfBytes) -> Number {
    guard left >= MemoryLayout<Number>.size else { throw EndOfBytes() }
    let value = bytes.loadUnaligned(fromByteOffset: position, as: Number.self)
    position += MemoryLayout<Number>.size
    return Number(littleEndian: value)
  }

  /// Reads the next `count` bytes.
  package mutating func take(_ count: Int) throws(EndOfBytes) -> UnsafeRawBufferPointer {
    guard count >= 0, count <= left else { throw EndOfBytes() }
    defer { position += count }
    return UnsafeRawBufferPointer(rebasing: bytes[position..<position + count])
  }

  /// Reads up to the next newline, which is skipped.
  package mutating func line(limit: Int) throws(EndOfBytes) -> UnsafeRawBufferPointer {
    let end = min(bytes.count, position + limit)
    guard let newline = bytes[position..<end].firstIndex(of: 0x0A) else { throw EndOfBytes() }
    let line = try take(newline - position)
    position += 1
    return line
  }
}
