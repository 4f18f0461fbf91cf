import Files
import Foundation
import Pictures

/// PNG and JPEG images with a caption each: a folder with `NAME.txt` beside `NAME.png`, lines of JSON that name
/// image and caption, or tar shards of webdataset with `KEY.jpg` and `KEY.txt` or `KEY.json`.
package struct CaptionedImages {
  /// One image with its caption.
  package struct Item {
    /// Path or member, for errors and random streams.
    package let name: String
    package let text: String
    /// Digest of the image's location: a file, or a member of a tar.
    fileprivate let file: String
    fileprivate let member: Range<Int>?
  }

  /// What was named.
  package let path: String
  package let items: [Item]
  /// One line per file that is left out.
  package let ignored: [String]
  /// Files of captions and archives, whose content counts beside that of the images.
  private let lists: [String]
  private let archives: [String: MappedFile]

  private static let endings: Set<String> = ["png", "jpg", "jpeg", "jpe", "jfif"]
  private static let sizeLimit = 1 << 30
  /// Keys of the image and of the caption in JSON, in order of preference.
  private static let imageKeys = ["file_name", "image", "path", "img_path", "image_path"]
  private static let textKeys = ["text", "caption", "prompt"]
  private static let listName = "metadata.jsonl"

  /// Whether a path names captioned images.
  package static func isPresent(at path: String) -> Bool {
    var isFolder: ObjCBool = false
    guard FileManager.default.fileExists(atPath: path, isDirectory: &isFolder) else { return false }
    if !isFolder.boolValue {
      return isList(path) || (path.hasSuffix(".tar") && holdsImages(path))
    }
    if FileManager.default.fileExists(atPath: "\(path)/\(listName)") { return true }
    let names = ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).sorted()
    if let shard = names.first(where: { $0.hasSuffix(".tar") }) {
      return holdsImages("\(path)/\(shard)")
    }
    return names.allSatisfy { !$0.hasSuffix(".safetensors") && !$0.hasSuffix(".npz") }
  }

  private static func isList(_ path: String) -> Bool {
    path.hasSuffix(".jsonl") || path.hasSuffix(".json")
  }

  private static func holdsImages(_ path: String) -> Bool {
    guard let file = try? MappedFile(path: path),
      let archive = try? TarArchive(file.bytes, path: path)
    else { return false }
    return archive.members.contains { endings.contains(ending(of: $0.name)) }
  }

  /// Lists images and captions without opening the images.
  ///
  /// - Throws: `FileError` if there are none, or a list or archive is damaged.
  package init(path: String) throws(FileError) {
    var (items, ignored): ([Item], [String]) = ([], [])
    var archives: [String: MappedFile] = [:]
    var lists: [String] = []
    let isFolder = (try? FileManager.default.contentsOfDirectory(atPath: path)) != nil
    let list = isFolder ? "\(path)/\(Self.listName)" : path
    let names =
      isFolder ? ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).sorted() : []
    let shards =
      isFolder
      ? names.filter { $0.hasSuffix(".tar") }.map { "\(path)/\($0)" }
      : path.hasSuffix(".tar") ? [path] : []
    if isFolder ? names.contains(Self.listName) : Self.isList(path) {
      lists = [list]
      items = try Self.listed(in: list)
    } else if !shards.isEmpty {
      lists = shards
      for shard in shards {
        let file = try MappedFile(path: shard)
        archives[shard] = file
        let (own, others) = try Self.members(of: file, shard)
        items += own
        ignored += others
      }
    } else {
      (items, ignored) = Self.besideTexts(below: path)
    }
    guard !items.isEmpty else {
      throw FileError(
        "\(path): holds no images with captions, expected 'a.txt' beside 'a.png', lines of JSON with"
          + " \"file_name\" and \"text\", or tar shards of both; add captions"
          + (ignored.first.map { " (the first file left out: \($0))" } ?? ""))
    }
    (self.path, self.items, self.ignored) = (path, items, ignored)
    (self.lists, self.archives) = (lists, archives)
  }

  private static func ending(of name: String) -> String {
    name.lastIndex(of: ".").map { name[$0...].dropFirst().lowercased() } ?? ""
  }

  private static func stem(of name: String) -> String {
    name.lastIndex(of: ".").map { String(name[..<$0]) } ?? name
  }

  private static func besideTexts(below path: String) -> ([Item], [String]) {
    let names = ((try? FileManager.default.subpathsOfDirectory(atPath: path)) ?? []).sorted()
    var (items, ignored): ([Item], [String]) = ([], [])
    for name in names where endings.contains(ending(of: name)) && !name.hasPrefix(".") {
      let file = "\(path)/\(stem(of: name)).txt"
      guard let bytes = try? AtomicFile.read(file, limit: 1 << 20) else {
        ignored.append("\(path)/\(name): has no caption '\(stem(of: name)).txt'")
        continue
      }
      items.append(
        Item(
          name: name, text: String(decoding: bytes, as: UTF8.self).trimmed, file: "\(path)/\(name)",
          member: nil))
    }
    return (items, ignored)
  }

  /// Reads lines of JSON objects, or one array of them.
  private static func listed(in path: String) throws(FileError) -> [Item] {
    let bytes = try AtomicFile.read(path, limit: sizeLimit)
    let folder = AtomicFile.directory(of: path)
    func item(_ value: Any, _ place: String) throws(FileError) -> Item {
      let table = value as? [String: Any] ?? [:]
      let texts = textKeys.compactMap { table[$0] as? String }
      guard let image = imageKeys.compactMap({ table[$0] as? String }).first, let text = texts.first
      else {
        throw FileError(
          "\(path): \(place) names no image and caption, expected an object with \"file_name\" and \"text\";"
            + " correct it")
      }
      return Item(
        name: image, text: text.trimmed, file: image.hasPrefix("/") ? image : "\(folder)/\(image)",
        member: nil)
    }
    if let array = try? JSONSerialization.jsonObject(with: Data(bytes)) as? [Any] {
      var items: [Item] = []
      for (index, value) in array.enumerated() {
        items.append(try item(value, "entry \(index)"))
      }
      return items
    }
    var items: [Item] = []
    for (index, line) in bytes.split(separator: 10, omittingEmptySubsequences: false).enumerated() {
      if line.allSatisfy({ $0 <= 32 }) { continue }
      guard let value = try? JSONSerialization.jsonObject(with: Data(line)) else {
        throw FileError("\(path): line \(index + 1) is no JSON object; correct it or remove it")
      }
      items.append(try item(value, "line \(index + 1)"))
    }
    return items
  }

  /// Reads the samples of a webdataset shard.
  private static func members(
    of file: MappedFile, _ path: String
  ) throws(FileError) -> ([Item], [String]) {
    var images: [(key: String, name: String, range: Range<Int>)] = []
    var texts: [String: String] = [:]
    for member in try TarArchive(file.bytes, path: path).members {
      let base = member.name.lastIndex(of: "/").map(member.name.index(after:))
      guard let dot = member.name[(base ?? member.name.startIndex)...].firstIndex(of: ".") else {
        continue
      }
      let key = String(member.name[..<dot])
      let content = file.bytes[member.range]
      switch member.name[dot...].dropFirst().lowercased() {
      case "txt", "caption":
        texts[key] = String(decoding: content.prefix(1 << 20), as: UTF8.self).trimmed
      case "json":
        let table = try? JSONSerialization.jsonObject(with: Data(content.prefix(1 << 20)))
        let own = table as? [String: Any] ?? [:]
        let found = textKeys.compactMap { own[$0] as? String }.first
        if texts[key] == nil, let found { texts[key] = found.trimmed }
      case let kind where endings.contains(kind): images.append((key, member.name, member.range))
      default: break
      }
    }
    var (items, ignored): ([Item], [String]) = ([], [])
    for image in images {
      guard let text = texts[image.key] else {
        ignored.append("\(path)/\(image.name): has no caption '\(image.key).txt'")
        continue
      }
      items.append(Item(name: image.name, text: text, file: path, member: image.range))
    }
    return (items, ignored)
  }

  /// Computes a digest of the captions and of the bytes of all images.
  ///
  /// - Throws: `FileError` for a list or archive that is gone, and errors of `progress`.
  package func identity(
    keptIn directory: String, progress: (Int) throws -> Void = { _ in }
  ) throws -> String {
    var lines = items.map { "\($0.name)\t\($0.text)" }
    if archives.isEmpty {
      let folder = AtomicFile.absolute(lists.first.map(AtomicFile.directory) ?? path)
      // Paths outside the folder are made relative to it.
      let up = String(repeating: "../", count: folder.split(separator: "/").count)
      var cache = DigestCache(of: folder, in: directory)
      lines += try cache.digests(
        of: items.map { item in
          let file = AtomicFile.absolute(item.file)
          return file.hasPrefix("\(folder)/")
            ? String(file.dropFirst(folder.count + 1)) : up + file.dropFirst()
        }, unreadable: "unreadable", progress: progress)
    } else {
      lines.append(try ContentHash.sha256(paths: lists, keptIn: directory, progress: progress))
    }
    return ContentHash.sha256(Data(lines.joined(separator: "\n").utf8))
  }

  /// Reads an image, cut to a square of `size` pixels around its centre.
  ///
  /// - Throws: `FileError` if it cannot be read or is too elongated.
  package func image(_ item: Item, size: Int) throws(FileError) -> RGBImage {
    let image: RGBImage
    if let range = item.member, let archive = archives[item.file] {
      image = try RGBImage.read(MappedFile(range, of: archive), path: "\(item.file)/\(item.name)")
    } else {
      image = try RGBImage.read(path: item.file)
    }
    guard let crop = image.centerCropped(to: size) else {
      throw FileError(
        "\(item.name): is \(image.width)x\(image.height) and would have more than \(RGBImage.pixelLimit) pixels"
          + " with its short side at \(size); cut or remove it")
    }
    return crop
  }
}

extension String {
  fileprivate var trimmed: String { trimmingCharacters(in: .whitespacesAndNewlines) }
}
