/// A safetensors file around a header text and data bytes.
func safetensors(_ header: String, data: Int, length: UInt64? = nil) -> [UInt8] {
  let text = Array(header.utf8)
  let count = withUnsafeBytes(of: (length ?? UInt64(text.count)).littleEndian) { Array($0) }
  return count + text + (0..<data).map { UInt8(truncatingIfNeeded: $0) }
}
