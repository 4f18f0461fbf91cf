import Files

/// Pickles of a file written by torch.save before release 1.6: magic number, protocol version,
/// system, object, storage keys; the storages follow (pytorch/pytorch `serialization.py`).
struct LegacyTorchParts {
  /// The object.
  let pickle: Pickle
  /// Keys of the storages in file order.
  let keys: [String]
  /// Offset of the first storage.
  let end: Int

  /// 0x1950a86a20f9469cfc6c, little-endian.
  private static let magic: [UInt8] = [0x6C, 0xFC, 0x9C, 0x46, 0xF9, 0x20, 0x6A, 0xA8, 0x50, 0x19]
  private static let protocolVersion = 1001

  /// Reads the five pickles at the start of a file.
  ///
  /// - Throws: `PickleFault` with the offset of the first invalid byte.
  init(_ bytes: UnsafeRawBufferPointer) throws(PickleFault) {
    let first = try Unpickler.read(bytes, storages: .none)
    guard case .wideInteger(Self.magic) = first.root else {
      throw PickleFault(
        position: 0, message: "it does not start with the magic number of torch.save")
    }
    let second = try Unpickler.read(bytes, at: first.end, storages: .none)
    guard case .integer(Self.protocolVersion) = second.root else {
      throw PickleFault(position: first.end, message: "the version is not \(Self.protocolVersion)")
    }
    let third = try Unpickler.read(bytes, at: second.end, storages: .none)
    guard case .dictionary(let system) = third.root,
      case .truth(true) = third.dictionaries[system][.text("little_endian")]
    else {
      throw PickleFault(
        position: second.end, message: "it was not written on a little-endian machine")
    }
    pickle = try Unpickler.read(bytes, at: third.end, storages: .legacy)
    let last = try Unpickler.read(bytes, at: pickle.end, storages: .none)
    guard case .list(let list) = last.root else {
      throw PickleFault(position: pickle.end, message: "the list of storages is missing")
    }
    var keys: [String] = []
    for item in last.sequences[list] {
      guard case .text(let key) = item else {
        throw PickleFault(position: pickle.end, message: "a storage's key is no text")
      }
      keys.append(key)
    }
    self.keys = keys
    end = last.end
  }
}

/// Consecutive storages at the end of a legacy file, each preceded by its element count.
struct LegacyStorages: TorchStorages, @unchecked Sendable {
  let isBigEndian = false
  private let mapping: MappedFile
  private let ranges: [Range<Int>]

  /// Locates the storages.
  ///
  /// - Throws: `FileError` when one is missing, too short or described inconsistently.
  init(_ mapping: MappedFile, _ parts: LegacyTorchParts, path: String) throws(FileError) {
    func refusal(_ reason: String) -> FileError {
      FileError("\(path): \(reason); the file is damaged, fetch or save it again")
    }
    let storages = parts.pickle.storages
    var described: [String: Pickle.Storage] = [:]
    for storage in storages {
      if let other = described.updateValue(storage, forKey: storage.key),
        other.dtype != storage.dtype || other.count != storage.count
      {
        throw refusal("storage '\(storage.key)' is described in two ways")
      }
    }
    var found: [String: Range<Int>] = [:]
    var cursor = ByteCursor(mapping.bytes, at: parts.end)
    for key in parts.keys {
      guard let storage = described[key], found[key] == nil else {
        throw refusal("storage '\(key)' of its list is not described exactly once")
      }
      do {
        let count = try cursor.read(Int64.self)
        guard Int(count) == storage.count,
          let size = SafetensorsFile.byteCount([storage.count], storage.dtype)
        else {
          throw refusal("storage '\(key)' has \(count) elements, expected \(storage.count)")
        }
        let start = cursor.position
        _ = try cursor.take(size)
        found[key] = start..<cursor.position
      } catch let error as FileError {
        throw error
      } catch {
        throw refusal(
          "it ends within storage '\(key)', which should have \(storage.count) elements")
      }
    }
    guard cursor.left == 0 else {
      throw refusal("\(cursor.left) bytes at its end belong to no storage")
    }
    var ranges: [Range<Int>] = []
    for storage in storages {
      guard let range = found[storage.key] else {
        throw refusal("storage '\(storage.key)' is missing in its list")
      }
      ranges.append(range)
    }
    self.mapping = mapping
    self.ranges = ranges
  }

  func withBytes<Result>(
    _ storage: Int, _ body: (UnsafeRawBufferPointer) -> Result
  ) throws(FileError) -> Result {
    defer { withExtendedLifetime(mapping) {} }
    return body(UnsafeRawBufferPointer(rebasing: mapping.bytes[ranges[storage]]))
  }
}
