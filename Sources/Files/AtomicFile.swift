import Foundation
import Synchronization

/// Reads and atomically replaces whole files.
///
/// Data are written to a temporary file in the same directory, synced, and renamed over the
/// destination, whose permissions are kept. The temporary file is removed on failure; that of a
/// killed process is removed by the next save of the same file. A process under `ulimit -f` must
/// ignore SIGXFSZ to receive the error.
package enum AtomicFile {
  /// Fault injection for tests of full and failing disks.
  ///
  /// Called with the path before every operation that changes the disk; a result other than 0 is
  /// the `errno` with which the operation fails.
  package static let failure = ThreadValue<@Sendable (_ path: String) -> Int32>()

  /// Throws an injected error.
  static func permit(_ path: String) throws(FileError) {
    if let code = failure.value?(path), code != 0 { throw .writing(path, errno: code) }
  }

  /// Files and directories that `together` removes on failure.
  private static let made = ThreadValue<Journal>()

  /// Paths of new files and directories in order of creation.
  private final class Journal: Sendable {
    let paths = Mutex<[String]>([])
  }

  /// Calls `body` and, if it throws, removes all files and directories that it created.
  ///
  /// - Throws: Errors of `body`.
  package static func together<Result>(_ body: () throws -> Result) throws -> Result {
    let journal = Journal()
    do {
      return try made.withValue(journal) { try body() }
    } catch {
      for path in journal.paths.withLock({ $0 }).reversed() where unlink(path) != 0 { rmdir(path) }
      throw error
    }
  }

  /// Reads the regular file at `path`.
  ///
  /// - Throws: `FileError` when it is missing, unreadable, not regular or larger than `limit`.
  package static func read(_ path: String, limit: Int) throws(FileError) -> [UInt8] {
    let file = try RegularFile(path)
    guard file.size <= limit else {
      throw FileError(
        "\(path): has \(file.size) bytes, expected at most \(limit); check that this is the right file"
      )
    }
    return try file.bytes(count: file.size)
  }

  /// Reads a whole JSON file.
  ///
  /// - Throws: `FileError` as `read`, and for a key that an object has twice.
  package static func readJSON(_ path: String, limit: Int) throws(FileError) -> [UInt8] {
    let text = try read(path, limit: limit)
    try JSONScanner.requireUniqueKeys(in: Data(text), of: path)
    return text
  }

  /// Creates a directory and missing parents; does nothing if it exists.
  ///
  /// - Throws: `FileError` for a full disk, a read-only parent, or a file at the path.
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
    try permit(path)
    if mkdir(path, 0o777) == 0 {
      made.value?.paths.withLock { $0.append(path) }
    } else if errno != EEXIST {
      throw .writing(path, errno: errno)
    }
  }

  /// Replaces the file at `path` by `data`.
  ///
  /// - Parameters:
  ///   - data: The new content.
  ///   - path: The file.
  ///   - followingLinks: Whether the target of a symbolic link is replaced, as for paths given by
  ///     the user, instead of the link, as in run directories.
  ///   - permissions: Permissions of a new file before the umask.
  /// - Throws: `FileError` with the reason; the old file, if any, is unchanged.
  package static func write(
    _ data: Data, to path: String, followingLinks: Bool = true, permissions: mode_t = 0o666
  ) throws(FileError) {
    try stream(to: path, followingLinks: followingLinks, permissions: permissions) {
      sink throws(FileError) in try sink.append(Array(data))
    }
  }

  /// Replaces the file at `path` by the bytes that `body` appends to the sink; a trial changes
  /// nothing.
  ///
  /// - Throws: Errors of `body`, or `FileError` as `write` does.
  package static func stream(
    to path: String, discarding isTrial: Bool = false, followingLinks: Bool = true,
    permissions: mode_t = 0o666, _ body: (FileSink) throws(FileError) -> Void
  ) throws(FileError) {
    let path = followingLinks ? try target(of: path) : path
    let old = try replaceableFile(at: path)
    let draft = try DraftFile(for: path, permissions: permissions)
    do throws(FileError) {
      try body(FileSink(descriptor: draft.descriptor, path: path))
      if isTrial { return draft.discard() }
      if let old { draft.takePermissions(of: old) }
      try draft.finish()
    } catch {
      draft.discard()
      throw error
    }
    if old == nil { made.value?.paths.withLock { $0.append(path) } }
  }

  /// Atomically makes `other` a hard link to a file, replacing an existing file.
  ///
  /// - Throws: `FileError` for a missing file, a full disk, or a file system without hard links.
  package static func link(_ path: String, as other: String) throws(FileError) {
    let temporary = try temporaryName(for: other)
    try permit(other)
    guard Foundation.link(path, temporary) == 0 else {
      switch errno {
      case ENOENT: throw .reading(path, errno: ENOENT)
      case EPERM, EOPNOTSUPP, EMLINK:
        throw FileError(
          "\(other): the file system has no hard links, which keeping earlier checkpoints needs;"
            + " set \"keep_last\" to 1 or choose another disk")
      case let code: throw .writing(other, errno: code)
      }
    }
    // rename(2) between two links to the same file does nothing, so the temporary link may remain.
    defer { unlink(temporary) }
    try permit(other)
    guard rename(temporary, other) == 0 else { throw .writing(other, errno: errno) }
  }

  /// Parent directory of `path`, "." for a bare file name.
  package static func directory(of path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
  }

  /// Last component of a path.
  package static func name(of path: String) -> String {
    String(path[(path.lastIndex(of: "/").map(path.index(after:)) ?? path.startIndex)...])
  }

  /// Makes a user's path absolute, without `.` and `..`, and expands a leading `~`.
  ///
  /// - Parameters:
  ///   - path: Any path.
  ///   - home: The home directory; nil selects that of the user database.
  /// - Returns: The path, which may not exist.
  package static func absolute(
    _ path: String, home: String? = ProcessInfo.processInfo.environment["HOME"]
  ) -> String {
    var whole = path
    if path == "~" || path.hasPrefix("~/") {
      let known = home.flatMap { $0.hasPrefix("/") ? $0 : nil }
      let listed = getpwuid(geteuid())?.pointee.pw_dir.map { String(cString: $0) }
      whole = (known ?? listed ?? "") + path.dropFirst()
    }
    return resolved(whole)
  }

  /// Makes a path absolute, without `.` and `..`, where `~` is a name like any other.
  ///
  /// - Parameters:
  ///   - path: A path as a file states it.
  ///   - folder: Base of a relative path, itself relative to the working directory.
  /// - Returns: The path, which may not exist.
  package static func resolved(_ path: String, in folder: String = ".") -> String {
    let base =
      path.hasPrefix("/")
      ? ""
      : folder.hasPrefix("/")
        ? folder : "\(FileManager.default.currentDirectoryPath)/\(folder)"
    var parts: [Substring] = []
    for part in "\(base)/\(path)".split(separator: "/") where part != "." {
      if part == ".." { _ = parts.popLast() } else { parts.append(part) }
    }
    return "/" + parts.joined(separator: "/")
  }

  /// Last component of a path without its extension.
  package static func stem(of path: String) -> String {
    let name = name(of: path)
    guard let dot = name.lastIndex(of: "."), dot != name.startIndex else { return name }
    return String(name[..<dot])
  }

  /// Size and change time of a file, which identify its version.
  ///
  /// - Throws: `FileError` if the file is missing.
  package static func stamp(of path: String) throws(FileError) -> String {
    var status = stat()
    guard stat(path, &status) == 0 else { throw .reading(path, errno: errno) }
    return "\(status.st_size) \(status.st_mtim.tv_sec).\(status.st_mtim.tv_nsec)"
  }

  /// Checks in advance that `write` can write to a destination.
  ///
  /// - Throws: `FileError` for a missing or read-only directory or an unsuitable file at the path.
  package static func requireDestination(_ path: String) throws(FileError) {
    try stream(to: path, discarding: true) { _ in }
  }

  /// Resolves symbolic links of `path`, whose target may not exist.
  ///
  /// - Throws: `FileError` for a link that cannot be read, or a cycle of links.
  package static func target(of path: String) throws(FileError) -> String {
    var place = path
    for _ in 0..<40 {
      var status = stat()
      guard lstat(place, &status) == 0, status.st_mode & S_IFMT == S_IFLNK else { return place }
      guard let name = try? FileManager.default.destinationOfSymbolicLink(atPath: place) else {
        throw .writing(path, errno: errno)
      }
      place = name.hasPrefix("/") ? name : "\(directory(of: place))/\(name)"
    }
    throw .writing(path, errno: ELOOP)
  }

  /// Status of the file that a save to `path` replaces; nil if there is none.
  private static func replaceableFile(at path: String) throws(FileError) -> stat? {
    var status = stat()
    guard lstat(path, &status) == 0, status.st_mode & S_IFMT != S_IFLNK else { return nil }
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
    return status
  }

  /// Makes a unique hidden name in the directory of `path`.
  fileprivate static func temporaryName(for path: String) throws(FileError) -> String {
    let name = name(of: path)
    guard !name.isEmpty else {
      throw FileError("\(path): is not a file name, nothing was written; name a file")
    }
    let stamp = String(UInt64.random(in: .min ... .max), radix: 36)
    return "\(directory(of: path))/\(temporaryPrefix(name))\(stamp).tmp"
  }

  private static func temporaryPrefix(_ name: String) -> String { ".\(name.prefix(100))." }

  /// Whether a name is that of a temporary file.
  package static func isTemporary(_ name: String) -> Bool {
    name.hasPrefix(".") && name.hasSuffix(".tmp")
  }

  /// Removes temporary files of killed processes in a directory: all, or only those of the file
  /// called `name`.
  ///
  /// Writers lock their temporary files; on a file system without locks nothing is removed.
  package static func removeAbandoned(in directory: String, of name: String? = nil) {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []
    let prefix = name.map(temporaryPrefix) ?? "."
    for file in names where isTemporary(file) && file.hasPrefix(prefix) {
      let path = "\(directory)/\(file)"
      let descriptor = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
      guard descriptor >= 0 else { continue }
      if flock(descriptor, LOCK_EX | LOCK_NB) == 0 { unlink(path) }
      close(descriptor)
    }
  }

  /// Syncs a directory, so that a rename is durable; ignores file systems without support.
  fileprivate static func syncDirectory(_ path: String) {
    let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { return }
    fsync(descriptor)
    close(descriptor)
  }
}

/// Temporary hidden file that replaces another file when it is finished; locked while it is
/// written, which distinguishes it from those of killed processes.
package final class DraftFile {
  /// The open file.
  package let descriptor: Int32
  private let path, temporary: String
  private var isOpen = true

  /// Makes an empty file.
  ///
  /// - Throws: `FileError` for a full disk or a destination that cannot be written.
  package init(for path: String, permissions: mode_t = 0o666) throws(FileError) {
    try AtomicFile.permit(path)
    while true {
      let temporary = try AtomicFile.temporaryName(for: path)
      let descriptor = open(temporary, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, permissions)
      guard descriptor >= 0 else { throw .writing(path, errno: errno) }
      let isLocked = flock(descriptor, LOCK_EX | LOCK_NB) == 0
      var status = stat()
      // Another process may have removed the file as abandoned before it was locked.
      if isLocked || errno != EWOULDBLOCK, fstat(descriptor, &status) == 0, status.st_nlink > 0 {
        (self.path, self.temporary, self.descriptor) = (path, temporary, descriptor)
        return
      }
      close(descriptor)
    }
  }

  deinit { discard() }

  /// Copies owner and permissions of the replaced file, as far as permitted.
  func takePermissions(of old: stat) {
    if old.st_uid != geteuid() || old.st_gid != getegid() {
      _ = fchown(descriptor, old.st_uid, old.st_gid)
    }
    fchmod(descriptor, old.st_mode & 0o7777)
  }

  /// Syncs the file and renames it to its destination.
  ///
  /// - Throws: `FileError` for a full or failing disk; the file then remains temporary.
  package func finish() throws(FileError) {
    try AtomicFile.permit(path)
    guard fsync(descriptor) == 0 else { throw .writing(path, errno: errno) }
    try AtomicFile.permit(path)
    guard rename(temporary, path) == 0 else { throw .writing(path, errno: errno) }
    close(descriptor)
    isOpen = false
    let directory = AtomicFile.directory(of: path)
    AtomicFile.syncDirectory(directory)
    AtomicFile.removeAbandoned(in: directory, of: AtomicFile.name(of: path))
  }

  /// Removes the file unless it is finished.
  package func discard() {
    guard isOpen else { return }
    unlink(temporary)
    close(descriptor)
    isOpen = false
  }
}

/// Open file for sequential writing.
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

  /// Writes all of `bytes`, repeating partial writes.
  ///
  /// - Throws: `FileError` naming the reason, for example a full disk.
  package func append(_ bytes: UnsafeRawBufferPointer) throws(FileError) {
    guard let base = bytes.baseAddress else { return }
    try AtomicFile.permit(path)
    var done = 0
    while done < bytes.count {
      // Linux writes at most 2 GiB per call.
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
