import Files

/// Constants of a frozen TensorFlow graph, a serialised `GraphDef` (tensorflow/core/framework `graph.proto`,
/// `node_def.proto`, `attr_value.proto`, `tensor.proto`).
///
/// Only constants are read; other nodes are skipped, and nothing is executed.
package final class FrozenGraph: TensorFile, @unchecked Sendable {
  package let path: String
  package let format = "frozen TensorFlow graph"
  package let names: [String]
  private let mapping: MappedFile
  private let contents: [Content]
  private let entries: [String: TensorEntry]

  /// Elements of a constant.
  private enum Content {
    /// In the file.
    case mapped(Range<Int>)
    /// Listed one by one.
    case values([Float])
  }

  /// A constant as a tensor of another name, with its axes in another order.
  package struct Alias: Sendable {
    package let node: String
    /// The constant's axis for each axis of the tensor.
    package let axes: [Int]

    package init(_ node: String, axes: [Int]) { (self.node, self.axes) = (node, axes) }
  }

  private static let (mostNodes, longestName, mostAxes) = (1 << 20, 4096, 8)
  /// Elements for which one listed value may stand.
  private static let mostRepeats = 4096

  /// Reads a graph.
  ///
  /// - Throws: `FileError` that says what is wrong with the file.
  init(_ mapping: MappedFile, path: String) throws(FileError) {
    var (names, contents, entries) = ([String](), [Content](), [String: TensorEntry]())
    do throws(FormatFault) {
      var graph = ProtocolBuffer(mapping.bytes)
      var nodes = 0
      while let field = try graph.next() {
        // GraphDef.node
        guard field.number == 1, let bytes = field.bytes else { continue }
        nodes += 1
        guard nodes <= Self.mostNodes else { throw FormatFault(message: "has too many nodes") }
        guard let constant = try Self.constant(bytes, in: mapping.bytes) else { continue }
        guard entries[constant.name] == nil else {
          throw FormatFault(message: "names two constants \(constant.name.jsonQuoted)")
        }
        names.append(constant.name)
        contents.append(constant.content)
        entries[constant.name] = TensorEntry(
          name: constant.name, dtype: constant.dtype, shape: constant.shape,
          strides: constant.isRepeated ? constant.shape.map { _ in 0 } : nil,
          storage: contents.count - 1, offset: 0)
      }
      guard !names.isEmpty else { throw FormatFault(message: "holds no constants") }
    } catch {
      throw FileError(
        "\(path): \(error.message), so it is no frozen TensorFlow graph or damaged; fetch it again")
    }
    (self.path, self.mapping) = (path, mapping)
    (self.names, self.contents, self.entries) = (names, contents, entries)
  }

  private init(_ graph: FrozenGraph, names: [String], entries: [String: TensorEntry]) {
    (path, mapping, contents) = (graph.path, graph.mapping, graph.contents)
    (self.names, self.entries) = (names, entries)
  }

  /// The graph's constants under other names.
  ///
  /// - Throws: `FileError` for a constant that is missing or has another number of axes.
  package func aliased(_ aliases: [String: Alias]) throws(FileError) -> FrozenGraph {
    var found: [String: TensorEntry] = [:]
    for (name, alias) in aliases.sorted(by: { $0.key < $1.key }) {
      guard let entry = entries[alias.node], entry.shape.count == alias.axes.count else {
        let shape = entries[alias.node].map { "a constant of shape \($0.shape)" } ?? "none"
        throw FileError(
          "\(path): expected a constant '\(alias.node)' with \(alias.axes.count) axes among its \(names.count), found"
            + " \(shape); use classify_image_graph_def.pb of inception-2015-12-05")
      }
      found[name] = TensorEntry(
        name: name, dtype: entry.dtype, shape: alias.axes.map { entry.shape[$0] },
        strides: alias.axes.map { entry.strides[$0] }, storage: entry.storage, offset: 0)
    }
    return FrozenGraph(self, names: found.keys.sorted(), entries: found)
  }

  package func entry(_ name: String) -> TensorEntry? { entries[name] }

  package func withBytes<Result>(
    of entry: TensorEntry, _ body: (UnsafeRawBufferPointer) -> Result
  ) throws(FileError) -> Result {
    defer { withExtendedLifetime(mapping) {} }
    switch contents[entry.storage] {
    case .mapped(let range):
      return body(UnsafeRawBufferPointer(rebasing: mapping.bytes[range].prefix(entry.span)))
    case .values(let values):
      return values.withUnsafeBytes { body(UnsafeRawBufferPointer(rebasing: $0[..<entry.span])) }
    }
  }

  package func isMapped(_ entry: TensorEntry) -> Bool {
    if case .mapped = contents[entry.storage] { true } else { false }
  }

  // MARK: - Messages

  private struct Constant {
    let name: String
    let dtype: DType
    let shape: [Int]
    let content: Content
    let isRepeated: Bool
  }

  /// Reads a `NodeDef`; nil for a node that is no constant of numbers.
  private static func constant(
    _ bytes: UnsafeRawBufferPointer, in file: UnsafeRawBufferPointer
  ) throws(FormatFault) -> Constant? {
    var node = ProtocolBuffer(bytes)
    var (name, isConstant, tensor): (String?, Bool, UnsafeRawBufferPointer?) = (nil, false, nil)
    while let field = try node.next() {
      switch field.number {
      case 1: name = try text(field.bytes)
      case 2: isConstant = try text(field.bytes) == "Const"
      case 5:
        // An entry of the map of attributes.
        guard let bytes = field.bytes else { continue }
        var entry = ProtocolBuffer(bytes)
        var (key, value): (String?, UnsafeRawBufferPointer?) = (nil, nil)
        while let field = try entry.next() {
          if field.number == 1 { key = try text(field.bytes) }
          if field.number == 2 { value = field.bytes }
        }
        guard key == "value", let value else { continue }
        var attribute = ProtocolBuffer(value)
        while tensor == nil, let field = try attribute.next() {
          if field.number == 8 { tensor = field.bytes }
        }
      default: break
      }
    }
    guard isConstant, let name, let tensor else { return nil }
    return try constant(name, tensor, in: file)
  }

  /// Reads a `TensorProto`; nil for elements other than numbers in one piece or float32.
  private static func constant(
    _ name: String, _ bytes: UnsafeRawBufferPointer, in file: UnsafeRawBufferPointer
  ) throws(FormatFault) -> Constant? {
    var tensor = ProtocolBuffer(bytes)
    var (dtype, shape, content): (DType?, [Int], UnsafeRawBufferPointer?) = (nil, [], nil)
    var values: [Float] = []
    while let field = try tensor.next() {
      switch field.number {
      case 1: dtype = field.value.flatMap { types[$0] }
      case 2: shape = try field.bytes.map { bytes throws(FormatFault) in try extents(bytes) } ?? []
      case 4: content = field.bytes
      case 5:
        if let packed = field.bytes {
          guard packed.count % 4 == 0 else {
            throw FormatFault(message: "lists values of \(name.jsonQuoted) that end early")
          }
          for place in stride(from: 0, to: packed.count, by: 4) {
            values.append(
              Float(bitPattern: packed.loadUnaligned(fromByteOffset: place, as: UInt32.self)))
          }
        } else if let value = field.value {
          values.append(Float(bitPattern: UInt32(truncatingIfNeeded: value)))
        }
      default: break
      }
    }
    guard let dtype, content?.isEmpty == false || dtype == .f32 && !values.isEmpty else {
      return nil
    }
    guard let size = SafetensorsFile.byteCount(shape, dtype) else {
      throw FormatFault(message: "gives \(name.jsonQuoted) the shape \(shape)")
    }
    if let content, !content.isEmpty, let base = content.baseAddress, let start = file.baseAddress {
      guard content.count == size else {
        throw FormatFault(
          message:
            "gives \(name.jsonQuoted) of shape \(shape) \(content.count) bytes, expected \(size)")
      }
      let place = base - start
      return Constant(
        name: name, dtype: dtype, shape: shape, content: .mapped(place..<place + size),
        isRepeated: false)
    }
    let count = size / dtype.size
    let isRepeated = values.count == 1 && count > 1
    guard values.count == count || isRepeated && count <= mostRepeats else {
      throw FormatFault(
        message:
          "gives \(name.jsonQuoted) of shape \(shape) \(values.count) values, expected \(count)")
    }
    return Constant(
      name: name, dtype: dtype, shape: shape, content: .values(values), isRepeated: isRepeated)
  }

  /// Types by their numbers in `types.proto`.
  private static let types: [UInt64: DType] = [
    1: .f32, 2: .f64, 3: .i32, 4: .u8, 5: .i16, 6: .i8, 9: .i64, 10: .bool, 14: .bf16, 17: .u16,
    19: .f16, 22: .u32, 23: .u64,
  ]

  /// Reads a `TensorShapeProto`.
  private static func extents(_ bytes: UnsafeRawBufferPointer) throws(FormatFault) -> [Int] {
    var (shape, extents) = (ProtocolBuffer(bytes), [Int]())
    while let field = try shape.next() {
      guard field.number == 2, let bytes = field.bytes else { continue }
      var (dimension, extent) = (ProtocolBuffer(bytes), 0)
      while let field = try dimension.next() {
        if field.number == 1, let value = field.value { extent = Int(truncatingIfNeeded: value) }
      }
      guard (0...(1 << 31)).contains(extent), extents.count < mostAxes else {
        throw FormatFault(message: "gives a constant an axis of \(extent) elements")
      }
      extents.append(extent)
    }
    return extents
  }

  private static func text(_ bytes: UnsafeRawBufferPointer?) throws(FormatFault) -> String {
    guard let bytes, bytes.count <= longestName,
      let text = String(validating: bytes, as: UTF8.self)
    else { throw FormatFault(message: "holds a name that is no text") }
    return text
  }
}

/// Sequential reader of the fields of a protocol buffer message (protobuf.dev, "Encoding").
struct ProtocolBuffer {
  /// A field with its number of the message's definition.
  struct Field {
    let number: Int
    /// A varint or fixed number; nil for bytes.
    let value: UInt64?
    /// A message, text or packed numbers; nil for a number.
    let bytes: UnsafeRawBufferPointer?
  }

  private var cursor: ByteCursor

  /// Starts at the first field; `bytes` must outlive the reader.
  init(_ bytes: UnsafeRawBufferPointer) { cursor = ByteCursor(bytes) }

  /// Reads the next field; nil at the end.
  ///
  /// - Throws: `FormatFault` for bytes that are no message.
  mutating func next() throws(FormatFault) -> Field? {
    guard cursor.left > 0 else { return nil }
    do throws(EndOfBytes) {
      let key = try varint()
      let number = Int(truncatingIfNeeded: (key ?? 0) >> 3)
      switch (key ?? 7) & 7 {
      case _ where number <= 0: break
      case 0:
        if let value = try varint() { return Field(number: number, value: value, bytes: nil) }
      case 1: return Field(number: number, value: try cursor.read(UInt64.self), bytes: nil)
      case 2:
        let count = Int(exactly: try varint() ?? .max) ?? .max
        return Field(number: number, value: nil, bytes: try cursor.take(count))
      case 5:
        return Field(number: number, value: UInt64(try cursor.read(UInt32.self)), bytes: nil)
      default: break
      }
    } catch {
      throw FormatFault(message: "ends inside a message")
    }
    throw FormatFault(message: "holds a field of an unknown kind")
  }

  /// Reads a number of up to 64 bits; nil for a longer one.
  private mutating func varint() throws(EndOfBytes) -> UInt64? {
    var value: UInt64 = 0
    for shift in stride(from: 0, to: 70, by: 7) {
      let byte = try cursor.read(UInt8.self)
      value |= UInt64(byte & 0x7F) << UInt64(shift)
      if byte < 0x80 { return value }
    }
    return nil
  }
}
