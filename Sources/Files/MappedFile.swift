import CSystem
import Foundation

/// Read-only memory mapping of a regular file or a part of one, unmapped when the object is
/// released.
///
/// If another program truncates the file, the lost part reads as zeros; `requireIntact` then
/// throws.
package final class MappedFile {
  /// The mapped bytes, valid for the lifetime of this object.
  package let bytes: UnsafeRawBufferPointer
  /// The mapping that contains this part.
  private let whole: MappedFile?
  private let guardian: MappingGuard?

  /// Maps the file at `path`.
  ///
  /// - Throws: `FileError` when the file is missing, unreadable or not regular.
  package init(path: String) throws(FileError) {
    whole = nil
    let file = try RegularFile(path)
    guard file.size > 0 else {
      bytes = UnsafeRawBufferPointer(start: nil, count: 0)
      guardian = nil
      return
    }
    guard let start = mmap(nil, file.size, PROT_READ, MAP_PRIVATE, file.descriptor, 0),
      start != MAP_FAILED
    else { throw .reading(path, errno: errno) }
    bytes = UnsafeRawBufferPointer(start: start, count: file.size)
    guardian = try MappingGuard(bytes, PROT_READ, file.descriptor, path: path)
  }

  /// Makes a part of another mapping, which is retained.
  package init(_ range: Range<Int>, of whole: MappedFile) {
    self.whole = whole
    guardian = nil
    bytes = UnsafeRawBufferPointer(rebasing: whole.bytes[range])
  }

  deinit {
    if whole == nil, let start = bytes.baseAddress {
      guardian?.stop()
      munmap(UnsafeMutableRawPointer(mutating: start), bytes.count)
    }
  }

  /// Throws if an access has found a mapped file of this process truncated.
  ///
  /// - Throws: `FileError` naming the file.
  package static func requireIntact() throws(FileError) {
    guard let path = csys_damaged_path() else { return }
    throw changed(String(cString: path), "was truncated by another program or could not be read")
  }

  /// Checks all mapped files of this process for truncation and writes by other programs.
  ///
  /// - Throws: `FileError` naming the file.
  package static func requireUnchanged() throws(FileError) {
    try requireIntact()
    let path = withUnsafeTemporaryAllocation(of: CChar.self, capacity: Int(PATH_MAX) + 1) {
      buffer in
      csys_changed_path(buffer.baseAddress, buffer.count) == 1
        ? buffer.baseAddress.map { String(cString: $0) } : nil
    }
    if let path { throw changed(path, "was written to by another program") }
  }

  private static func changed(_ path: String, _ what: String) -> FileError {
    FileError(
      "\(path): \(what) while it was in use; restore the file, or start again with its new content")
  }

  /// Releases the memory of pages entirely within mapped bytes; they are read again on access.
  ///
  /// - Precondition: The bytes belong to a file mapping; the content of other memory would be lost.
  package static func release(_ bytes: UnsafeRawBufferPointer) {
    guard let start = bytes.baseAddress else { return }
    let page = Int(getpagesize())
    let first = (Int(bitPattern: start) + page - 1) / page * page
    let end = (Int(bitPattern: start) + bytes.count) / page * page
    guard first < end, let pages = UnsafeMutableRawPointer(bitPattern: first) else { return }
    madvise(pages, end - first, MADV_DONTNEED)
  }
}

/// Protects accesses to a truncated mapped file from SIGBUS.
package struct MappingGuard: @unchecked Sendable {
  private let mapping: OpaquePointer

  /// Protects a mapping of an open file.
  ///
  /// - Throws: `FileError` if that fails; the memory is then unmapped.
  package init(
    _ bytes: UnsafeRawBufferPointer, _ protection: Int32, _ descriptor: Int32, path: String
  ) throws(FileError) {
    let start = UnsafeMutableRawPointer(mutating: bytes.baseAddress)
    guard let mapping = csys_watch_mapping(start, bytes.count, protection, descriptor, path) else {
      let code = errno
      munmap(start, bytes.count)
      throw .reading(path, errno: code)
    }
    self.mapping = mapping
  }

  /// Ends the protection; called before the memory is unmapped.
  package func stop() { csys_unwatch_mapping(mapping) }
}
