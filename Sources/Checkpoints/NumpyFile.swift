import Files
import Foundation

/// NumPy array (`.npy`) or archive of arrays (`.npz`), stored or deflated.
package final class NumpyFile: TensorFile, @unchecked Sendable {
  package let path: String
  package let format: String
  package let names: [String]
  private let entries: [String: TensorEntry]
  private let content: Content

  private enum Content {
    case array(MappedFile)
    case archive(ZipArchive)
  }

  /// Reads a single array, named by the base name of the file.
  ///
  /// - Throws: `FileError` that says what is wrong with the file.
  init(array mapping: MappedFile, path: String) throws(FileError) {
    let name = AtomicFile.stem(of: path)
    let entry = try Self.entry(
      name, mapping.bytes, size: mapping.bytes.count, storage: 0, path: path)
    self.path = path
    format = "NumPy array"
    names = [name]
    entries = [name: entry]
    content = .array(mapping)
  }

  /// Reads an archive of arrays.
  ///
  /// - Throws: `FileError` that says what is wrong with the file.
  init(archive: ZipArchive) throws(FileError) {
    var names: [String] = []
    var entries: [String: TensorEntry] = [:]
    try archive.verifyIfSmall()
    for (index, member) in archive.members.enumerated() {
      guard member.name.hasSuffix(".npy"),
        let start = archive.prefix(index, limit: NumpyHeader.limit)
      else {
        throw FileError(
          "\(archive.path): member \"\(member.name)\" is no NumPy array or damaged;"
            + " fetch or save the file again")
      }
      let name = String(member.name.dropLast(4))
      let entry = try start.withUnsafeBytes { bytes in
        Result { () throws(FileError) in
          try Self.entry(name, bytes, size: member.size, storage: index, path: archive.path)
        }
      }.get()
      names.append(name)
      entries[name] = entry
    }
    path = archive.path
    format = "NumPy archive"
    self.names = names
    self.entries = entries
    content = .archive(archive)
  }

  package func entry(_ name: String) -> TensorEntry? { entries[name] }

  package func isMapped(_ entry: TensorEntry) -> Bool {
    guard case .archive(let archive) = content else { return true }
    return !archive.members[entry.storage].isDeflated
  }

  package func withBytes<Result>(
    of entry: TensorEntry, _ body: (UnsafeRawBufferPointer) -> Result
  ) throws(FileError) -> Result {
    func part(_ bytes: UnsafeRawBufferPointer) -> Result {
      body(UnsafeRawBufferPointer(rebasing: bytes[entry.offset..<entry.offset + entry.span]))
    }
    switch content {
    case .archive(let archive): return try archive.withContent(entry.storage, part)
    case .array(let mapping):
      defer { withExtendedLifetime(mapping) {} }
      return part(mapping.bytes)
    }
  }

  private static func entry(
    _ name: String, _ bytes: UnsafeRawBufferPointer, size: Int, storage: Int, path: String
  ) throws(FileError) -> TensorEntry {
    let header: NumpyHeader
    do throws(FormatFault) {
      header = try NumpyHeader(bytes)
    } catch {
      throw FileError(
        "\(path): array \"\(name)\" \(error.message); save plain numeric arrays with numpy")
    }
    guard SafetensorsFile.byteCount(header.shape, header.dtype) == size - header.dataOffset else {
      throw FileError(
        "\(path): array \"\(name)\" of shape \(header.shape) \(header.dtype.rawValue) does not fill"
          + " its \(size - header.dataOffset) bytes; the file is damaged, fetch or save it again")
    }
    return TensorEntry(
      name: name, dtype: header.dtype, shape: header.shape, strides: header.strides,
      isBigEndian: header.isBigEndian, storage: storage, offset: header.dataOffset)
  }
}
