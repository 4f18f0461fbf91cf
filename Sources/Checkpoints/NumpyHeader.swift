import Files

/// The header of a `.npy` array, versions 1 to 3 (numpy `lib/format.py`).
struct NumpyHeader {
  let dtype: DType
  let isBigEndian: Bool
  let shape: [Int]
  let strides: [Int]
  /// Offset of the first element.
  let dataOffset: Int

  /// Maximum length of a header; those of plain arrays have about 100 bytes.
  static let limit = 1 << 16

  /// Reads the header at the start of `bytes`, of which the first `limit` suffice.
  ///
  /// - Throws: `FormatFault` with the reason.
  init(_ bytes: UnsafeRawBufferPointer) throws(FormatFault) {
    do {
      var cursor = ByteCursor(bytes)
      guard Array(try cursor.take(6)) == [0x93] + Array("NUMPY".utf8) else {
        throw FormatFault(message: "does not start as a NumPy array")
      }
      let version = try cursor.read(UInt8.self)
      _ = try cursor.read(UInt8.self)
      let length: Int
      switch version {
      case 1: length = Int(try cursor.read(UInt16.self))
      case 2, 3: length = Int(try cursor.read(UInt32.self))
      default: throw FormatFault(message: "has NumPy format version \(version), expected 1 to 3")
      }
      guard length <= Self.limit else {
        throw FormatFault(
          message: "has a header of \(length) bytes, expected at most \(Self.limit)")
      }
      let text = try cursor.take(length)
      dataOffset = cursor.position
      var parser = LiteralParser(text)
      let fields = try parser.dictionary()
      guard let descr = fields.descr, let isFortran = fields.isFortran, let shape = fields.shape
      else { throw FormatFault(message: "has a header without descr, fortran_order or shape") }
      (dtype, isBigEndian) = try Self.dtype(descr)
      guard SafetensorsFile.byteCount(shape, dtype) != nil else {
        throw FormatFault(message: "has shape \(shape), which overflows 64 bits")
      }
      self.shape = shape
      strides =
        isFortran
        ? TensorEntry.contiguousStrides(shape.reversed()).reversed()
        : TensorEntry.contiguousStrides(shape)
    } catch let fault as FormatFault {
      throw fault
    } catch {
      throw FormatFault(message: "ends within its NumPy header")
    }
  }

  private static func dtype(_ descr: String) throws(FormatFault) -> (DType, isBigEndian: Bool) {
    let types: [Substring: DType] = [
      "b1": .bool, "u1": .u8, "i1": .i8, "i2": .i16, "u2": .u16, "i4": .i32, "u4": .u32, "i8": .i64,
      "u8": .u64, "f2": .f16, "f4": .f32, "f8": .f64,
    ]
    if let order = descr.first, let dtype = types[descr.dropFirst()],
      "<>=".contains(order) || order == "|" && dtype.size == 1
    {
      return (dtype, order == ">")
    }
    throw FormatFault(
      message: "has elements of type \(descr.jsonQuoted), expected plain numbers such as '<f4'")
  }
}

/// Parser for the Python literal of a header: a flat dictionary of strings, Booleans and tuples.
private struct LiteralParser {
  private var rest: Substring.UTF8View

  init(_ text: UnsafeRawBufferPointer) {
    rest = Substring(decoding: text, as: UTF8.self).utf8
  }

  mutating func dictionary() throws(FormatFault) -> (
    descr: String?, isFortran: Bool?, shape: [Int]?
  ) {
    var fields: (descr: String?, isFortran: Bool?, shape: [Int]?) = (nil, nil, nil)
    try expect("{")
    while !take("}") {
      let key = try text()
      try expect(":")
      switch key {
      case "descr" where fields.descr == nil: fields.descr = try text()
      case "fortran_order" where fields.isFortran == nil: fields.isFortran = try truth()
      case "shape" where fields.shape == nil: fields.shape = try extents()
      default: throw fault
      }
      if !take(",") {
        try expect("}")
        break
      }
    }
    skipSpace()
    guard rest.isEmpty else { throw fault }
    return fields
  }

  private mutating func text() throws(FormatFault) -> String {
    skipSpace()
    guard let quote = rest.popFirst(), quote == 0x27 || quote == 0x22,
      let end = rest.firstIndex(of: quote), let text = String(rest[..<end])
    else {
      // A structured type, which is not supported, starts with a bracket.
      throw FormatFault(
        message: "has structured elements or a malformed header, expected plain numbers")
    }
    rest = rest[rest.index(after: end)...]
    return text
  }

  private mutating func truth() throws(FormatFault) -> Bool {
    skipSpace()
    for (word, value) in [("True", true), ("False", false)] where rest.starts(with: word.utf8) {
      rest = rest.dropFirst(word.utf8.count)
      return value
    }
    throw fault
  }

  private mutating func extents() throws(FormatFault) -> [Int] {
    var extents: [Int] = []
    try expect("(")
    while !take(")") {
      skipSpace()
      let digits = rest.prefix { (0x30...0x39).contains($0) }
      guard let text = String(digits), let extent = Int(text),
        extents.count < SafetensorsHeader.rankLimit
      else { throw fault }
      extents.append(extent)
      rest = rest.dropFirst(digits.count)
      _ = take("L")  // long integers of Python 2
      if !take(",") {
        try expect(")")
        break
      }
    }
    return extents
  }

  private mutating func skipSpace() {
    rest = rest.drop { $0 == 0x20 || (0x09...0x0D).contains($0) }
  }

  private mutating func take(_ character: Unicode.Scalar) -> Bool {
    skipSpace()
    guard rest.first == UInt8(ascii: character) else { return false }
    rest.removeFirst()
    return true
  }

  private mutating func expect(_ character: Unicode.Scalar) throws(FormatFault) {
    guard take(character) else { throw fault }
  }

  private var fault: FormatFault { FormatFault(message: "has a malformed NumPy header") }
}
