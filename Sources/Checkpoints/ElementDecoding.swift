/// Conversions of raw little-endian elements to Swift arrays; the bytes may be unaligned.
enum ElementDecoding {
  /// Any element type as float32, rounding to nearest where it does not fit.
  static func floats(_ bytes: UnsafeRawBufferPointer, _ dtype: DType) -> [Float] {
    switch dtype {
    case .f32: map(bytes, UInt32.self) { Float(bitPattern: $0) }
    case .f16: map(bytes, UInt16.self) { Float(Float16(bitPattern: $0)) }
    case .bf16: map(bytes, UInt16.self) { Float(bitPattern: UInt32($0) << 16) }
    case .f64: map(bytes, UInt64.self) { Float(Double(bitPattern: $0)) }
    case .f8e5m2: map(bytes, UInt8.self) { Float(Float16(bitPattern: UInt16($0) << 8)) }
    case .f8e4m3: map(bytes, UInt8.self, e4m3)
    case .bool: map(bytes, UInt8.self) { $0 == 0 ? 0 : 1 }
    case .u8: map(bytes, UInt8.self) { Float($0) }
    case .i8: map(bytes, Int8.self) { Float($0) }
    case .i16: map(bytes, Int16.self) { Float($0) }
    case .u16: map(bytes, UInt16.self) { Float($0) }
    case .i32: map(bytes, Int32.self) { Float($0) }
    case .u32: map(bytes, UInt32.self) { Float($0) }
    case .i64: map(bytes, Int64.self) { Float($0) }
    case .u64: map(bytes, UInt64.self) { Float($0) }
    }
  }

  /// Any element type as float64; exact except for 64-bit integers beyond 2^53.
  static func doubles(_ bytes: UnsafeRawBufferPointer, _ dtype: DType) -> [Double] {
    switch dtype {
    case .f64: map(bytes, UInt64.self) { Double(bitPattern: $0) }
    case .i32: map(bytes, Int32.self) { Double($0) }
    case .u32: map(bytes, UInt32.self) { Double($0) }
    case .i64: map(bytes, Int64.self) { Double($0) }
    case .u64: map(bytes, UInt64.self) { Double($0) }
    default: floats(bytes, dtype).map { Double($0) }
    }
  }

  /// Whole-number elements; `nil` when the type is no integer type or a value exceeds `Int`.
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

  /// Eight-bit float with four exponent bits (bias 7), three mantissa bits, no infinities.
  private static func e4m3(_ bits: UInt8) -> Float {
    let exponent = Int(bits >> 3) & 15
    let mantissa = Float(bits & 7)
    let sign: Float = bits & 0x80 == 0 ? 1 : -1
    if bits & 0x7F == 0x7F { return .nan }
    if exponent == 0 { return sign * mantissa / 512 }
    return sign * Float(sign: .plus, exponent: exponent - 7, significand: 1 + mantissa / 8)
  }

  @inline(__always)
  private static func map<Source: BitwiseCopyable, Target>(
    _ bytes: UnsafeRawBufferPointer, _ type: Source.Type, _ convert: (Source) -> Target
  ) -> [Target] {
    let stride = MemoryLayout<Source>.size
    let count = bytes.count / stride
    return [Target](unsafeUninitializedCapacity: count) { buffer, filled in
      for index in 0..<count {
        let source = bytes.loadUnaligned(fromByteOffset: index * stride, as: Source.self)
        buffer.initializeElement(at: index, to: convert(source))
      }
      filled = count
    }
  }
}
