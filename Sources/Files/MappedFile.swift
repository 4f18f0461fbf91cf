import Foundation

/// A read-only memory mapping of a regular file or a part of one, unmapped when the object goes.
package final class MappedFile {
  /// All bytes of the file or part; valid as long as this object lives.
  package let bytes: UnsafeRawBufferPointer
  /// The mapping that this one is a part of.
  private let whole: MappedFile?

  /// Maps the file at `path`.
  ///
  /// - Throws: `FileError` when the file is missing, unreadable or no regular file.
  package init(path: String) throws(FileError) {
    whole = nil
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else { throw .reading(path, errno: errno) }
    defer { close(descriptor) }
    let size = try MappedFile.regularSize(descriptor, path: path)
    guard size > 0 else {
      bytes = UnsafeRawBufferPointer(start: nil, count: 0)
      return
    }
    guard let start = mmap(nil, size, PROT_READ, MAP_PRIVATE, descriptor, 0), start != MAP_FAILED
    else { throw .reading(path, errno: errno) }
    bytes = UnsafeRawBufferPointer(start: start, count: size)
  }

  /// A part of another mapping, which lives as long as this one.
  package init(_ range: Range<Int>, of whole: MappedFile) {
    self.whole = whole
    bytes = UnsafeRawBufferPointer(rebasing: whole.bytes[range])
  }

  deinit {
    if whole == nil, let start = bytes.baseAddress {
      munmap(UnsafeMutableRawPointer(mutating: start), bytes.count)
    }
  }

  /// Gives back the memory of the pages that lie wholly within mapped bytes; they stay valid.
  ///
  /// - Precondition: The bytes are those of a mapping, not of a buffer, whose content would be lost.
  package static func release(_ bytes: UnsafeRawBufferPointer) {
    guard let start = bytes.baseAddress else { return }
    let page = Int(getpagesize())
    let first = (Int(bitPattern: start) + page - 1) / page * page
    let end = (Int(bitPattern: start) + bytes.count) / page * page
    guard first < end, let pages = UnsafeMutableRawPointer(bitPattern: first) else { return }
    madvise(pages, end - first, MADV_DONTNEED)
  }

  /// The size of an open regular file; anything else is refused.
  package static func regularSize(_ descriptor: Int32, path: String) throws(FileError) -> Int {
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { throw .reading(path, errno: errno) }
    if status.st_mode & S_IFMT == S_IFDIR { throw .reading(path, errno: EISDIR) }
    guard status.st_mode & S_IFMT == S_IFREG else {
      throw FileError("\(path): is not a regular file; name a file on disk")
    }
    return Int(status.st_size)
  }
}
