/// Writes images as `arr_0` of an `.npz` file, uint8 (count, height, width, 3), as the evaluator of
/// openai/guided-diffusion takes them.
///
/// Images are written as they come, so that a batch may be larger than the memory.
package struct ImageBatchWriter {
  private let append: (UnsafeRawBufferPointer) throws(CheckpointError) -> Void
  private let width, height: Int

  /// Adds the next image.
  ///
  /// - Precondition: It has the batch's size.
  /// - Throws: `CheckpointError` as `AtomicFile.write` does.
  package func add(_ image: RGBImage) throws(CheckpointError) {
    precondition(image.width == width && image.height == height, "image of another size")
    try image.pixels.withUnsafeBytes { bytes in
      Result { () throws(CheckpointError) in try append(bytes) }
    }.get()
  }

  /// Writes a file of `count` images, which `body` must add; nothing is left if it throws.
  ///
  /// - Throws: What `body` throws, or `CheckpointError` as `AtomicFile.write` does.
  package static func write(
    to path: String, count: Int, width: Int, height: Int,
    _ body: (ImageBatchWriter) throws -> Void
  ) throws {
    let header = npyHeader(shape: [count, height, width, 3])
    var failure: (any Error)?
    do throws(CheckpointError) {
      try AtomicFile.stream(to: path) { sink throws(CheckpointError) in
        var archive = ZipWriter(sink)
        let size = header.count + 3 * count * width * height
        try archive.member("arr_0.npy", size: size) { append throws(CheckpointError) in
          try header.withUnsafeBytes { bytes in
            Result { () throws(CheckpointError) in try append(bytes) }
          }.get()
          do {
            try withoutActuallyEscaping(append) { append in
              try body(ImageBatchWriter(append: append, width: width, height: height))
            }
          } catch {
            failure = error
            throw CheckpointError("\(path): nothing was written")
          }
        }
        try archive.finish()
      }
    } catch {
      throw failure ?? error
    }
  }

  /// A header of format version 1 whose data start at a multiple of 64 bytes.
  private static func npyHeader(shape: [Int]) -> [UInt8] {
    let extents = shape.map(String.init).joined(separator: ", ")
    var text = "{'descr': '|u1', 'fortran_order': False, 'shape': (\(extents)), }"
    text += String(repeating: " ", count: 63 - (10 + text.utf8.count) % 64) + "\n"
    let length = UInt16(text.utf8.count)
    return [0x93] + Array("NUMPY".utf8) + [1, 0, UInt8(length & 255), UInt8(length >> 8)]
      + Array(text.utf8)
  }
}
