import Files
import Foundation

/// Section `data` of a plan.
package struct DataSchema: SettingsSchema {
  package static let table = SettingsTable(DataSchema())

  package let path = Setting(
    "path", "images",
    "a folder of images by class, or latents with labels, that both stages train on; `self` for latents that"
      + " the model draws itself", .required, .path)
  package let heldOut = Setting(
    "held_out", String?.none,
    "other samples for the held-out loss; without it some of `path` are set aside", .path)
  package let flip = Setting(
    "flip", true, "whether every second image, at random, is mirrored before it is encoded")
  package let pool = Setting(
    "pool", 64, in: 1...65536,
    "latents of `self` that take turns in the steps; each is denoised by one step when it was used",
    .convention)
  package let poolSteps = Setting(
    "pool_steps", 20, in: 1...1000, "denoising steps of latents of `self` from noise to the end",
    .convention)
  package let guidance = Setting(
    "guidance", 2.0, in: 0...100, "guidance with which latents of `self` are denoised; 1 is none",
    .convention)

  package static func missing(for row: any SettingRow, beside settings: Settings<Self>) -> String? {
    let rows = table.schema
    let isOwn = settings.path == DataSettings.own
    return switch row.key {
    case rows.pool.key, rows.poolSteps.key, rows.guidance.key: isOwn ? nil : "path self"
    case rows.flip.key where isOwn: "images"
    default: nil
    }
  }
}

/// Training data of both stages; without them a plan trains on the procedural images.
///
/// Paths are stored as written; relative ones are relative to the folder of the plan. They are made
/// absolute for use and when the plan is saved to another folder.
@dynamicMemberLookup
package struct DataSettings: Sendable {
  private var settings = Settings<DataSchema>()
  /// Absolute path of the base folder of relative paths.
  private var folder: String

  /// Makes settings of a data set.
  package init(path: String, in folder: String = ".") {
    self.folder = AtomicFile.resolved(folder)
    settings.path = path
  }

  /// Reads the section of a plan in a folder.
  init(
    _ node: JSONNode, in folder: String, by reader: inout SettingsReader
  ) throws(PlanError) {
    self.init(path: "", in: folder)
    try settings.read(node, at: "data", by: &reader)
  }

  /// The path of data that the model draws itself; a folder of that name is `./self`.
  package static let own = "self"

  /// Whether the model draws the data itself.
  package var isSelf: Bool { settings.path == Self.own }

  /// Absolute path of the data, or `self`.
  package var path: String {
    isSelf ? Self.own : AtomicFile.resolved(settings.path, in: folder)
  }

  /// Absolute path of the held-out data; nil splits them off from `path`.
  package var heldOut: String? {
    get { settings.heldOut.map { AtomicFile.resolved($0, in: folder) } }
    set { settings.heldOut = newValue }
  }

  /// Value of a row whose use does not depend on the folder.
  package subscript<Value>(dynamicMember row: KeyPath<DataSchema, Setting<Value>>) -> Value {
    get { settings[dynamicMember: row] }
    set { settings[dynamicMember: row] = newValue }
  }

  /// Settings with their values as JSON.
  package var fields: [(row: any SettingRow, json: String)] {
    settings.formFields + settings.otherFields
  }

  /// First path that does not exist; nil if all exist.
  package var missingPath: String? {
    [isSelf ? nil : path, heldOut].compactMap { $0 }.first {
      !FileManager.default.fileExists(atPath: $0)
    }
  }

  /// Sets a value from command-line text; a relative path is relative to `folder`.
  mutating func set(
    _ name: String, typed text: String, in folder: String, at key: String
  ) throws(PlanError) {
    self = moved(to: folder)
    try settings.set(name, typed: text, at: key)
  }

  func validate() throws(PlanError) { try settings.validate(at: "data") }

  /// Settings that are not at their defaults and have no effect, with what they belong to.
  var unused: [(key: String, missing: String)] { settings.unused }

  /// The section as JSON in the plan file.
  var json: String { settings.json }

  /// Returns the settings for a plan in another folder, with absolute paths unless it is the same
  /// folder.
  func moved(to folder: String) -> DataSettings {
    let folder = AtomicFile.resolved(folder)
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
      guard let path = settings.values[row.key] as? String, !(row.key == "path" && isSelf) else {
        continue
      }
      result.values[row.key] = AtomicFile.resolved(path, in: folder)
    }
    return result
  }
}

extension DataSettings: Equatable {
  /// Compares data and their use, with absolute paths.
  package static func == (one: DataSettings, other: DataSettings) -> Bool {
    one.absolute == other.absolute
  }
}
