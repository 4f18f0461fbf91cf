import Foundation

/// Reads and writes whole files so that a reader sees the old content or the new one, never a part.
///
/// The bytes go to a temporary name in the same directory, are synced, and are renamed over the
/// destination. On any failure the temporary file is removed. A process that runs under
/// `ulimit -f` must ignore SIGXFSZ to get the error instead of being killed.
package enum AtomicFile {
  /// All bytes of the regular file at `path`.
  ///
  /// - Throws: `FileError` when it is missing, unreadable, no regular file or over `limit`.
  package static func read(_ path: String, limit: Int) throws(FileError) -> [UInt8] {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else { throw .reading(path, errno: errno) }
    defer { close(descriptor) }
    let size = try MappedFile.regularSize(descriptor, path: path)
    guard size <= limit else {
      throw FileError(
        "\(path): has \(size) bytes, expected at most \(limit); check that this is the right file")
    }
    var bytes = [UInt8](repeating: 0, count: size)
    var done = 0
    while done < size {
      let moved = bytes.withUnsafeMutableBytes { buffer in
        pread(descriptor, buffer.baseAddress.map { $0 + done }, size - done, off_t(done))
      }
      if moved > 0 {
        done += moved
      } else if moved == 0 {
        bytes.removeLast(size - done)
        break
      } else if errno != EINTR {
        throw .reading(path, errno: errno)
      }
    }
    return bytes
  }

  /// Makes a directory and those above it that are missing; one that exists is fine.
  ///
  /// - Throws: `FileError` naming a full disk, a read-only place, or a file in the way.
  package static func makeDirectory(_ path: String) throws(FileError) {
    var status = stat()
    if stat(path, &status) == 0 {
      guard status.st_mode & S_IFMT == S_IFDIR else {
        throw FileError("\(path): is a file, expected a directory; choose another place")
      }
      return
    }
    let parent = directory(of: path)
    if parent != path, parent != "." { try makeDirectory(parent) }
    guard mkdir(path, 0o777) == 0 || errno == EEXIST else { throw .writing(path, errno: errno) }
  }

  /// Replaces the file at `path` by `data`.
  ///
  /// - Throws: `FileError` naming a full disk, a read-only or missing directory, or any other
  ///   reason; the old file, if any, is then untouched.
  package static func write(_ data: Data, to path: String) throws(FileError) {
    try stream(to: path) { sink throws(FileError) in
      try sink.append(Array(data))
    }
  }

  /// Replaces the file at `path` by what `body` appends to the sink; a trial leaves everything as
  /// it was.
  ///
  /// - Throws: what `body` throws, or `FileError` as `write` does.
  package static func stream(
    to path: String, discarding isTrial: Bool = false,
    _ body: (FileSink) throws(FileError) -> Void
  ) throws(FileError) {
    try refuseUnfitDestination(path)
    let temporary = try temporaryName(for: path)
    let descriptor = open(temporary, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0o666)
    guard descriptor >= 0 else { throw .writing(path, errno: errno) }
    do throws(FileError) {
      defer { close(descriptor) }
      try body(FileSink(descriptor: descriptor, path: path))
      guard fsync(descriptor) == 0 else { throw FileError.writing(path, errno: errno) }
    } catch {
      unlink(temporary)
      throw error
    }
    if isTrial {
      unlink(temporary)
      return
    }
    guard rename(temporary, path) == 0 else {
      let code = errno
      unlink(temporary)
      throw .writing(path, errno: code)
    }
    syncDirectory(of: path)
  }

  /// Gives a file a second name in the same file system, in place of what had it; the content stays
  /// under that name when the first one gets another.
  ///
  /// - Throws: `FileError` for a missing file, a full disk, or one without hard links.
  package static func link(_ path: String, as other: String) throws(FileError) {
    unlink(other)
    guard Foundation.link(path, other) == 0 else {
      switch errno {
      case ENOENT: throw .reading(path, errno: ENOENT)
      case EPERM, EOPNOTSUPP, EMLINK:
        throw FileError(
          "\(other): the file system has no hard links, which keeping earlier checkpoints needs;"
            + " set \"keep_last\" to 1 or choose another disk")
      case let code: throw .writing(other, errno: code)
      }
    }
  }

  /// The directory that holds `path`, "." for a bare file name.
  package static func directory(of path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
  }

  /// Size and time of change of a file, which tell it from another version of itself.
  ///
  /// - Throws: `FileError` when there is no such file.
  package static func stamp(of path: String) throws(FileError) -> String {
    var status = stat()
    guard stat(path, &status) == 0 else { throw .reading(path, errno: errno) }
    return "\(status.st_size) \(status.st_mtim.tv_sec).\(status.st_mtim.tv_nsec)"
  }

  /// Refuses a destination that `write` could not write to, before hours of work go into its content.
  ///
  /// - Throws: `FileError` for a missing or read-only directory or an unfit file in the way.
  package static func requireDestination(_ path: String) throws(FileError) {
    try stream(to: path, discarding: true) { _ in }
  }

  private static func refuseUnfitDestination(_ path: String) throws(FileError) {
    var status = stat()
    guard stat(path, &status) == 0 else { return }
    if status.st_mode & S_IFMT == S_IFDIR { throw .writing(path, errno: EISDIR) }
    guard status.st_mode & S_IFMT == S_IFREG else {
      throw FileError(
        "\(path): is not a regular file, nothing was written; name another file")
    }
    guard faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) == 0 else {
      throw FileError(
        "\(path): the file is read-only, nothing was written; change its permissions or name another"
      )
    }
  }

  /// A fresh name beside `path`: hidden, and never that of another process or an earlier call.
  package static func temporaryName(for path: String) throws(FileError) -> String {
    let name = String(path[(path.lastIndex(of: "/").map(path.index(after:)) ?? path.startIndex)...])
    guard !name.isEmpty else {
      throw FileError("\(path): is not a file name, nothing was written; name a file")
    }
    let stamp = String(UInt64.random(in: .min ... .max), radix: 36)
    return "\(directory(of: path))/.\(name.prefix(100)).\(getpid()).\(stamp).tmp"
  }

  /// Whether a file of this name is one that is being written, or was when its writer was killed.
  package static func isTemporary(_ name: String) -> Bool {
    name.hasPrefix(".") && name.hasSuffix(".tmp")
  }

  /// Removes what killed processes have not finished writing in a directory.
  package static func removeAbandoned(in directory: String) {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []
    for name in names where isTemporary(name) {
      guard let writer = name.split(separator: ".").dropLast(2).last.flatMap({ pid_t($0) }),
        kill(writer, 0) != 0, errno == ESRCH
      else { continue }
      unlink("\(directory)/\(name)")
    }
  }

  /// Makes the rename itself durable; a file system that cannot sync a directory loses nothing else.
  package static func syncDirectory(of path: String) {
    let descriptor = open(directory(of: path), O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { return }
    fsync(descriptor)
    close(descriptor)
  }
}

/// An open file that bytes are appended to, in the order of the calls.
package struct FileSink {
  package let descriptor: Int32
  package let path: String

  /// Writes the bytes of all elements.
  ///
  /// - Throws: `FileError` naming the reason, for example a full disk.
  package func append<Element: BitwiseCopyable>(_ elements: [Element]) throws(FileError) {
    try elements.withUnsafeBytes { bytes in
      Result { () throws(FileError) in try append(bytes) }
    }.get()
  }

  /// Writes all of `bytes`, however many `write` calls it takes.
  ///
  /// - Throws: `FileError` naming the reason, for example a full disk.
  package func append(_ bytes: UnsafeRawBufferPointer) throws(FileError) {
    guard let base = bytes.baseAddress else { return }
    var done = 0
    while done < bytes.count {
      // One call moves at most 2 GiB on Linux; larger requests are cut by the kernel anyway.
      let moved = write(descriptor, base + done, bytes.count - done)
      if moved > 0 {
        done += moved
      } else if moved == 0 {
        throw .writing(path, errno: ENOSPC)
      } else if errno != EINTR {
        throw .writing(path, errno: errno)
      }
    }
  }
}
