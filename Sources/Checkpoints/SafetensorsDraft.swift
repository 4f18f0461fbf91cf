import Files
import Foundation

/// Safetensors file of bfloat16 tensors that is written in place in any order and renamed to its
/// path when complete; removed if it is not finished.
///
/// For tensors larger than memory: the file is mapped, and its size is allocated in advance, so
/// that a full disk is reported before the work begins.
package final class SafetensorsDraft: @unchecked Sendable {
  private let path: String
  private let file: DraftFile
  private let guardian: MappingGuard
  private let bytes: UnsafeMutableRawBufferPointer
  /// Offset and number of elements of each tensor.
  private let places: [String: (start: Int, count: Int)]

  /// Allocates the file.
  ///
  /// - Throws: `FileError` for a full disk or a destination that cannot be written.
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
    file = try DraftFile(for: path)
    var code = posix_fallocate(file.descriptor, 0, off_t(size))
    if code == EOPNOTSUPP || code == EINVAL { code = ftruncate(file.descriptor, off_t(size)) }
    let protection = PROT_READ | PROT_WRITE
    let start =
      code == 0 ? mmap(nil, size, protection, MAP_SHARED, file.descriptor, 0) : MAP_FAILED
    guard let start, start != MAP_FAILED else {
      throw .writing(path, errno: code > 0 ? code : errno)
    }
    guardian = try MappingGuard(
      UnsafeRawBufferPointer(start: start, count: size), protection, file.descriptor, path: path)
    bytes = UnsafeMutableRawBufferPointer(start: start, count: size)
    bytes.copyBytes(from: header)
  }

  deinit {
    guardian.stop()
    munmap(bytes.baseAddress, bytes.count)
  }

  /// Writes elements of a tensor from index `element`; threads may write disjoint ranges
  /// concurrently.
  ///
  /// - Precondition: The tensor exists and the range is within it.
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

  /// Renames the file to its destination.
  ///
  /// - Throws: `FileError` if the disk fails; there is no file then.
  package func finish() throws(FileError) {
    guard msync(bytes.baseAddress, bytes.count, MS_SYNC) == 0 else {
      throw .writing(path, errno: errno)
    }
    try MappedFile.requireIntact()
    try file.finish()
  }
}

extension TensorFile {
  /// Copies a row (index along the first axis) of a contiguous, uncompressed tensor to `buffer` as
  /// float32.
  ///
  /// - Precondition: The tensor and row exist, and the buffer has the size of a row.
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
