import Foundation

/// Cache on disk of the SHA-256 digests of the files of a folder.
///
/// A digest is valid while the size, modification time and change time of the file are the same;
/// the change time cannot be set by programs. Small sets of files are not cached.
package struct DigestCache {
  /// Minimum total size in bytes of files whose digests are cached.
  package static let smallestKept = 32 << 20
  /// Maximum size of the cache file in bytes, about two million digests.
  private static let cacheLimit = 256 << 20
  /// Interval between saves, in seconds.
  private static let saveInterval: TimeInterval = 30
  /// Minimum age of a change in seconds, so that a later change has another timestamp on any file
  /// system.
  private static let settledAge: TimeInterval = 3

  private let folder: String
  private let path: String?
  private let smallestKept: Int
  private var entries: [String: Entry] = [:]

  private struct Entry {
    let stamp: String
    let digest: String
  }

  /// Opens the cache of a folder.
  ///
  /// - Parameters:
  ///   - folder: The folder of the files.
  ///   - directory: Folder of the cache, created on demand; nil disables the cache.
  ///   - smallestKept: Minimum total size in bytes of files whose digests are cached.
  package init(of folder: String, in directory: String?, smallestKept: Int = smallestKept) {
    let absolute = Self.absolute(folder)
    self.folder = absolute
    self.smallestKept = smallestKept
    path = directory.map {
      "\($0)/digests-\(ContentHash.sha256(Data(absolute.utf8)).prefix(24)).tsv"
    }
  }

  /// Makes a path absolute; keeps "..", whose meaning depends on links.
  static func absolute(_ path: String) -> String {
    path.hasPrefix("/") ? path : "\(FileManager.default.currentDirectoryPath)/\(path)"
  }

  /// Returns the digests of files, in their order.
  ///
  /// - Parameters:
  ///   - names: Paths inside the folder.
  ///   - unreadable: Replaces the digest of a file that is missing, unreadable or not regular.
  ///   - progress: Called with the number of digests known; may throw to stop, which keeps them in
  ///     the cache.
  /// - Returns: A digest for each of `names`.
  /// - Throws: `FileError` for an unreadable file without `unreadable`, and errors of `progress`.
  package mutating func digests(
    of names: [String], unreadable: String? = nil, progress: (Int) throws -> Void = { _ in }
  ) throws -> [String] {
    var stamps: [Stamp?] = []
    for name in names {
      let stamp = Stamp(of: "\(folder)/\(name)")
      if stamp == nil, unreadable == nil {
        throw FileError.reading("\(folder)/\(name)", errno: errno)
      }
      stamps.append(stamp)
    }
    let isKept = path != nil && stamps.reduce(0) { $0 + ($1?.size ?? 0) } >= smallestKept
    if isKept { load() }
    var hasNews = false
    var savedAt = Date()
    defer { if hasNews { save() } }
    var result: [String] = []
    for (name, stamp) in zip(names, stamps) {
      if let known = entries[name], known.stamp == stamp?.text {
        result.append(known.digest)
        continue
      }
      try progress(result.count)
      let isSettled = stamp.map { Date().timeIntervalSince1970 - $0.changedAt > Self.settledAge }
      let path = "\(folder)/\(name)"
      guard let digest = try? ContentHash.sha256(path: path) else {
        // Read again for the error.
        result.append(try unreadable ?? ContentHash.sha256(path: path))
        continue
      }
      result.append(digest)
      guard isKept, let stamp, isSettled == true, !name.contains(where: \.isNewline) else {
        continue
      }
      entries[name] = Entry(stamp: stamp.text, digest: digest)
      hasNews = true
      if Date().timeIntervalSince(savedAt) > Self.saveInterval {
        save()
        savedAt = Date()
      }
    }
    return result
  }

  /// Reads the cache file and skips malformed lines.
  private mutating func load() {
    guard let path, let bytes = try? AtomicFile.read(path, limit: Self.cacheLimit) else { return }
    for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") {
      let fields = line.split(separator: "\t", maxSplits: 2)
      guard fields.count == 3, fields[0].count == 64 else { continue }
      entries[String(fields[2])] = Entry(stamp: String(fields[1]), digest: String(fields[0]))
    }
  }

  /// Writes the cache file; failures are ignored, because the files can be read again.
  private func save() {
    guard let path else { return }
    let lines = entries.sorted { $0.key < $1.key }
      .map { "\($0.value.digest)\t\($0.value.stamp)\t\($0.key)\n" }
    try? AtomicFile.makeDirectory(AtomicFile.directory(of: path))
    try? AtomicFile.write(Data(lines.joined().utf8), to: path)
  }

  /// File attributes that reveal a change.
  private struct Stamp {
    let size: Int
    let text: String
    /// Time of the last change in seconds since 1970.
    let changedAt: TimeInterval

    /// Reads the attributes of a file; nil if there is none.
    init?(of path: String) {
      var status = stat()
      guard stat(path, &status) == 0 else { return nil }
      size = Int(status.st_size)
      let (modified, changed) = (status.st_mtim, status.st_ctim)
      text =
        "\(status.st_dev) \(status.st_ino) \(size) \(modified.tv_sec).\(modified.tv_nsec) \(changed.tv_sec).\(changed.tv_nsec)"
      changedAt = TimeInterval(max(modified.tv_sec, changed.tv_sec))
    }
  }
}

extension ContentHash {
  /// Returns the digest of several files as `sha256(paths:)`, reading only files that have changed.
  ///
  /// - Parameters:
  ///   - paths: The files, in order.
  ///   - directory: Folder of the cache; nil disables the cache.
  ///   - progress: Called with the number of digests known; may throw to stop.
  /// - Returns: The digest.
  /// - Throws: `FileError` when a file is missing, unreadable or not regular, and errors of
  ///   `progress`.
  package static func sha256(
    paths: [String], keptIn directory: String?, progress: (Int) throws -> Void = { _ in }
  ) throws -> String {
    var digests: [String] = []
    let absolute = paths.map(DigestCache.absolute)
    // Consecutive files of one folder share a cache.
    var start = 0
    while start < absolute.count {
      let folder = AtomicFile.directory(of: absolute[start])
      let end =
        absolute[start...].firstIndex { AtomicFile.directory(of: $0) != folder } ?? absolute.count
      let names = absolute[start..<end].map { String($0.split(separator: "/").last ?? "") }
      var cache = DigestCache(of: folder, in: directory)
      digests += try cache.digests(of: names) { try progress(start + $0) }
      start = end
    }
    return digest(of: digests)
  }

  /// Digest of digests; a single digest is returned unchanged.
  static func digest(of digests: [String]) -> String {
    digests.count == 1 ? digests[0] : sha256(Data(digests.joined(separator: "\n").utf8))
  }
}
