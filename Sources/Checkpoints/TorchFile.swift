import Files
import Foundation

/// Checkpoint written by `torch.save`: a ZIP archive, or the format of releases before 1.6.
///
/// The pickle is parsed as data (`Unpickler`); no code in it is executed. Opening checks every
/// tensor against its storage. Checksums of archive members are checked on opening for small
/// archives, otherwise when a storage is first read.
package final class TorchFile: TensorFile, @unchecked Sendable {
  package let path: String
  package let format: String
  package let names: [String]
  package let values: [String: PlainValue]
  private let entries: [String: TensorEntry]
  private let storages: any TorchStorages

  /// Maximum size of a pickle in bytes; checkpoints with thousands of tensors have about one
  /// megabyte.
  static let pickleLimit = 16 << 20

  /// Reads an archive.
  ///
  /// - Throws: `FileError` that says what is wrong with the file.
  convenience init(archive: ZipArchive) throws(FileError) {
    let path = archive.path
    guard let folder = archive.members.first?.name.split(separator: "/").first.map(String.init),
      let index = archive.index(of: "\(folder)/data.pkl")
    else {
      throw FileError(
        "\(path): is a ZIP archive without 'data.pkl', so no PyTorch checkpoint;"
          + " name a file written by torch.save")
    }
    guard archive.index(of: "\(folder)/constants.pkl") == nil else {
      throw FileError(
        "\(path): is a TorchScript archive, expected a state dict;"
          + " save `model.state_dict()` with torch.save")
    }
    guard archive.members[index].size <= Self.pickleLimit else {
      throw FileError(
        "\(path): its pickle has \(archive.members[index].size) bytes, expected at most"
          + " \(Self.pickleLimit); save `model.state_dict()` with torch.save")
    }
    try archive.verifyIfSmall()
    let isBigEndian = try Self.isBigEndian(archive, folder)
    let (pickle, size) = try archive.withContent(index) { bytes in
      (
        Result { () throws(PickleFault) in try Unpickler.read(bytes, storages: .archive) },
        bytes.count
      )
    }
    try self.init(path: path, format: "PyTorch archive", fileSize: archive.byteCount) {
      () throws(PickleFault) in
      let pickle = try pickle.get()
      return (pickle, try PickleWalk(pickle, size: size))
    } storages: { pickle throws(FileError) in
      try ArchiveStorages(archive, folder: folder, pickle.storages, isBigEndian: isBigEndian)
    }
  }

  /// Reads a file of a release before 1.6.
  ///
  /// - Throws: `FileError` that says what is wrong with the file.
  convenience init(legacy mapping: MappedFile, path: String) throws(FileError) {
    let parts = Result { () throws(PickleFault) in try LegacyTorchParts(mapping.bytes) }
    try self.init(path: path, format: "PyTorch legacy file", fileSize: mapping.bytes.count) {
      () throws(PickleFault) in
      let parts = try parts.get()
      return (parts.pickle, try PickleWalk(parts.pickle, size: parts.pickle.end))
    } storages: { pickle throws(FileError) in
      guard case .success(let parts) = parts else { preconditionFailure("checked above") }
      return try LegacyStorages(mapping, parts, path: path)
    }
  }

  private init(
    path: String, format: String, fileSize: Int,
    contents: () throws(PickleFault) -> (Pickle, PickleWalk),
    storages open: (Pickle) throws(FileError) -> any TorchStorages
  ) throws(FileError) {
    let (pickle, walk): (Pickle, PickleWalk)
    do throws(PickleFault) {
      (pickle, walk) = try contents()
    } catch {
      throw FileError(
        "\(path): the pickle is refused at byte \(error.position), because \(error.message);"
          + " nothing was executed, save `model.state_dict()` with torch.save or fetch the file again"
      )
    }
    let storages = try open(pickle)
    var entries: [String: TensorEntry] = [:]
    for (name, number) in walk.tensors {
      entries[name] = try Self.entry(
        name, pickle.tensors[number], pickle.storages, storages, fileSize: fileSize, path: path)
    }
    self.path = path
    self.format = format
    self.entries = entries
    self.storages = storages
    names = walk.tensors.map(\.name)
    values = walk.values
  }

  package func entry(_ name: String) -> TensorEntry? { entries[name] }

  package func withBytes<Result>(
    of entry: TensorEntry, _ body: (UnsafeRawBufferPointer) -> Result
  ) throws(FileError) -> Result {
    try storages.withBytes(entry.storage) { bytes in
      body(UnsafeRawBufferPointer(rebasing: bytes[entry.offset..<entry.offset + entry.span]))
    }
  }

  private static func isBigEndian(_ archive: ZipArchive, _ folder: String) throws(FileError)
    -> Bool
  {
    guard let index = archive.index(of: "\(folder)/byteorder") else { return false }
    let text = try archive.withContent(index) { String(decoding: $0.prefix(16), as: UTF8.self) }
    switch text {
    case "little": return false
    case "big": return true
    default:
      throw FileError(
        "\(archive.path): member 'byteorder' is \(text.jsonQuoted), expected little or big;"
          + " the file is damaged, fetch or save it again")
    }
  }

  /// Checks a tensor against its storage.
  private static func entry(
    _ name: String, _ tensor: Pickle.Tensor, _ known: [Pickle.Storage],
    _ storages: any TorchStorages, fileSize: Int, path: String
  ) throws(FileError) -> TensorEntry {
    let storage = known[tensor.storage]
    let dtype = tensor.dtype ?? storage.dtype
    func refusal(_ reason: String) -> FileError {
      FileError(
        "\(path): tensor \"\(name)\" of shape \(tensor.shape), strides \(tensor.strides) and offset"
          + " \(tensor.offset) \(reason); the file is damaged, fetch or save it again")
    }
    guard tensor.offset >= 0, tensor.shape.allSatisfy({ $0 >= 0 }),
      tensor.strides.allSatisfy({ $0 >= 0 })
    else { throw refusal("has a negative number") }
    guard let byteCount = SafetensorsFile.byteCount(tensor.shape, dtype) else {
      throw refusal("has more elements than 64 bits can count")
    }
    // Bounds the memory of expanded views (stride 0) relative to the file size.
    guard byteCount <= 16 * fileSize else {
      throw refusal("repeats its elements to \(byteCount) bytes in a file of \(fileSize)")
    }
    if byteCount > 0 {
      var last = tensor.offset
      for (extent, stride) in zip(tensor.shape, tensor.strides) {
        let (reach, first) = (extent - 1).multipliedReportingOverflow(by: stride)
        let (sum, second) = last.addingReportingOverflow(reach)
        guard !first, !second else { throw refusal("reaches beyond 64 bits") }
        last = sum
      }
      let count = storage.viewCount * storage.dtype.size / dtype.size
      guard last < count else {
        throw refusal("reaches beyond the \(count) elements of its storage")
      }
    }
    return TensorEntry(
      name: name, dtype: dtype, shape: tensor.shape, strides: tensor.strides,
      isBigEndian: storages.isBigEndian, storage: tensor.storage,
      offset: byteCount == 0
        ? 0 : storage.viewStart * storage.dtype.size + tensor.offset * dtype.size)
  }
}

/// Bytes of the storages of a pickle, by storage index.
protocol TorchStorages: Sendable {
  var isBigEndian: Bool { get }

  /// Calls `body` with all bytes of a storage.
  ///
  /// - Throws: `FileError` when they fail their checksum.
  func withBytes<Result>(
    _ storage: Int, _ body: (UnsafeRawBufferPointer) -> Result
  ) throws(FileError) -> Result
}

/// Storages in the members `data/<key>` of an archive.
private struct ArchiveStorages: TorchStorages {
  let isBigEndian: Bool
  private let archive: ZipArchive
  private let members: [Int]

  init(
    _ archive: ZipArchive, folder: String, _ storages: [Pickle.Storage], isBigEndian: Bool
  ) throws(FileError) {
    var members: [Int] = []
    for storage in storages {
      let name = "\(folder)/data/\(storage.key)"
      guard let index = archive.index(of: name) else {
        throw FileError(
          "\(archive.path): has no member \"\(name)\", which the pickle refers to;"
            + " the file is damaged, fetch or save it again")
      }
      let member = archive.members[index]
      guard !member.isDeflated,
        SafetensorsFile.byteCount([storage.count], storage.dtype) == member.size
      else {
        throw FileError(
          "\(archive.path): member \"\(name)\" has \(member.size) bytes, expected \(storage.count)"
            + " uncompressed elements of type \(storage.dtype.rawValue);"
            + " the file is damaged, fetch or save it again")
      }
      members.append(index)
    }
    self.archive = archive
    self.members = members
    self.isBigEndian = isBigEndian
  }

  func withBytes<Result>(
    _ storage: Int, _ body: (UnsafeRawBufferPointer) -> Result
  ) throws(FileError) -> Result {
    try archive.withContent(members[storage], body)
  }
}
