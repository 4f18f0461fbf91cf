import Files
import Foundation

/// A safetensors file of bfloat16 tensors that is filled in place, in any order, and appears when it
/// is complete; one that is given up leaves nothing behind.
///
/// For tensors larger than memory: the file is mapped, and its whole size is set aside on the disk
/// first, so that a full disk is told before the work begins.
package final class SafetensorsDraft: @unchecked Sendable {
  private let path, temporary: String
  private let descriptor: Int32
  private let bytes: UnsafeMutableRawBufferPointer
  /// First byte and number of elements of each tensor.
  private let places: [String: (start: Int, count: Int)]
  private var isFinished = false

  /// Sets the file aside.
  ///
  /// - Parameters:
  ///   - path: Where it shall appear.
  ///   - items: Names and shapes.
  ///   - metadata: String metadata.
  /// - Throws: `FileError` for a full disk or a place that cannot be written to.
  package init(
    path: String, items: [(name: String, shape: [Int])], metadata: [String: String]
  ) throws(FileError) {
    let tensors = items.map { item in
      TensorItem(name: item.name, shape: item.shape, dtype: .bf16) { [] }
    }
    let header = SafetensorsWriter.headerText(tensors, metadata: metadata)
    var places: [String: (start: Int, count: Int)] = [:]
    var size = header.count
    for item in tensors {
      places[item.name] = (size, item.count)
      size += item.byteCount
    }
    self.path = path
    self.places = places
    temporary = try AtomicFile.temporaryName(for: path)
    descriptor = open(temporary, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0o666)
    guard descriptor >= 0 else { throw .writing(path, errno: errno) }
    var code = posix_fallocate(descriptor, 0, off_t(size))
    if code == EOPNOTSUPP || code == EINVAL { code = ftruncate(descriptor, off_t(size)) }
    let start =
      code == 0
      ? mmap(nil, size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0) : MAP_FAILED
    guard let start, start != MAP_FAILED else {
      let reason = code > 0 ? code : errno
      close(descriptor)
      unlink(temporary)
      throw .writing(path, errno: reason)
    }
    bytes = UnsafeMutableRawBufferPointer(start: start, count: size)
    bytes.copyBytes(from: header)
  }

  deinit {
    munmap(bytes.baseAddress, bytes.count)
    close(descriptor)
    if !isFinished { unlink(temporary) }
  }

  /// Puts numbers into a tensor from an element on; different elements from several threads at once.
  ///
  /// - Precondition: There is such a tensor and it has room for them.
  package func write(_ floats: UnsafeBufferPointer<Float>, to name: String, at element: Int) {
    guard let place = places[name], element >= 0, element + floats.count <= place.count else {
      preconditionFailure("\(path): \(floats.count) elements at \(element) of '\(name)'")
    }
    let start = place.start + 2 * element
    for (index, value) in floats.enumerated() {
      bytes.storeBytes(
        of: TensorItem.bfloat16(value).littleEndian, toByteOffset: start + 2 * index,
        as: UInt16.self)
    }
  }

  /// Makes the file appear.
  ///
  /// - Throws: `FileError` if the disk fails; nothing has appeared then.
  package func finish() throws(FileError) {
    guard msync(bytes.baseAddress, bytes.count, MS_SYNC) == 0, fsync(descriptor) == 0,
      rename(temporary, path) == 0
    else { throw .writing(path, errno: errno) }
    isFinished = true
    AtomicFile.syncDirectory(of: path)
  }
}

extension TensorFile {
  /// Puts one row, along the first axis, of a contiguous uncompressed tensor into `buffer` as float32.
  ///
  /// - Precondition: There is such a tensor and row, and the buffer has a row's size.
  package func readRow(
    _ row: Int, of name: String, into buffer: UnsafeMutableBufferPointer<Float>
  ) {
    guard let entry = entry(name), isMapped(entry), entry.isContiguous, !entry.isBigEndian,
      let rows = entry.shape.first, (0..<rows).contains(row), buffer.count * rows == entry.count,
      let bytes = try? withBytes(of: entry, { $0 })
    else { preconditionFailure("\(path): row \(row) of '\(name)'") }
    let size = buffer.count * entry.dtype.size
    ElementDecoding.floats(
      UnsafeRawBufferPointer(rebasing: bytes[(row * size)..<((row + 1) * size)]), entry.dtype,
      into: buffer)
  }
}
