import CPictures
import Files
import Foundation

extension RGBImage {
  /// Maximum number of pixels, checked before decoding; Pillow's limit against decompression bombs.
  package static let pixelLimit = 178_956_970
  /// Maximum number of pixels per byte of a file: one bit per pixel, deflated by a factor of 1032.
  private static let pixelsPerByte = 8 * 1032

  /// Reads a PNG or JPEG file, detected by content, as Pillow's `Image.open(path).convert("RGB")`.
  ///
  /// - Throws: `FileError` when the file is missing, of another format, damaged, truncated or too
  ///   large.
  package static func read(path: String) throws(FileError) -> RGBImage {
    try read(MappedFile(path: path), path: path)
  }

  /// Reads a picture from bytes in memory; `path` names it in errors.
  ///
  /// - Throws: as `read(path:)`.
  package static func read(_ file: MappedFile, path: String) throws(FileError) -> RGBImage {
    defer { withExtendedLifetime(file) {} }
    let (isPNG, isJPEG) = (
      file.bytes.starts(with: [0x89, 0x50, 0x4E, 0x47]),
      file.bytes.starts(with: [0xFF, 0xD8, 0xFF])
    )
    guard isPNG || isJPEG else {
      throw FileError("\(path): is neither a PNG nor a JPEG picture; convert or remove it")
    }
    var size: [UInt32] = [0, 0]
    func decode(_ pixels: UnsafeMutablePointer<UInt8>?) throws(FileError) {
      let start = file.bytes.baseAddress?.assumingMemoryBound(to: UInt8.self)
      var reason = [CChar](repeating: 0, count: CP_MESSAGE)
      let read = isPNG ? cp_read_png : cp_read_jpeg
      if read(start, file.bytes.count, &size, pixels, &reason) == 0 {
        throw FileError(
          "\(path): is not a readable \(isPNG ? "PNG" : "JPEG") picture (\(text(reason)));"
            + " fetch or save it again")
      }
    }
    try decode(nil)
    let (width, height) = (Int(size[0]), Int(size[1]))
    guard width > 0, height > 0, width <= pixelLimit / height,
      width * height / pixelsPerByte <= file.bytes.count
    else {
      throw FileError(
        "\(path): claims \(width)x\(height) pixels in \(file.bytes.count) bytes, expected at most"
          + " \(pixelLimit) pixels and \(pixelsPerByte) a byte; it is damaged or too large, name"
          + " another picture")
    }
    var failure: FileError?
    let pixels = [UInt8](unsafeUninitializedCapacity: 3 * width * height) { buffer, filled in
      do throws(FileError) {
        try decode(buffer.baseAddress)
        filled = buffer.count
      } catch {
        failure = error
      }
    }
    if let failure { throw failure }
    return RGBImage(width: width, height: height, pixels: pixels)
  }

  /// Writes a PNG file atomically.
  ///
  /// - Throws: `FileError` as `AtomicFile.write` does.
  package func write(to path: String) throws(FileError) {
    // Upper bound: incompressible data are stored with a few bytes per block, plus chunk headers.
    var bytes = Data(count: pixels.count + pixels.count / 16 + height + 4096)
    var reason = [CChar](repeating: 0, count: CP_MESSAGE)
    let count = bytes.withUnsafeMutableBytes { buffer in
      cp_write_png(
        pixels, UInt32(width), UInt32(height),
        buffer.baseAddress?.assumingMemoryBound(to: UInt8.self), buffer.count, &reason)
    }
    guard count > 0 else {
      throw FileError("\(path): cannot be encoded as PNG (\(Self.text(reason)))")
    }
    try AtomicFile.write(bytes.prefix(count), to: path)
  }

  /// Decodes a null-terminated string.
  private static func text(_ characters: [CChar]) -> String {
    String(decoding: characters.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}
