import Files

/// Opens files of tensors of any supported format.
package enum Checkpoint {
  /// Opens a file by its content: safetensors, the index of a sharded model, a PyTorch archive or
  /// legacy file, a NumPy array or archive, a frozen TensorFlow graph.
  ///
  /// - Throws: `FileError` that says what is wrong with the file.
  package static func open(_ path: String) throws(FileError) -> any TensorFile {
    if path.contains(#/\.index(\.[a-z0-9]+)?\.json$/#) { return try ShardedFile(index: path) }
    let mapping = try MappedFile(path: path)
    let start = mapping.bytes.prefix(512)
    func starts(_ text: StaticString, at offset: Int = 0) -> Bool {
      start.dropFirst(offset).starts(
        with: UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }
    if starts("PK\u{3}\u{4}") || starts("PK\u{5}\u{6}") {
      let archive = try ZipArchive(mapping, path: path)
      let isNumpy = archive.members.first?.name.hasSuffix(".npy") ?? false
      return isNumpy ? try NumpyFile(archive: archive) : try TorchFile(archive: archive)
    }
    if start.first == 0x93 { return try NumpyFile(array: mapping, path: path) }
    if start.first == 0x80, start.count < 9 || start[8] != UInt8(ascii: "{") {
      return try TorchFile(legacy: mapping, path: path)
    }
    // The first field of a graph: a node.
    if start.first == 0x0A, path.lowercased().hasSuffix(".pb") {
      return try FrozenGraph(mapping, path: path)
    }
    if start.count > 8 && start[8] == UInt8(ascii: "{") || path.hasSuffix(".safetensors") {
      return try SafetensorsFile(path: path)
    }
    if mapping.bytes.isEmpty {
      throw FileError("\(path): is empty; fetch or save the file again")
    }
    let kind =
      starts("PYTORCH1")
      ? "is in PyTorch's preview format, which no release reads"
      : starts("ustar", at: 257)
        ? "is a tar archive, perhaps of a PyTorch release before 0.2"
        : "is no checkpoint (it starts with \(described(start)))"
    throw FileError(
      "\(path): \(kind); name a safetensors, PyTorch (.pt, .pth, .bin) or NumPy (.npy, .npz) file")
  }

  /// Opens a checkpoint of `torch.save` in a mapped file or a part of one; `path` names it in
  /// errors.
  ///
  /// - Throws: `FileError` that says what is wrong with it.
  package static func torch(_ mapping: MappedFile, _ path: String) throws(FileError) -> TorchFile {
    if mapping.bytes.starts(with: [0x50, 0x4B, 0x03, 0x04]) {
      return try TorchFile(archive: ZipArchive(mapping, path: path))
    }
    guard mapping.bytes.first == 0x80 else {
      throw FileError("\(path): is no PyTorch file; write it with torch.save")
    }
    return try TorchFile(legacy: mapping, path: path)
  }

  /// Describes the first bytes as text if printable, otherwise in hexadecimal.
  private static func described(_ start: Slice<UnsafeRawBufferPointer>) -> String {
    let bytes = Array(start.prefix(16))
    if bytes.allSatisfy({ (0x20..<0x7F).contains($0) }) {
      return String(decoding: bytes, as: UTF8.self).jsonQuoted
    }
    return "bytes "
      + bytes.prefix(8).map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: " ")
  }
}
