import Foundation

/// A regular file opened for reading, which never blocks on a FIFO or a device; closed when the
/// object is released.
package final class RegularFile {
  package let path: String
  package let descriptor: Int32
  /// Size in bytes when it was opened.
  package let size: Int

  /// Opens a file.
  ///
  /// - Throws: `FileError` when it is missing, unreadable or not regular.
  package init(_ path: String) throws(FileError) {
    self.path = path
    descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else { throw .reading(path, errno: errno) }
    do throws(FileError) {
      size = try Self.size(descriptor, path: path)
    } catch {
      close(descriptor)
      throw error
    }
  }

  deinit { close(descriptor) }

  /// Size of an open regular file; throws for other files.
  static func size(_ descriptor: Int32, path: String) throws(FileError) -> Int {
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { throw .reading(path, errno: errno) }
    if status.st_mode & S_IFMT == S_IFDIR { throw .reading(path, errno: EISDIR) }
    guard status.st_mode & S_IFMT == S_IFREG else {
      throw FileError("\(path): is not a regular file; name a file on disk")
    }
    return Int(status.st_size)
  }

  /// Reads `count` bytes from a position, fewer at the end of the file.
  ///
  /// - Throws: `FileError` when the disk fails.
  package func bytes(from position: Int = 0, count: Int) throws(FileError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var done = 0
    while done < count {
      let moved = bytes.withUnsafeMutableBytes { buffer in
        pread(
          descriptor, buffer.baseAddress.map { $0 + done }, count - done, off_t(position + done))
      }
      if moved == 0 { break }
      if moved > 0 { done += moved } else if errno != EINTR { throw .reading(path, errno: errno) }
    }
    return done == count ? bytes : Array(bytes[..<done])
  }
}
