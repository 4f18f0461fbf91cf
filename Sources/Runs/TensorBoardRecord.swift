/// Record of a TensorBoard event file: an `Event` message in TFRecord framing.
///
/// Messages are defined in `tensorflow/core/util/event.proto` and
/// `tensorflow/core/framework/summary.proto`; only a few fields are written.
package struct TensorBoardRecord: Equatable, Sendable {
  /// Value of a step.
  package enum Value: Equatable, Sendable {
    /// A scalar.
    case scalar(tag: String, Double)
    /// A PNG image of three channels.
    case image(tag: String, png: [UInt8], width: Int, height: Int)
  }

  /// Framed bytes: length (8), its checksum (4), message, its checksum (4); little-endian.
  package let bytes: [UInt8]

  /// First record of every file.
  package static func fileVersion(time: Double) -> TensorBoardRecord {
    var event = ProtobufMessage()
    event.put(1, double: time)
    event.put(3, bytes: "brain.Event:2".utf8)
    return TensorBoardRecord(event)
  }

  /// Session start at a step, which makes readers discard that step and later ones.
  package static func sessionStart(step: Int, time: Double) -> TensorBoardRecord {
    var session = ProtobufMessage()
    session.put(1, varint: 1)
    var event = header(step: step, time: time)
    event.put(7, bytes: session.bytes)
    return TensorBoardRecord(event)
  }

  /// Values of a step.
  package static func summary(_ values: [Value], step: Int, time: Double) -> TensorBoardRecord {
    var summary = ProtobufMessage()
    for value in values { summary.put(1, bytes: message(value).bytes) }
    var event = header(step: step, time: time)
    event.put(5, bytes: summary.bytes)
    return TensorBoardRecord(event)
  }

  private static func header(step: Int, time: Double) -> ProtobufMessage {
    var event = ProtobufMessage()
    event.put(1, double: time)
    event.put(2, varint: UInt64(max(0, step)))
    return event
  }

  private static func message(_ value: Value) -> ProtobufMessage {
    var message = ProtobufMessage()
    switch value {
    case .scalar(let tag, let number):
      message.put(1, bytes: tag.utf8)
      message.put(2, float: Float(number))
    case .image(let tag, let png, let width, let height):
      var image = ProtobufMessage()
      image.put(1, varint: UInt64(height))
      image.put(2, varint: UInt64(width))
      image.put(3, varint: 3)
      image.put(4, bytes: png)
      message.put(1, bytes: tag.utf8)
      message.put(4, bytes: image.bytes)
    }
    return message
  }

  private init(_ event: ProtobufMessage) {
    let length = UInt64(event.bytes.count).littleEndianBytes
    bytes =
      length + CRC32C.masked(length).littleEndianBytes + event.bytes
      + CRC32C.masked(event.bytes).littleEndianBytes
  }
}

/// Protocol buffer message with fields in order of insertion.
struct ProtobufMessage {
  private(set) var bytes: [UInt8] = []

  /// Adds an integer or enumeration.
  mutating func put(_ field: Int, varint value: UInt64) {
    append(UInt64(field << 3))
    append(value)
  }

  /// Adds a 64-bit number.
  mutating func put(_ field: Int, double value: Double) {
    append(UInt64(field << 3 | 1))
    bytes += value.bitPattern.littleEndianBytes
  }

  /// Adds a string, bytes or another message.
  mutating func put(_ field: Int, bytes value: some Collection<UInt8>) {
    append(UInt64(field << 3 | 2))
    append(UInt64(value.count))
    bytes += value
  }

  /// Adds a 32-bit number.
  mutating func put(_ field: Int, float value: Float) {
    append(UInt64(field << 3 | 5))
    bytes += value.bitPattern.littleEndianBytes
  }

  /// Appends a varint: seven bits per byte, lowest first; the high bit marks continuation.
  private mutating func append(_ value: UInt64) {
    var rest = value
    while rest > 0x7f {
      bytes.append(UInt8(rest & 0x7f) | 0x80)
      rest >>= 7
    }
    bytes.append(UInt8(rest))
  }
}

/// CRC-32C (Castagnoli), the checksum of TFRecord files.
enum CRC32C {
  private static let table: [UInt32] = (0..<256).map { index in
    (0..<8).reduce(UInt32(index)) { value, _ in value >> 1 ^ (value & 1 == 1 ? 0x82f6_3b78 : 0) }
  }

  /// Computes the checksum of bytes.
  static func checksum(_ bytes: [UInt8]) -> UInt32 {
    ~bytes.reduce(~UInt32(0)) { $0 >> 8 ^ table[Int(UInt8(truncatingIfNeeded: $0) ^ $1)] }
  }

  /// Masked checksum as stored in TFRecord files.
  static func masked(_ bytes: [UInt8]) -> UInt32 {
    let value = checksum(bytes)
    return (value >> 15 | value << 17) &+ 0xa282_ead8
  }
}

extension FixedWidthInteger {
  /// Bytes in little-endian order.
  fileprivate var littleEndianBytes: [UInt8] {
    withUnsafeBytes(of: littleEndian) { Array($0) }
  }
}
