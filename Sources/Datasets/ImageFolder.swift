import Files
import Foundation
import Pictures

/// Folder of PNG and JPEG images with one subfolder per class.
package struct ImageFolder: Sendable {
  /// One image.
  package struct Item: Sendable {
    /// Path relative to the folder.
    package let name: String
    /// Index of its subfolder in `classes`.
    package let classIndex: Int
  }

  /// Path of the folder.
  package let path: String
  /// Names of the class subfolders, sorted.
  package let classes: [String]
  /// All images, sorted by class and name.
  package let items: [Item]
  /// One line per ignored file or folder: no image by its extension, an image outside a class
  /// folder, a folder that is already listed or cannot be listed.
  package let ignored: [String]

  private static let endings: Set<String> = ["png", "jpg", "jpeg", "jpe", "jfif"]

  /// Lists a folder without opening the images.
  ///
  /// Symbolic links are followed, except to folders already visited in the class and to folders
  /// that contain the data set.
  ///
  /// - Throws: `FileError` if there are no class subfolders or no images in them.
  package init(path: String) throws(FileError) {
    let names = ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).sorted()
    let around = FolderIdentity.folders(around: path)
    var (classes, items, ignored): ([String], [Item], [String]) = ([], [], [])
    for name in names where !name.hasPrefix(".") {
      guard FolderIdentity("\(path)/\(name)") != nil else {
        if Self.isImage(name) {
          ignored.append("\(path)/\(name): lies in no class folder")
        } else if access("\(path)/\(name)", F_OK) != 0 {
          ignored.append("\(path)/\(name): is a link that leads nowhere")
        }
        continue
      }
      let inside = Self.files(below: name, of: path, without: around, &ignored).sorted()
      let images = inside.filter(Self.isImage)
      ignored += inside.filter { !Self.isImage($0) && !Self.isHidden($0) }
        .map { "\(path)/\($0): its ending is not that of a PNG or JPEG file" }
      if images.isEmpty { continue }
      items += images.map { Item(name: $0, classIndex: classes.count) }
      classes.append(name)
    }
    guard !items.isEmpty else {
      throw FileError(
        "\(path): holds no images in class folders, expected files such as 'cat/1.png';"
          + " put PNG or JPEG files into a folder for each class")
    }
    self.path = path
    self.classes = classes
    self.items = items
    self.ignored = ignored
  }

  /// Identity of a folder (device and inode), independent of its path.
  private struct FolderIdentity: Hashable {
    let device: dev_t
    let number: ino_t

    /// Reads the identity of the folder at a path, following links; nil if there is none.
    init?(_ path: String) {
      var status = stat()
      guard stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else { return nil }
      (device, number) = (status.st_dev, status.st_ino)
    }

    /// Identities of a folder and of all folders that contain it.
    static func folders(around path: String) -> Set<FolderIdentity> {
      var resolved = URL(filePath: path).resolvingSymlinksInPath().path
      var result: Set<FolderIdentity> = []
      while true {
        if let folder = FolderIdentity(resolved) { result.insert(folder) }
        let above = AtomicFile.directory(of: resolved)
        if above == resolved || above == "." { return result }
        resolved = above
      }
    }
  }

  /// Lists the files below a class folder, by path relative to `root`.
  private static func files(
    below folder: String, of root: String, without around: Set<FolderIdentity>,
    _ ignored: inout [String]
  ) -> [String] {
    var (files, seen) = ([String](), around)
    // Iterative, because the nesting depth is limited by the file system alone.
    var waiting = [folder]
    while let folder = waiting.popLast() {
      guard let identity = FolderIdentity("\(root)/\(folder)") else {
        files.append(folder)
        continue
      }
      guard seen.insert(identity).inserted else {
        ignored.append(
          "\(root)/\(folder): leads to a folder that is listed already or contains this one")
        continue
      }
      do {
        let names = try FileManager.default.contentsOfDirectory(atPath: "\(root)/\(folder)")
        waiting += names.sorted(by: >).map { "\(folder)/\($0)" }
      } catch {
        ignored.append("\(root)/\(folder): cannot be listed; change its permissions")
      }
    }
    return files
  }

  private static func isImage(_ name: String) -> Bool {
    name.lastIndex(of: ".").map { endings.contains(name[$0...].dropFirst().lowercased()) } ?? false
  }

  private static func isHidden(_ name: String) -> Bool {
    name.split(separator: "/").contains { $0.hasPrefix(".") }
  }

  /// Returns the label of every class folder in a model.
  ///
  /// Numeric folder names are labels; names of the model's classes map to their labels; otherwise
  /// there must be one folder per class, and labels follow the sorted names, as in torchvision's
  /// `ImageFolder`.
  ///
  /// - Parameters:
  ///   - numClasses: Number of classes of the model.
  ///   - classNames: Names of the classes, if known.
  /// - Returns: A label for each of `classes`.
  /// - Throws: `FileError` for a number out of range, if only some folder names match classes, and
  ///   if none match and the number of folders differs from that of classes.
  package func labels(numClasses: Int, classNames: [String]) throws(FileError) -> [Int] {
    let numbers = classes.compactMap { Int($0) }
    if numbers.count == classes.count {
      if let bad = numbers.first(where: { !(0..<numClasses).contains($0) }) {
        throw FileError(
          "\(path): the class folder '\(bad)' is no label of the model, which has 0 to"
            + " \(numClasses - 1); rename or remove the folder")
      }
      return numbers
    }
    let named = classes.compactMap { classNames.firstIndex(of: $0) }
    if named.count == classes.count { return named }
    guard classes.count == numClasses, named.isEmpty else {
      let strangers =
        numbers.count > named.count
        ? classes.filter { Int($0) == nil } : classes.filter { !classNames.contains($0) }
      let list = strangers.prefix(5).map { "'\($0)'" }.joined(separator: " or ")
      let more = strangers.count > 5 ? " or \(strangers.count - 5) more" : ""
      let example = classNames.first.map { ", or by their names, such as '\($0)'" } ?? ""
      throw FileError(
        "\(path): has \(classes.count) class folders, the model \(numClasses) classes, none"
          + " of which is \(list)\(more); name the folders by the numbers of their classes,"
          + " from 0 on\(example)")
    }
    return Array(classes.indices)
  }

  /// Computes a digest of the paths and bytes of all images.
  ///
  /// - Parameters:
  ///   - directory: Folder of cached file digests.
  ///   - progress: Called with the number of images that have been read; may throw to stop.
  /// - Returns: A SHA-256 digest.
  /// - Throws: Errors of `progress`.
  package func identity(
    keptIn directory: String, progress: (Int) throws -> Void = { _ in }
  ) throws -> String {
    var cache = DigestCache(of: path, in: directory)
    let digests = try cache.digests(
      of: items.map(\.name), unreadable: "unreadable", progress: progress)
    let lines = zip(items, digests).map { "\($0.name)\t\($1)" }
    return ContentHash.sha256(Data(lines.joined(separator: "\n").utf8))
  }

  /// Reads an image, center-crops it as upstream and optionally mirrors it.
  ///
  /// - Throws: `FileError` if it cannot be read or is too elongated.
  package func image(_ item: Item, size: Int, isMirrored: Bool) throws(FileError) -> RGBImage {
    let image = try RGBImage.read(path: "\(path)/\(item.name)")
    guard let crop = image.centerCropped(to: size) else {
      throw FileError(
        "\(path)/\(item.name): is \(image.width)x\(image.height) and would have more than"
          + " \(RGBImage.pixelLimit) pixels with its short side at \(size); cut or remove it")
    }
    return isMirrored ? crop.mirrored() : crop
  }
}
