import Files

/// Writes a state dict as a ZIP archive for `torch.load(weights_only=True)`.
///
/// The object is an ordered dictionary of contiguous tensors, each with its own storage aligned to
/// 64 bytes, so that the file can be mapped.
package enum TorchWriter {
  private static let alignment = 64

  /// Writes the items in their order to `path` atomically.
  ///
  /// - Parameters:
  ///   - items: The state dict.
  ///   - entry: Key of the dictionary entry that holds the state dict, as in training checkpoints;
  ///     nil writes the state dict itself.
  ///   - path: The file to write.
  ///   - zip64Limit: Threshold of sizes and offsets for ZIP64 fields; lower than the format
  ///     requires only in tests.
  /// - Precondition: names are unique, shapes fit the element counts, dtypes are F32, F16 or BF16.
  /// - Throws: `FileError` as `AtomicFile.write` does, and errors of loading the items.
  package static func write(
    _ items: [TensorItem], entry: String? = nil, to path: String, zip64Limit: Int = 0xFFFF_FFFF
  ) throws(FileError) {
    TensorItem.check(items)
    // As in torch.save.
    let folder = AtomicFile.stem(of: path)
    try AtomicFile.stream(to: path) { sink throws(FileError) in
      var archive = ZipWriter(sink, limit: zip64Limit)
      func add(_ name: String, _ bytes: [UInt8]) throws(FileError) {
        try archive.member("\(folder)/\(name)", bytes, alignment: alignment)
      }
      try add("data.pkl", pickle(items, entry: entry))
      try add("byteorder", Array("little".utf8))
      for (index, item) in items.enumerated() {
        try archive.member("\(folder)/data/\(index)", size: item.byteCount, alignment: alignment) {
          sink throws(FileError) in try item.write(to: sink)
        }
      }
      try add("version", Array("3\n".utf8))
      try archive.finish()
    }
  }

  /// Encodes the state dict in pickle protocol 2, inside a dictionary if `entry` is given.
  private static func pickle(_ items: [TensorItem], entry: String?) -> [UInt8] {
    var code: [UInt8] = [0x80, 2]
    func global(_ module: String, _ name: String) {
      code += Array("c\(module)\n\(name)\n".utf8)
    }
    func text(_ text: String) {
      code.append(UInt8(ascii: "X"))
      code += (0..<4).map { UInt8(truncatingIfNeeded: text.utf8.count >> (8 * $0)) }
      code += Array(text.utf8)
    }
    func integer(_ value: Int) {
      code += [0x8A, 8] + (0..<8).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
    }
    func tuple(_ values: [Int]) {
      code.append(UInt8(ascii: "("))
      values.forEach(integer)
      code.append(UInt8(ascii: "t"))
    }
    func orderedDictionary() {
      global("collections", "OrderedDict")
      code += Array(")R".utf8)
    }
    if let entry {
      code.append(UInt8(ascii: "}"))
      text(entry)
    }
    orderedDictionary()
    code.append(UInt8(ascii: "("))
    for (index, item) in items.enumerated() {
      text(item.name)
      global("torch._utils", "_rebuild_tensor_v2")
      code += Array("((".utf8)
      text("storage")
      global("torch", item.dtype.storageClass)
      text(String(index))
      text("cpu")
      integer(item.count)
      code += Array("tQ".utf8)
      integer(0)
      tuple(item.shape)
      tuple(TensorEntry.contiguousStrides(item.shape))
      code.append(0x89)
      orderedDictionary()
      code += Array("tR".utf8)
    }
    return code + Array((entry == nil ? "u." : "us.").utf8)
  }
}

extension DType {
  /// PyTorch storage class of a written type.
  fileprivate var storageClass: String {
    switch self {
    case .f16: "HalfStorage"
    case .bf16: "BFloat16Storage"
    default: "FloatStorage"
    }
  }
}
