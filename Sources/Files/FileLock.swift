import Foundation

/// Exclusive file lock (flock(2)), held until the object is released or the process ends.
package final class FileLock: Sendable {
  /// The open file; a child process that inherits it shares the lock.
  package let descriptor: Int32

  /// Locks a file, which is created if it is missing.
  ///
  /// - Parameters:
  ///   - path: The file.
  ///   - inherited: Inherited descriptor of the file, if any, whose lock is adopted.
  /// - Returns: The lock; nil if another process holds it.
  /// - Throws: `FileError` for a file that cannot be opened, a symbolic link, or a file system
  ///   without locks.
  package static func take(
    _ path: String, inherited: Int32? = nil
  ) throws(FileError) -> FileLock? {
    while true {
      let descriptor =
        inherited.flatMap { isOpen($0, path) ? $0 : nil }
        ?? open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0o666)
      guard descriptor >= 0 else { throw .writing(path, errno: errno) }
      let lock = FileLock(descriptor)
      // Keeps children from inheriting an inherited descriptor.
      _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
      _ = try RegularFile.size(descriptor, path: path)
      guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
        if errno == EWOULDBLOCK { return nil }
        throw refused(path, errno: errno)
      }
      // The file may have been replaced or removed since it was opened.
      if isOpen(descriptor, path) { return lock }
    }
  }

  /// Whether another process holds the lock of a file; false for a missing file.
  package static func isHeld(_ path: String) -> Bool {
    let descriptor = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
    guard descriptor >= 0 else { return false }
    defer { close(descriptor) }
    return flock(descriptor, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK
  }

  private init(_ descriptor: Int32) { self.descriptor = descriptor }

  deinit { close(descriptor) }

  /// Whether a descriptor refers to the file at a path.
  private static func isOpen(_ descriptor: Int32, _ path: String) -> Bool {
    var (open, named) = (stat(), stat())
    return fstat(descriptor, &open) == 0 && lstat(path, &named) == 0
      && open.st_dev == named.st_dev && open.st_ino == named.st_ino
  }

  /// Error for a lock that fails for another reason than being held.
  package static func refused(_ path: String, errno code: Int32) -> FileError {
    FileError(
      "\(path): cannot be locked (\(String(cString: strerror(code)))); choose a directory on a file"
        + " system with locks, or let its lock service be started")
  }
}
