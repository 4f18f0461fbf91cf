/// Conversions of raw little-endian elements to Swift arrays; the bytes may be unaligned.
package enum ElementDecoding {
  /// Converts elements of any type to float32, rounding to nearest.
  package static func floats(
    _ bytes: UnsafeRawBufferPointer, _ dtype: DType, into buffer: UnsafeMutableBufferPointer<Float>
  ) {
    switch dtype {
    case .f32: UnsafeMutableRawBufferPointer(buffer).copyMemory(from: bytes)
    case .f16: fill(buffer, bytes, UInt16.self) { Float(Float16(bitPattern: $0)) }
    case .bf16: fill(buffer, bytes, UInt16.self) { Float(bitPattern: UInt32($0) << 16) }
    case .f64: fill(buffer, bytes, UInt64.self) { Float(Double(bitPattern: $0)) }
    case .f8e5m2:
      fill(buffer, bytes, UInt8.self) { Float(Float16(bitPattern: UInt16($0) << 8)) }
    case .f8e4m3: fill(buffer, bytes, UInt8.self, e4m3)
    case .bool: fill(buffer, bytes, UInt8.self) { $0 == 0 ? 0 : 1 }
    case .u8: fill(buffer, bytes, UInt8.self) { Float($0) }
    case .i8: fill(buffer, bytes, Int8.self) { Float($0) }
    case .i16: fill(buffer, bytes, Int16.self) { Float($0) }
    case .u16: fill(buffer, bytes, UInt16.self) { Float($0) }
    case .i32: fill(buffer, bytes, Int32.self) { Float($0) }
    case .u32: fill(buffer, bytes, UInt32.self) { Float($0) }
    case .i64: fill(buffer, bytes, Int64.self) { Float($0) }
    case .u64: fill(buffer, bytes, UInt64.self) { Float($0) }
    }
  }

  /// Converts elements of any type to float64; exact except for 64-bit integers beyond 2^53.
  static func doubles(_ bytes: UnsafeRawBufferPointer, _ dtype: DType) -> [Double] {
    switch dtype {
    case .f64: map(bytes, UInt64.self) { Double(bitPattern: $0) }
    case .i32: map(bytes, Int32.self) { Double($0) }
    case .u32: map(bytes, UInt32.self) { Double($0) }
    case .i64: map(bytes, Int64.self) { Double($0) }
    case .u64: map(bytes, UInt64.self) { Double($0) }
    default:
      [Float](unsafeUninitializedCapacity: bytes.count / dtype.size) { buffer, filled in
        filled = bytes.count / dtype.size
        floats(bytes, dtype, into: UnsafeMutableBufferPointer(rebasing: buffer[..<filled]))
      }.map { Double($0) }
    }
  }

  /// Converts integer elements; nil for other types and for values beyond `Int`.
  static func integers(_ bytes: UnsafeRawBufferPointer, _ dtype: DType) -> [Int]? {
    switch dtype {
    case .bool: return map(bytes, UInt8.self) { $0 == 0 ? 0 : 1 }
    case .u8: return map(bytes, UInt8.self) { Int($0) }
    case .i8: return map(bytes, Int8.self) { Int($0) }
    case .i16: return map(bytes, Int16.self) { Int($0) }
    case .u16: return map(bytes, UInt16.self) { Int($0) }
    case .i32: return map(bytes, Int32.self) { Int($0) }
    case .u32: return map(bytes, UInt32.self) { Int($0) }
    case .i64: return map(bytes, Int64.self) { Int($0) }
    case .u64:
      let values = map(bytes, UInt64.self) { $0 }
      return values.allSatisfy { $0 <= UInt64(Int.max) } ? values.map { Int($0) } : nil
    case .f8e5m2, .f8e4m3, .f16, .bf16, .f32, .f64: return nil
    }
  }

  /// Decodes an 8-bit float with four exponent bits (bias 7), three mantissa bits and no
  /// infinities.
  private static func e4m3(_ bits: UInt8) -> Float {
    let exponent = Int(bits >> 3) & 15
    let mantissa = Float(bits & 7)
    let sign: Float = bits & 0x80 == 0 ? 1 : -1
    if bits & 0x7F == 0x7F { return .nan }
    if exponent == 0 { return sign * mantissa / 512 }
    return sign * Float(sign: .plus, exponent: exponent - 7, significand: 1 + mantissa / 8)
  }

  /// Gathers the elements of a strided or big-endian entry in row-major order, little-endian.
  static func packed(_ bytes: UnsafeRawBufferPointer, _ entry: TensorEntry) -> [UInt8] {
    let (size, total) = (entry.dtype.size, entry.byteCount)
    guard total > 0 else { return [] }
    // The innermost axis is a loop; `index` enumerates the outer axes in row-major order.
    let inner = entry.shape.last ?? 1
    let step = (entry.strides.last ?? 1) * size
    let outer = Array(zip(entry.shape, entry.strides).dropLast())
    var index = [Int](repeating: 0, count: outer.count)
    var row = 0
    return [UInt8](unsafeUninitializedCapacity: total) { buffer, filled in
      let target = UnsafeMutableRawBufferPointer(buffer)
      while filled < total {
        for place in 0..<inner {
          let source = row + place * step
          for byte in 0..<size {
            target[filled + byte] = bytes[source + (entry.isBigEndian ? size - 1 - byte : byte)]
          }
          filled += size
        }
        var axis = outer.count - 1
        while axis >= 0 {
          index[axis] += 1
          row += outer[axis].1 * size
          if index[axis] < outer[axis].0 { break }
          row -= index[axis] * outer[axis].1 * size
          index[axis] = 0
          axis -= 1
        }
      }
    }
  }

  @inline(__always)
  private static func map<Source: BitwiseCopyable, Target>(
    _ bytes: UnsafeRawBufferPointer, _ type: Source.Type, _ convert: (Source) -> Target
  ) -> [Target] {
    let count = bytes.count / MemoryLayout<Source>.size
    return [Target](unsafeUninitializedCapacity: count) { buffer, filled in
      fill(UnsafeMutableBufferPointer(rebasing: buffer[..<count]), bytes, type, convert)
      filled = count
    }
  }

  @inline(__always)
  private static func fill<Source: BitwiseCopyable, Target>(
    _ buffer: UnsafeMutableBufferPointer<Target>, _ bytes: UnsafeRawBufferPointer,
    _ type: Source.Type, _ convert: (Source) -> Target
  ) {
    for index in 0..<buffer.count {
      let source = bytes.loadUnaligned(
        fromByteOffset: index * MemoryLayout<Source>.size, as: Source.self)
      buffer.initializeElement(at: index, to: convert(source))
    }
  }
}
