import Checkpoints
import Files
import Foundation
import Pictures

/// Images to be evaluated: `arr_0` of an archive, as ADM's evaluator reads samples, or a folder of PNG and JPEG
/// files.
package struct ImageSet {
  package let path: String
  /// Number of images.
  package let count: Int
  private let source: Source

  private enum Source {
    /// 8-bit RGB images (count, height, width, 3) that are mapped.
    case mapped(any TensorFile, TensorEntry)
    /// The same, decompressed.
    case bytes([UInt8], shape: [Int])
    /// Paths inside the folder, sorted.
    case files([String])
  }

  private static let endings: Set<String> = ["png", "jpg", "jpeg"]

  /// Opens a set; images stay on disk.
  ///
  /// - Throws: `FileError` for a path without images.
  package init(path: String) throws(FileError) {
    self.path = path
    var isFolder: ObjCBool = false
    if FileManager.default.fileExists(atPath: path, isDirectory: &isFolder), isFolder.boolValue {
      let all = FileManager.default.enumerator(atPath: path)?.compactMap { $0 as? String } ?? []
      let files = all.filter {
        Self.endings.contains(($0 as NSString).pathExtension.lowercased())
          && !$0.split(separator: "/").contains { $0.hasPrefix(".") }
      }.sorted()
      guard !files.isEmpty else {
        throw FileError("\(path): holds no PNG or JPEG image; give a folder of images")
      }
      (source, count) = (.files(files), files.count)
      return
    }
    let file = try Checkpoint.open(path)
    guard let entry = file.entry("arr_0"), entry.dtype == .u8, entry.shape.count == 4,
      entry.shape[3] == 3, entry.count > 0
    else {
      throw FileError(
        "\(path): has no 'arr_0' of 8-bit images (count, height, width, 3), but"
          + " \(file.entry("arr_0").map { "\($0.dtype.rawValue) of shape \($0.shape)" } ?? "none"); give images"
          + " written by sample --npz, or a folder of images")
    }
    count = entry.shape[0]
    source =
      file.isMapped(entry)
      ? .mapped(file, entry)
      : .bytes(try file.withBytes(of: entry) { Array($0) }, shape: entry.shape)
  }

  /// Whether a path is a folder of images or an archive of them rather than a model.
  package static func isSet(_ path: String) -> Bool {
    if path.lowercased().hasSuffix(".npz") { return true }
    var isFolder: ObjCBool = false
    return FileManager.default.fileExists(atPath: path, isDirectory: &isFolder)
      && isFolder.boolValue
      && access("\(path)/config.json", F_OK) != 0 && access("\(path)/model_index.json", F_OK) != 0
      && (try? ImageSet(path: path)) != nil
  }

  /// Reads an image.
  ///
  /// - Throws: `FileError` for a file that is no image or damaged.
  package func image(_ index: Int) throws(FileError) -> RGBImage {
    func cut(_ bytes: UnsafeRawBufferPointer, _ shape: [Int]) -> RGBImage {
      let size = shape[1] * shape[2] * 3
      return RGBImage(
        width: shape[2], height: shape[1],
        pixels: Array(bytes[(index * size)..<((index + 1) * size)]))
    }
    switch source {
    case .files(let names): return try RGBImage.read(path: "\(path)/\(names[index])")
    case .bytes(let bytes, let shape): return bytes.withUnsafeBytes { cut($0, shape) }
    case .mapped(let file, let entry):
      let image = try file.withBytes(of: entry) { cut($0, entry.shape) }
      try MappedFile.requireIntact()
      return image
    }
  }

  /// Digest of the content.
  ///
  /// - Parameters:
  ///   - cache: Folder of caches, which holds digests of large folders; nil for none.
  ///   - progress: Called with the number of files done; may throw to stop.
  /// - Returns: 64 hexadecimal digits.
  /// - Throws: `FileError` for an unreadable file, and errors of `progress`.
  package func digest(cache: String?, progress: (Int) throws -> Void = { _ in }) throws -> String {
    guard case .files(let names) = source else { return try ContentHash.sha256(path: path) }
    var known = DigestCache(of: path, in: cache)
    let digests = try known.digests(of: names, progress: progress)
    let lines = zip(names, digests).map { "\($0) \($1)\n" }.joined()
    return ContentHash.sha256(Data(lines.utf8))
  }
}
