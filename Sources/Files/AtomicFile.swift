import Foundation
import Synchronization

/// Reads and writes whole files so that a reader sees the old content or the new one, never a part.
///
/// The bytes go to a temporary name in the same directory, are synced, and are renamed over the
/// destination, whose permissions they take. On any failure the temporary file is removed; what a
/// killed process left is removed by the next save of the same file. A process that runs under
/// `ulimit -f` must ignore SIGXFSZ to get the error instead of being killed.
package enum AtomicFile {
  /// Lets tests of full and failing disks fail single operations.
  ///
  /// Called before every operation that changes the disk, with the file it belongs to; a result other
  /// than 0 is the `errno` that the operation fails with.
  @TaskLocal package static var failure: (@Sendable (_ path: String) -> Int32)?

  /// Throws the error that a test wants here.
  static func permit(_ path: String) throws(FileError) {
    if let code = failure?(path), code != 0 { throw .writing(path, errno: code) }
  }

  /// What `together` removes again.
  @TaskLocal private static var made: Journal?

  /// Names of new files and directories, in the order in which they were made.
  private final class Journal: Sendable {
    let paths = Mutex<[String]>([])
  }

  /// Calls `body` and, if it throws, removes every file and directory that it has newly made.
  ///
  /// - Throws: What `body` throws.
  package static func together<Result>(_ body: () throws -> Result) throws -> Result {
    let journal = Journal()
    do {
      return try $made.withValue(journal) { try body() }
    } catch {
      for path in journal.paths.withLock({ $0 }).reversed() where unlink(path) != 0 { rmdir(path) }
      throw error
    }
  }

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
    try permit(path)
    if mkdir(path, 0o777) == 0 {
      made?.paths.withLock { $0.append(path) }
    } else if errno != EEXIST {
      throw .writing(path, errno: errno)
    }
  }

  /// Replaces the file at `path` by `data`.
  ///
  /// - Parameters:
  ///   - data: The new content.
  ///   - path: The file.
  ///   - followingLinks: Whether a symbolic link stays and the file that it names is replaced, as for files
  ///     that a person names; files of a run directory replace links.
  ///   - permissions: Those of a new file, before the process's mask.
  /// - Throws: `FileError` naming a full disk, a read-only or missing directory, or any other
  ///   reason; the old file, if any, is then untouched.
  package static func write(
    _ data: Data, to path: String, followingLinks: Bool = true, permissions: mode_t = 0o666
  ) throws(FileError) {
    try stream(to: path, followingLinks: followingLinks, permissions: permissions) {
      sink throws(FileError) in try sink.append(Array(data))
    }
  }

  /// Replaces the file at `path` by what `body` appends to the sink; a trial leaves everything as
  /// it was.
  ///
  /// - Throws: what `body` throws, or `FileError` as `write` does.
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
    if old == nil { made?.paths.withLock { $0.append(path) } }
  }

  /// Gives a file a second name in the same file system, in place of what had it; the content stays
  /// under that name when the first one gets another.
  ///
  /// - Throws: `FileError` for a missing file, a full disk, or one without hard links.
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
    // Renaming one name of a file to another one of the same file does nothing.
    defer { unlink(temporary) }
    try permit(other)
    guard rename(temporary, other) == 0 else { throw .writing(other, errno: errno) }
  }

  /// The directory that holds `path`, "." for a bare file name.
  package static func directory(of path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
  }

  /// The last component of a path.
  package static func name(of path: String) -> String {
    String(path[(path.lastIndex(of: "/").map(path.index(after:)) ?? path.startIndex)...])
  }

  /// The absolute form of a path that a person gave, without `.` and `..`; a leading `~` is their home.
  ///
  /// - Parameters:
  ///   - path: Any path.
  ///   - home: The home directory; nil for the one of the user database.
  /// - Returns: The path, which need not exist.
  package static func absolute(
    _ path: String, home: String? = ProcessInfo.processInfo.environment["HOME"]
  ) -> String {
    var whole = path.hasPrefix("/") ? path : "\(FileManager.default.currentDirectoryPath)/\(path)"
    if path == "~" || path.hasPrefix("~/") {
      let known = home.flatMap { $0.hasPrefix("/") ? $0 : nil }
      let listed = getpwuid(geteuid())?.pointee.pw_dir.map { String(cString: $0) }
      whole = (known ?? listed ?? "") + path.dropFirst()
    }
    var parts: [Substring] = []
    for part in whole.split(separator: "/") where part != "." {
      if part == ".." { _ = parts.popLast() } else { parts.append(part) }
    }
    return "/" + parts.joined(separator: "/")
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

  /// Where symbolic links lead from `path`, to a file or a name for one.
  private static func target(of path: String) throws(FileError) -> String {
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

  /// What a save to `path` replaces; nil if nothing is there.
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

  /// A fresh name beside `path`: hidden, and never that of another process or an earlier call.
  fileprivate static func temporaryName(for path: String) throws(FileError) -> String {
    let name = name(of: path)
    guard !name.isEmpty else {
      throw FileError("\(path): is not a file name, nothing was written; name a file")
    }
    let stamp = String(UInt64.random(in: .min ... .max), radix: 36)
    return "\(directory(of: path))/\(temporaryPrefix(name))\(stamp).tmp"
  }

  private static func temporaryPrefix(_ name: String) -> String { ".\(name.prefix(100))." }

  /// Whether a file of this name is one that is being written, or was when its writer was killed.
  package static func isTemporary(_ name: String) -> Bool {
    name.hasPrefix(".") && name.hasSuffix(".tmp")
  }

  /// Removes what killed processes have not finished writing in a directory: every file, or only those
  /// that were to become the file called `name`.
  ///
  /// Whoever writes a file holds its lock; where the file system has no locks everything stays.
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

  /// Makes the rename itself durable; a file system that cannot sync a directory loses nothing else.
  fileprivate static func syncDirectory(_ path: String) {
    let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { return }
    fsync(descriptor)
    close(descriptor)
  }
}

/// A hidden file beside the one that it replaces when it is finished; locked while it is written, which
/// tells it from what a killed process has left.
package final class DraftFile {
  /// The open file.
  package let descriptor: Int32
  private let path, temporary: String
  private var isOpen = true

  /// Makes an empty file.
  ///
  /// - Throws: `FileError` for a full disk or a place that cannot be written to.
  package init(for path: String, permissions: mode_t = 0o666) throws(FileError) {
    try AtomicFile.permit(path)
    while true {
      let temporary = try AtomicFile.temporaryName(for: path)
      let descriptor = open(temporary, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, permissions)
      guard descriptor >= 0 else { throw .writing(path, errno: errno) }
      let isLocked = flock(descriptor, LOCK_EX | LOCK_NB) == 0
      var status = stat()
      // One that was taken for abandoned before it was locked has no name any more.
      if isLocked || errno != EWOULDBLOCK, fstat(descriptor, &status) == 0, status.st_nlink > 0 {
        (self.path, self.temporary, self.descriptor) = (path, temporary, descriptor)
        return
      }
      close(descriptor)
    }
  }

  deinit { discard() }

  /// Gives the new file the owner and the permissions of the one that it replaces, as far as that is
  /// allowed.
  func takePermissions(of old: stat) {
    if old.st_uid != geteuid() || old.st_gid != getegid() {
      _ = fchown(descriptor, old.st_uid, old.st_gid)
    }
    fchmod(descriptor, old.st_mode & 0o7777)
  }

  /// Syncs the file and puts it into its place.
  ///
  /// - Throws: `FileError` naming a full or failing disk; the file is then still a draft.
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
    try AtomicFile.permit(path)
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
