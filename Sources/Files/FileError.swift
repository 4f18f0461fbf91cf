import Foundation

/// Failure to read or write a file.
///
/// The message is one sentence for the user with the file, the key if any, the expectation, the
/// value found and the next step.
package struct FileError: Error, CustomStringConvertible, Equatable {
  /// The whole sentence.
  package let message: String
  /// Whether the disk was full, so that a later attempt may succeed.
  package let isDiskFull: Bool

  /// Makes an error from its sentence.
  package init(_ message: String, isDiskFull: Bool = false) {
    self.message = message
    self.isDiskFull = isDiskFull
  }

  /// The sentence, so that `"\(error)"` prints it.
  package var description: String { message }

  /// The sentence for a failed system call while reading `path`.
  package static func reading(_ path: String, errno code: Int32) -> FileError {
    switch code {
    case ENOENT where path.contains("\u{fffd}"):
      return FileError("\(path): has bytes in its name that are not UTF-8; rename it")
    case ENOENT:
      return FileError("\(path): no such file; check the path")
    case EACCES, EPERM:
      return FileError("\(path): cannot be read (permission denied); change its permissions")
    case EISDIR:
      return FileError("\(path): is a directory, expected a file; name a file inside it")
    default:
      return FileError(
        "\(path): cannot be read (\(String(cString: strerror(code)))); check the path and the disk")
    }
  }

  /// The sentence for a failed system call while writing `path`; nothing was left behind.
  package static func writing(_ path: String, errno code: Int32) -> FileError {
    let directory = AtomicFile.directory(of: path)
    switch code {
    case ENOSPC, EDQUOT:
      return FileError(
        "\(path): the disk is full, nothing was written; free some space or choose another place",
        isDiskFull: true)
    case EFBIG:
      return FileError(
        "\(path): larger than the file size limit allows, nothing was written; raise `ulimit -f`")
    case EACCES, EPERM, EROFS:
      return FileError(
        "\(path): it or the directory \(directory) is read-only, nothing was written;"
          + " change the permissions or choose another place")
    case ENOENT where access(directory, F_OK) != 0:
      return FileError(
        "\(path): the directory \(directory) does not exist, nothing was written;"
          + " create it with `mkdir -p \(directory)`")
    case ENOTDIR:
      return FileError(
        "\(path): \(directory) is not a directory, nothing was written; choose another place")
    case EISDIR:
      return FileError(
        "\(path): is a directory, nothing was written; name a file inside it")
    default:
      return FileError(
        "\(path): cannot be written (\(String(cString: strerror(code)))), nothing was written;"
          + " check the path and the disk")
    }
  }
}
