import Foundation

/// The SHA-256 digests of the files of a folder, kept on disk so that a large file is read once.
///
/// A digest holds for as long as the file's size and its times of modification and change are the same;
/// nobody can set the last of these. Sets of files that are read in a moment are not kept.
package struct DigestCache {
  /// Bytes of the files from which on their digests are kept.
  package static let smallestKept = 32 << 20
  /// Largest file of kept digests, which is about two million of them.
  private static let cacheLimit = 256 << 20
  /// Seconds between two savings of what has been read so far.
  private static let saveInterval: TimeInterval = 30
  /// How old, in seconds, a change must be for a later one to get another time on any file system.
  private static let settledAge: TimeInterval = 3

  private let folder: String
  private let path: String?
  private let smallestKept: Int
  private var entries: [String: Entry] = [:]

  private struct Entry {
    let stamp: String
    let digest: String
  }

  /// Opens the digests of a folder's files.
  ///
  /// - Parameters:
  ///   - folder: The folder of the files.
  ///   - directory: Where digests are kept, which is made when there are some; nil to keep none.
  ///   - smallestKept: Bytes of files from which on they are.
  package init(of folder: String, in directory: String?, smallestKept: Int = smallestKept) {
    let absolute = Self.absolute(folder)
    self.folder = absolute
    self.smallestKept = smallestKept
    path = directory.map {
      "\($0)/digests-\(ContentHash.sha256(Data(absolute.utf8)).prefix(24)).tsv"
    }
  }

  /// A path from the root on; ".." stays, since what it means depends on links.
  static func absolute(_ path: String) -> String {
    path.hasPrefix("/") ? path : "\(FileManager.default.currentDirectoryPath)/\(path)"
  }

  /// The digests of files, in their order.
  ///
  /// - Parameters:
  ///   - names: Paths inside the folder.
  ///   - unreadable: Stands for a file that is missing, unreadable or no regular file.
  ///   - progress: Called with the number of files whose digest is known; may throw to stop, after
  ///     which what was read is not read again.
  /// - Returns: A digest for each of `names`.
  /// - Throws: `FileError` for a file that cannot be read if nothing stands for it, what
  ///   `progress` throws.
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
        // Again, for its error.
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

  /// Reads what is kept; lines that make no sense are left out.
  private mutating func load() {
    guard let path, let bytes = try? AtomicFile.read(path, limit: Self.cacheLimit) else { return }
    for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") {
      let fields = line.split(separator: "\t", maxSplits: 2)
      guard fields.count == 3, fields[0].count == 64 else { continue }
      entries[String(fields[2])] = Entry(stamp: String(fields[1]), digest: String(fields[0]))
    }
  }

  /// Writes what is known; where that cannot be done the files are read again next time.
  private func save() {
    guard let path else { return }
    let lines = entries.sorted { $0.key < $1.key }
      .map { "\($0.value.digest)\t\($0.value.stamp)\t\($0.key)\n" }
    try? AtomicFile.makeDirectory(AtomicFile.directory(of: path))
    try? AtomicFile.write(Data(lines.joined().utf8), to: path)
  }

  /// What a change of a file changes.
  private struct Stamp {
    let size: Int
    let text: String
    /// When it was last changed, in seconds since 1970.
    let changedAt: TimeInterval

    /// That of a file; nil if there is none.
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
  /// The digest of a model or data set in several files, as `sha256(paths:)` gives it, of files that
  /// are only read when they have changed.
  ///
  /// - Parameters:
  ///   - paths: The files, in order.
  ///   - directory: Where digests are kept; nil to keep none.
  ///   - progress: Called with the number of files whose digest is known; may throw to stop.
  /// - Returns: The digest.
  /// - Throws: `FileError` when a file is missing, unreadable or no regular file, what `progress`
  ///   throws.
  package static func sha256(
    paths: [String], keptIn directory: String?, progress: (Int) throws -> Void = { _ in }
  ) throws -> String {
    var digests: [String] = []
    let absolute = paths.map(DigestCache.absolute)
    // Files of one folder in a row are looked up together.
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

  /// That of a single digest is itself.
  static func digest(of digests: [String]) -> String {
    digests.count == 1 ? digests[0] : sha256(Data(digests.joined(separator: "\n").utf8))
  }
}
