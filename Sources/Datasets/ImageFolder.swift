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
  /// A line for each file that is passed over: by its ending no image, or an image in no class folder.
  package let ignored: [String]

  private static let endings: Set<String> = ["png", "jpg", "jpeg", "jpe", "jfif"]

  /// Lists a folder; the images themselves are not opened.
  ///
  /// - Throws: `FileError` if there are no class subfolders or no images in them.
  package init(path: String) throws(FileError) {
    let manager = FileManager.default
    let names = ((try? manager.contentsOfDirectory(atPath: path)) ?? []).sorted()
    func isFolder(_ name: String) -> Bool {
      var isFolder: ObjCBool = false
      return manager.fileExists(atPath: "\(path)/\(name)", isDirectory: &isFolder)
        && isFolder.boolValue
    }
    var (classes, items, ignored): ([String], [Item], [String]) = ([], [], [])
    for name in names where !name.hasPrefix(".") {
      guard isFolder(name) else {
        if Self.isImage(name) { ignored.append("\(path)/\(name): lies in no class folder") }
        continue
      }
      let inside = ((try? manager.subpathsOfDirectory(atPath: "\(path)/\(name)")) ?? []).sorted()
        .map { "\(name)/\($0)" }
      let images = inside.filter(Self.isImage)
      ignored += inside.filter { !Self.isImage($0) && !Self.isHidden($0) && !isFolder($0) }
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
  /// - Throws: `FileError` if it cannot be read.
  package func image(_ item: Item, size: Int, isMirrored: Bool) throws(FileError) -> RGBImage {
    let image = try RGBImage.read(path: "\(path)/\(item.name)").centerCropped(to: size)
    return isMirrored ? image.mirrored() : image
  }
}
