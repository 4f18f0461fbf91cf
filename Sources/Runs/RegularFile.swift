import Foundation

/// Bounded reads of files in run directories, which do not block on FIFOs and devices.
enum RegularFile {
  /// Opens a file for reading; nil when it is missing, unreadable, or not regular.
  ///
  /// The caller closes the descriptor.
  static func open(_ path: String) -> (descriptor: Int32, status: stat)? {
    let descriptor = Foundation.open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else { return nil }
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
      close(descriptor)
      return nil
    }
    return (descriptor, status)
  }

  /// Reads at most `count` bytes of an open file from a position.
  static func bytes(_ descriptor: Int32, from position: UInt64, count: Int) -> [UInt8] {
    [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
      while filled < count {
        let moved = pread(
          descriptor, buffer.baseAddress.map { $0 + filled }, count - filled,
          off_t(position) + off_t(filled))
        if moved > 0 {
          filled += moved
        } else if moved == 0 || errno != EINTR {
          return
        }
      }
    }
  }

  /// Reads the last bytes of a file; empty if it cannot be read.
  static func tail(_ path: String, bytes limit: Int) -> [UInt8] {
    guard let (descriptor, status) = open(path) else { return [] }
    defer { close(descriptor) }
    let count = min(Int(status.st_size), limit)
    return bytes(descriptor, from: UInt64(Int(status.st_size) - count), count: count)
  }
}
