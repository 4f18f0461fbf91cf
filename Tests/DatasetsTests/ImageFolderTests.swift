import Checkpoints
import Datasets
import Files
import Foundation
import Pictures
import Testing

/// Pictures as Pillow reads and crops them (`Fixtures/make_crops.py`), and folders of them.
@Suite struct ImageFolderTests {
  private let fixtures = URL(filePath: #filePath).deletingLastPathComponent()
    .appending(path: "Fixtures").path

  private func expected(_ name: String) throws -> RGBImage {
    let file = try Checkpoint.open("\(fixtures)/expected.npz")
    let shape = try #require(file.entry(name)?.shape)
    return RGBImage(
      width: shape[1], height: shape[0], pixels: try file.integers(name).map { UInt8($0) })
  }

  /// The names of expected arrays behind a prefix.
  private func names(after prefix: String) throws -> [String] {
    try Checkpoint.open("\(fixtures)/expected.npz").names.filter { $0.hasPrefix(prefix) }
      .map { String($0.dropFirst(prefix.count)) }
  }

  @Test func readsWhatPillowReads() throws {
    let names = try names(after: "pixels.")
    #expect(names.count == 47)
    for name in names {
      #expect(
        try RGBImage.read(path: "\(fixtures)/\(name)") == expected("pixels.\(name)"), "\(name)")
    }
  }

  @Test func cropsAsUpstream() throws {
    let names = try names(after: "crop.")
    #expect(names.count == 18)
    for name in names {
      let parts = name.split(separator: ".", maxSplits: 1)
      let image = try RGBImage.read(path: "\(fixtures)/\(parts.count > 1 ? parts[1] : "rgb.png")")
      let size = try #require(Int(parts[0]))
      #expect(image.centerCropped(to: size) == (try expected("crop.\(name)")), "\(name)")
    }
  }

  @Test func mirrors() {
    let image = RGBImage(width: 3, height: 1, pixels: [1, 2, 3, 4, 5, 6, 7, 8, 9])
    #expect(image.mirrored().pixels == [7, 8, 9, 4, 5, 6, 1, 2, 3])
  }

  @Test func damagedPicturesAreRefused() throws {
    let scratch = NSTemporaryDirectory() + "/espalier-picture-" + UUID().uuidString
    defer { try? FileManager.default.removeItem(atPath: scratch) }
    for name in ["rgb.png", "half.jpg", "full.jpg", "inks.jpg"] {
      let whole = try Data(contentsOf: URL(filePath: "\(fixtures)/\(name)"))
      for share in [0, 0.01, 0.3, 0.6, 0.95] {
        try whole.prefix(Int(Double(whole.count) * share)).write(to: URL(filePath: scratch))
        #expect(throws: FileError.self, "\(name) \(share)") {
          try RGBImage.read(path: scratch)
        }
      }
    }
  }

  /// A folder with the given files, which goes when `body` ends.
  private func withFolder(_ names: [String], _ body: (String) throws -> Void) throws {
    let path = NSTemporaryDirectory() + "/espalier-images-" + UUID().uuidString
    defer { try? FileManager.default.removeItem(atPath: path) }
    for name in names {
      let file = URL(filePath: "\(path)/\(name)")
      try FileManager.default.createDirectory(
        at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
      try Data("x".utf8).write(to: file)
    }
    try body(path)
  }

  @Test func listsClassesAndTheirImages() throws {
    let names = [
      "owl/b.JPG", "owl/a.png", "cat/deep/c.jpeg", "cat/notes.txt", "empty/x.txt", "d.png",
      "owl/c.jpe", "owl/d.JFIF", "owl/.hidden", "readme.txt",
    ]
    try withFolder(names) { path in
      let folder = try ImageFolder(path: path)
      #expect(folder.classes == ["cat", "owl"])
      #expect(
        folder.items.map(\.name) == [
          "cat/deep/c.jpeg", "owl/a.png", "owl/b.JPG", "owl/c.jpe", "owl/d.JFIF",
        ])
      #expect(folder.items.map(\.classIndex) == [0, 1, 1, 1, 1])
      #expect(
        folder.ignored == [
          "\(path)/cat/notes.txt: its ending is not that of a PNG or JPEG file",
          "\(path)/d.png: lies in no class folder",
          "\(path)/empty/x.txt: its ending is not that of a PNG or JPEG file",
        ])
      #expect(try folder.labels(numClasses: 2, classNames: []) == [0, 1])
      #expect(try folder.labels(numClasses: 3, classNames: ["dog", "owl", "cat"]) == [2, 1])
      let other = #expect(throws: FileError.self) {
        try folder.labels(numClasses: 3, classNames: [])
      }
      #expect(
        other?.message.contains(
          "has 2 class folders, the model 3 classes, none of which is 'cat' or 'owl'") == true)
      // A misspelt name does not make labels of the order.
      let misspelt = #expect(throws: FileError.self) {
        try folder.labels(numClasses: 2, classNames: ["cat", "eagle"])
      }
      #expect(misspelt?.message.contains("none of which is 'owl'; name the folders") == true)
      #expect(misspelt?.message.hasSuffix("or by their names, such as 'cat'") == true)
      func identity() throws -> String { try ImageFolder(path: path).identity(keptIn: path) }
      let before = try identity()
      // The same bytes written anew are the same folder, other bytes of the same number are not.
      try Data("x".utf8).write(to: URL(filePath: "\(path)/owl/a.png"))
      #expect(try identity() == before)
      try Data("y".utf8).write(to: URL(filePath: "\(path)/owl/a.png"))
      #expect(try identity() != before)
      try FileManager.default.createSymbolicLink(
        atPath: "\(path)/owl/gone.png", withDestinationPath: "\(path)/nowhere")
      #expect(try identity().count == 64)
    }
  }

  /// Class folders, folders in them and files may be links; what leads in circles is listed and left out.
  @Test func followsLinksOnce() throws {
    try withFolder(["store/owls/a.png", "store/owls/deep/b.png", "data/cat/c.png"]) { scratch in
      func link(_ name: String, to target: String) throws {
        try FileManager.default.createSymbolicLink(
          atPath: "\(scratch)/data/\(name)", withDestinationPath: target)
      }
      try link("owl", to: "../store/owls")
      try link("cat/more", to: "../../store/owls")
      try link("cat/again", to: "more/deep")
      try link("cat/loop", to: ".")
      try link("cat/up", to: "../..")
      try link("cat/file.jpg", to: "../../store/owls/a.png")
      try link("root", to: "/")
      try link("gone", to: "nowhere")
      let folder = try ImageFolder(path: "\(scratch)/data")
      #expect(folder.classes == ["cat", "owl"])
      #expect(
        folder.items.map(\.name) == [
          "cat/again/b.png", "cat/c.png", "cat/file.jpg", "cat/more/a.png", "owl/a.png",
          "owl/deep/b.png",
        ])
      let reason = "leads to a folder that is listed already or contains this one"
      #expect(
        folder.ignored
          == [
            "cat/loop: \(reason)", "cat/more/deep: \(reason)", "cat/up: \(reason)",
            "gone: is a link that leads nowhere", "root: \(reason)",
          ].map { "\(scratch)/data/\($0)" })
    }
  }

  @Test func namesThatAreNotUTF8AreTold() throws {
    try withFolder(["owl/a.png"]) { path in
      let name = "\(path)/owl/".utf8CString.dropLast() + [-23] + ".png".utf8CString
      close(open(Array(name), O_CREAT | O_WRONLY, 0o600))
      let folder = try ImageFolder(path: path)
      let error = #expect(throws: FileError.self) {
        try folder.image(folder.items[1], size: 8, isMirrored: false)
      }
      #expect(error?.message.hasSuffix("bytes in its name that are not UTF-8; rename it") == true)
    }
  }

  /// With 256 columns it would have ten million rows.
  @Test func elongatedPicturesAreRefused() throws {
    try withFolder(["tall/a.png"]) { path in
      try RGBImage(width: 1, height: 40_000).write(to: "\(path)/tall/a.png")
      let folder = try ImageFolder(path: path)
      #expect(
        try folder.image(folder.items[0], size: 8, isMirrored: false)
          == RGBImage(width: 8, height: 8))
      let error = #expect(throws: FileError.self) {
        try folder.image(folder.items[0], size: 256, isMirrored: false)
      }
      #expect(
        error?.message.contains("is 1x40000 and would have more than 178956970 pixels") == true)
    }
  }

  @Test func numbersAreLabels() throws {
    try withFolder(["0/a.png", "12/a.png", "007/a.png"]) { path in
      let folder = try ImageFolder(path: path)
      #expect(folder.classes == ["0", "007", "12"])
      #expect(try folder.labels(numClasses: 13, classNames: []) == [0, 7, 12])
      let error = #expect(throws: FileError.self) {
        try folder.labels(numClasses: 10, classNames: [])
      }
      #expect(error?.message.contains("'12' is no label of the model, which has 0 to 9") == true)
    }
  }

  @Test func foldersWithoutImagesAreRefused() throws {
    for names in [["a.png"], ["cat/a.txt"], []] {
      try withFolder(names) { path in
        let error = #expect(throws: FileError.self) { try ImageFolder(path: path) }
        #expect(error?.message.contains("holds no images in class folders") == true)
      }
    }
  }
}
