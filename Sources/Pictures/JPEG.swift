import CJpeg
import Files

/// Reads JPEG files through libjpeg-turbo, which returns its errors.
enum JPEG {
  /// Decodes a picture as RGB; greys and the four inks of print are converted as Pillow does.
  ///
  /// - Throws: `FileError` when the content is no JPEG, damaged, truncated or too large.
  static func decoded(
    _ bytes: UnsafeRawBufferPointer, path: String
  ) throws(FileError) -> RGBImage {
    guard let decoder = tjInitDecompress() else {
      throw FileError("\(path): libjpeg-turbo cannot start; check the free memory")
    }
    defer { tjDestroy(decoder) }
    let start = bytes.baseAddress?.assumingMemoryBound(to: UInt8.self)
    let size = UInt(bytes.count)
    var (columns, rows, subsampling, colours): (Int32, Int32, Int32, Int32) = (0, 0, 0, 0)
    guard
      tjDecompressHeader3(decoder, start, size, &columns, &rows, &subsampling, &colours) == 0
    else { throw damaged(path, decoder) }
    let (width, height) = (Int(columns), Int(rows))
    guard width > 0, height > 0, width <= PNG.pixelLimit / height else {
      throw FileError(
        "\(path): claims \(width)x\(height) pixels, expected at most \(PNG.pixelLimit);"
          + " it is damaged or too large, name another picture")
    }
    let isPrint = colours == Int32(TJCS_CMYK.rawValue) || colours == Int32(TJCS_YCCK.rawValue)
    let format = Int32(isPrint ? TJPF_CMYK.rawValue : TJPF_RGB.rawValue)
    var pixels = [UInt8](repeating: 0, count: (isPrint ? 4 : 3) * width * height)
    guard
      tjDecompress2(
        decoder, start, size, &pixels, columns, 0, rows, format, TJFLAG_STOPONWARNING) == 0
    else { throw damaged(path, decoder) }
    return RGBImage(width: width, height: height, pixels: isPrint ? rgb(ofInks: pixels) : pixels)
  }

  /// RGB of inverted cyan, magenta, yellow and black, as Adobe writes them.
  private static func rgb(ofInks inks: [UInt8]) -> [UInt8] {
    var pixels = [UInt8](repeating: 0, count: inks.count / 4 * 3)
    for pixel in 0..<(inks.count / 4) {
      let light = Int(inks[4 * pixel + 3])
      for channel in 0..<3 {
        // Pillow's MULDIV255: a product over 255, rounded.
        let product = (255 - Int(inks[4 * pixel + channel])) * light + 128
        pixels[3 * pixel + channel] = UInt8(max(0, light - ((product >> 8) + product) >> 8))
      }
    }
    return pixels
  }

  private static func damaged(_ path: String, _ decoder: tjhandle) -> FileError {
    let reason = tjGetErrorStr2(decoder).map { String(cString: $0) } ?? "unknown reason"
    return FileError(
      "\(path): is not a readable JPEG picture (\(reason)); fetch or save it again")
  }
}

extension RGBImage {
  /// Reads a PNG or JPEG file as RGB; what transparency hides is shown, as Pillow's `convert("RGB")`.
  ///
  /// - Throws: `FileError` when the file is missing, neither of both, damaged or too large.
  package static func read(path: String) throws(FileError) -> RGBImage {
    let file = try MappedFile(path: path)
    defer { withExtendedLifetime(file) {} }
    if file.bytes.starts(with: [0x89, 0x50, 0x4E, 0x47]) {
      return try PNG.decoded(file.bytes, path: path, ignoresTransparency: true)
    }
    if file.bytes.starts(with: [0xFF, 0xD8]) {
      return try JPEG.decoded(file.bytes, path: path)
    }
    throw FileError("\(path): is neither a PNG nor a JPEG picture; convert or remove it")
  }
}
