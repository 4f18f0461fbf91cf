import CSixel
import Pictures

/// Sixel bytes of images, remembered by content and size.
///
/// Only libsixel's encoder runs, on pixels that this program made.
package struct SixelEncoder {
  private struct Entry: Hashable {
    var contentHash: Int
    var width: Int
    var height: Int
    var colors: Int
  }

  /// Most bytes of sixel data to remember.
  private static let capacity = 16 << 20

  private var encoded: [Entry: [UInt8]] = [:]
  private var order: [Entry] = []
  private var total = 0

  /// Makes an encoder that remembers nothing.
  package init() {}

  /// The image in `width` x `height` pixels with at most `colors` colours, as one DCS string; nil if encoding fails.
  package mutating func bytes(of image: ImagePlacement, width: Int, height: Int, colors: Int)
    -> [UInt8]?
  {
    let entry = Entry(
      contentHash: image.contentHash, width: width, height: height, colors: colors)
    if let known = encoded[entry] { return known }
    let pixels = image.scaled(width: width, height: height)
    guard let bytes = Self.encode(pixels, colors: colors) else { return nil }
    encoded[entry] = bytes
    order.append(entry)
    total += bytes.count
    while total > Self.capacity, order.count > 1 {
      total -= encoded.removeValue(forKey: order.removeFirst())?.count ?? 0
    }
    return bytes
  }

  /// The largest side that is encoded, in pixels.
  package static let largestSide = 4096

  /// Encodes pixels; nil if the size is out of bounds or libsixel refuses.
  package static func encode(_ pixels: RGBImage, colors: Int) -> [UInt8]? {
    guard (1...largestSide).contains(pixels.width), (1...largestSide).contains(pixels.height)
    else { return nil }
    final class Buffer { var bytes: [UInt8] = [] }
    let buffer = Buffer()
    var source = pixels.pixels
    let status = source.withUnsafeMutableBufferPointer { source in
      sx_encode(
        source.baseAddress, Int32(pixels.width), Int32(pixels.height),
        Int32(min(256, max(2, colors))), 0,
        { bytes, count, context in
          guard let bytes, let context, count > 0 else { return 0 }
          let buffer = Unmanaged<Buffer>.fromOpaque(context).takeUnretainedValue()
          buffer.bytes.append(
            contentsOf: UnsafeRawBufferPointer(start: bytes, count: Int(count)))
          return count
        }, Unmanaged.passUnretained(buffer).toOpaque())
    }
    return status == 0 && !buffer.bytes.isEmpty ? buffer.bytes : nil
  }
}
