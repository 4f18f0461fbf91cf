import CPng
import Files
import Foundation

/// Reads and writes PNG files through libpng's simplified interface, which returns its errors.
package enum PNG {
  /// More pixels than this in a header are taken for damage, before anything is allocated.
  static let pixelLimit = 64 << 20

  /// Writes a picture, in one piece or not at all.
  ///
  /// - Throws: `FileError` as `AtomicFile.write` does.
  package static func write(_ image: RGBImage, to path: String) throws(FileError) {
    try AtomicFile.write(encoded(image, path: path), to: path)
  }

  /// Reads a picture as RGB; greys and palettes are converted, transparency falls on black.
  ///
  /// - Throws: `FileError` when the file is missing, no PNG, damaged or too large.
  package static func read(path: String) throws(FileError) -> RGBImage {
    let file = try MappedFile(path: path)
    return try decoded(file.bytes, path: path)
  }

  /// Decodes a picture as RGB; greys and palettes are converted.
  ///
  /// - Parameters:
  ///   - bytes: The file's content.
  ///   - path: Its name in errors.
  ///   - ignoresTransparency: Whether pixels keep their colours behind transparency, which otherwise
  ///     lets black shine through.
  /// - Returns: The picture.
  /// - Throws: `FileError` when the content is no PNG, damaged or too large.
  static func decoded(
    _ bytes: UnsafeRawBufferPointer, path: String, ignoresTransparency: Bool = false
  ) throws(FileError) -> RGBImage {
    var control = png_image()
    control.version = png_uint_32(PNG_IMAGE_VERSION)
    defer { png_image_free(&control) }
    guard
      png_image_begin_read_from_memory(&control, bytes.baseAddress, bytes.count) != 0
    else { throw damaged(path, control) }
    let (width, height) = (Int(control.width), Int(control.height))
    guard width > 0, height > 0, width <= pixelLimit / height else {
      throw FileError(
        "\(path): claims \(width)x\(height) pixels, expected at most \(pixelLimit);"
          + " it is damaged or too large, name another picture")
    }
    let alpha = ignoresTransparency ? PNG_FORMAT_FLAG_ALPHA : 0
    control.format = png_uint_32(PNG_FORMAT_FLAG_COLOR) | png_uint_32(alpha)
    let samples = ignoresTransparency ? 4 : 3
    var pixels = [UInt8](repeating: 0, count: samples * width * height)
    var background = png_color(red: 0, green: 0, blue: 0)
    let stride = png_int_32(samples * width)
    guard png_image_finish_read(&control, &background, &pixels, stride, nil) != 0
    else { throw damaged(path, control) }
    if ignoresTransparency {
      for pixel in 0..<(width * height) {
        for channel in 0..<3 { pixels[3 * pixel + channel] = pixels[4 * pixel + channel] }
      }
      pixels.removeLast(width * height)
    }
    return RGBImage(width: width, height: height, pixels: pixels)
  }

  /// The bytes of the PNG file.
  private static func encoded(_ image: RGBImage, path: String) throws(FileError) -> Data {
    var control = png_image()
    control.version = png_uint_32(PNG_IMAGE_VERSION)
    control.width = png_uint_32(image.width)
    control.height = png_uint_32(image.height)
    control.format = png_uint_32(PNG_FORMAT_FLAG_COLOR)
    defer { png_image_free(&control) }
    // Deflate stores what it cannot shrink, with a few bytes a block; chunks add their frames.
    var size = image.pixels.count + image.pixels.count / 16 + image.height + 4096
    var bytes = Data(count: size)
    let isWritten = bytes.withUnsafeMutableBytes { buffer in
      png_image_write_to_memory(
        &control, buffer.baseAddress, &size, 0, image.pixels, png_int_32(3 * image.width), nil)
    }
    guard isWritten != 0 else {
      throw FileError("\(path): cannot be encoded as PNG (\(message(control)))")
    }
    return bytes.prefix(size)
  }

  private static func damaged(_ path: String, _ control: png_image) -> FileError {
    FileError(
      "\(path): is not a readable PNG picture (\(message(control))); fetch or save it again")
  }

  private static func message(_ control: png_image) -> String {
    withUnsafeBytes(of: control.message) { bytes in
      String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
  }
}
