import Files
import Foundation

/// The section `data` of a plan.
package struct DataSchema: SettingsSchema {
  package static let table = SettingsTable(DataSchema())

  package let path = Setting(
    "path", "images",
    "a folder of images by class, or latents with labels, that both stages train on", .required,
    .path)
  package let heldOut = Setting(
    "held_out", String?.none,
    "other samples for the held-out loss; without it some of `path` are set aside", .path)
  package let flip = Setting(
    "flip", true, "whether every second image, at random, is mirrored before it is encoded")
}

/// The samples that both stages train on; without them a plan trains on the procedural images.
///
/// Paths stay as they are written, and a relative one counts from the folder of the plan. Where the
/// data are needed, and where a plan is written to another folder, paths are made absolute, so that a
/// plan means the same data wherever it is kept.
package struct DataSettings: Sendable {
  private var settings = Settings<DataSchema>()
  /// The absolute path of the folder that relative paths count from.
  private var folder: String

  /// Names a data set.
  ///
  /// - Parameters:
  ///   - path: Where the data are.
  ///   - folder: What a relative path counts from.
  package init(path: String, in folder: String = ".") {
    self.folder = Self.absolute(folder, in: FileManager.default.currentDirectoryPath)
    settings.path = path
  }

  /// Reads the section of a plan that lies in a folder.
  init(
    _ node: JSONNode, in folder: String, by reader: inout SettingsReader
  ) throws(PlanError) {
    self.init(path: "", in: folder)
    try settings.read(node, at: "data", by: &reader)
  }

  /// The absolute path of the data.
  package var path: String { Self.absolute(settings.path, in: folder) }

  /// The absolute path of other data for the held-out loss; nil sets some of `path` aside.
  package var heldOut: String? {
    get { settings.heldOut.map { Self.absolute($0, in: folder) } }
    set { settings.heldOut = newValue }
  }

  /// Whether every second image, at random, is mirrored before it is encoded.
  package var flip: Bool {
    get { settings.flip }
    set { settings.flip = newValue }
  }

  /// The first of the paths at which there is nothing.
  package var missingPath: String? {
    [path, heldOut].compactMap { $0 }.first { !FileManager.default.fileExists(atPath: $0) }
  }

  /// Takes over a text of the command line; a path in it counts from a folder.
  mutating func set(
    _ name: String, typed text: String, in folder: String, at key: String
  ) throws(PlanError) {
    self = moved(to: folder)
    try settings.set(name, typed: text, at: key)
  }

  func validate() throws(PlanError) { try settings.validate(at: "data") }

  /// The section as the plan file has it.
  var json: String { settings.json }

  /// The same data for a plan in another folder: paths are absolute unless it is the same folder.
  func moved(to folder: String) -> DataSettings {
    let folder = Self.absolute(folder, in: FileManager.default.currentDirectoryPath)
    guard folder != self.folder else { return self }
    var result = self
    result.settings = absolute
    result.folder = folder
    return result
  }

  /// The settings with absolute paths.
  private var absolute: Settings<DataSchema> {
    var result = settings
    for row in DataSchema.table.rows where row.traits.contains(.path) {
      guard let path = settings.values[row.key] as? String else { continue }
      result.values[row.key] = Self.absolute(path, in: folder)
    }
    return result
  }

  private static func absolute(_ path: String, in folder: String) -> String {
    URL(fileURLWithPath: path, relativeTo: URL(fileURLWithPath: folder, isDirectory: true))
      .standardizedFileURL.path
  }
}

extension DataSettings: Equatable {
  /// Whether both name the same data in the same way of use.
  package static func == (one: DataSettings, other: DataSettings) -> Bool {
    one.absolute == other.absolute
  }
}
