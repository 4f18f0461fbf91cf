import Files
import Foundation
import Pictures

/// A folder of PNG and JPEG images with a subfolder for every class.
package struct ImageFolder: Sendable {
  /// One image.
  package struct Item: Sendable {
    /// Its path inside the folder.
    package let name: String
    /// The number of its subfolder among `classes`.
    package let classIndex: Int
  }

  /// Where it is.
  package let path: String
  /// The names of the class subfolders, sorted.
  package let classes: [String]
  /// All images, sorted by class and name.
  package let items: [Item]
  /// A line for each file or folder that is passed over: by its ending no image, an image in no class folder,
  /// a folder that is listed already or cannot be.
  package let ignored: [String]

  private static let endings: Set<String> = ["png", "jpg", "jpeg", "jpe", "jfif"]

  /// Lists a folder; the images themselves are not opened.
  ///
  /// Links are followed, but to no folder twice in a class and to none that contains the data set.
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

  /// What tells a folder from all others, whatever path leads to it.
  private struct FolderIdentity: Hashable {
    let device: dev_t
    let number: ino_t

    /// That of the folder at a path or behind the link there; nil if there is none.
    init?(_ path: String) {
      var status = stat()
      guard stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else { return nil }
      (device, number) = (status.st_dev, status.st_ino)
    }

    /// A folder and all that contain it.
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

  /// The files below a class folder, by their paths inside `root`.
  private static func files(
    below folder: String, of root: String, without around: Set<FolderIdentity>,
    _ ignored: inout [String]
  ) -> [String] {
    var (files, seen) = ([String](), around)
    // Not recursive: folders may be nested as deeply as the file system allows.
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

  /// The label of every class folder in a model.
  ///
  /// Folders named by numbers are those labels; folders named as the model's classes have theirs;
  /// otherwise there must be a folder for every class, and they count in the order of their names, as
  /// torchvision's `ImageFolder` does.
  ///
  /// - Parameters:
  ///   - numClasses: Number of the model's classes.
  ///   - classNames: Their names, if the model has them.
  /// - Returns: A label for each of `classes`.
  /// - Throws: `FileError` for a number out of range and for folders that match no class, beside
  ///   others that do or in another number than the classes.
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

  /// Names the folder's exact content: the paths and bytes of all images.
  ///
  /// - Parameters:
  ///   - directory: Where the digests of files are kept.
  ///   - progress: Called with the number of images that have been read; may throw to stop.
  /// - Returns: A SHA-256 digest.
  /// - Throws: What `progress` throws.
  package func identity(
    keptIn directory: String, progress: (Int) throws -> Void = { _ in }
  ) throws -> String {
    var cache = DigestCache(of: path, in: directory)
    let digests = try cache.digests(
      of: items.map(\.name), unreadable: "unreadable", progress: progress)
    let lines = zip(items, digests).map { "\($0.name)\t\($1)" }
    return ContentHash.sha256(Data(lines.joined(separator: "\n").utf8))
  }

  /// An image in the form that training takes: cropped as upstream, perhaps mirrored.
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
