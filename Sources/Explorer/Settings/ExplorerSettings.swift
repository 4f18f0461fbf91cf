import Files
import Foundation
import Plans
import TerminalUI

extension GraphicsMode: SettingChoice {}
extension SymbolSet: SettingChoice {}
extension NotificationMode: SettingChoice {}
extension ChartSettings.Series: SettingChoice {}

/// Settings of the explorer: rows of the settings page and of the configuration file.
package struct ExplorerSchema: SettingsSchema {
  package static let table = SettingsTable(ExplorerSchema())

  package let theme = Setting(
    "theme", ThemeChoice.auto, "colours; auto goes by the terminal's background and colours")
  package let graphics = Setting(
    "graphics", GraphicsMode.auto, "how images are drawn; auto is the best that is reported")
  package let symbols = Setting(
    "symbols", SymbolSet.auto, "characters of lines, plots and marks; auto goes by the encoding")
  package let mouse = Setting(
    "mouse", true, "whether clicks, drags and the wheel act; Shift selects text as without it")
  package let losses = Setting(
    "losses", ChartSettings.Series.mean, "the losses that are plotted at the first start")
  package let logLosses = Setting("log_losses", true, "whether they are plotted logarithmically")

  package let bell = Setting(
    "bell", true, "whether the bell rings when a run ends that is not being looked at")
  package let notification = Setting(
    "notification", NotificationMode.osc9,
    "how the desktop is told of it: by OSC 9, by OSC 777, or not")
  package let title = Setting(
    "title", true, "whether the window's title tells of it until a key is pressed")

  package init() {}
}

/// Values of the explorer's settings.
package typealias ExplorerSettings = Settings<ExplorerSchema>

extension Settings where Schema == ExplorerSchema {
  /// What is to be done with the terminal.
  package var wishes: Terminal.Wishes {
    Terminal.Wishes(graphics: self.graphics, symbols: self.symbols, mouse: self.mouse)
  }

  /// A value as the configuration file has it.
  package func text(of row: any SettingRow) -> String {
    let json = members.first { $0.key == row.key }?.json ?? row.initial.json
    return json.hasPrefix("\"") ? String(json.dropFirst().dropLast()) : json
  }

  /// The values that a row can have, in order; every row has few.
  package static func choices(of row: any SettingRow) -> [String] {
    switch row.initial {
    case is Bool: ["true", "false"]
    case let choice as any SettingChoice: choice.allTexts
    default: []
    }
  }

  /// Gives a row its next value, or with -1 the one before.
  package mutating func turn(_ row: any SettingRow, by step: Int) {
    let choices = Self.choices(of: row)
    guard let index = choices.firstIndex(of: text(of: row)) else { return }
    try? set(
      row.key, typed: choices[(index + step + choices.count) % choices.count], at: row.key)
  }
}

extension SettingChoice {
  fileprivate var allTexts: [String] { Self.allCases.map(\.rawValue) }
}

/// The explorer's configuration: settings and changed keys.
package struct Configuration: Equatable, Sendable {
  /// The settings.
  package var settings = ExplorerSettings()
  /// The key table.
  package var keys = KeyMap()
  /// The file that it was read from and is written to; nil for none.
  package var path: String?

  /// Makes the default configuration without a file.
  package init() {}

  /// `$XDG_CONFIG_HOME/espalier/config.yaml`, otherwise in `~/.config`.
  package static func path(
    environment: [String: String] = ProcessInfo.processInfo.environment
  ) -> String {
    UserDirectory.config.path(environment: environment) + "/config.yaml"
  }

  /// Reads a file; the default configuration if there is none.
  ///
  /// - Throws: `PlanError` with file, line and key for a line that is refused, `FileError` for a file that cannot be
  ///   read.
  package static func load(_ path: String) throws -> Configuration {
    var configuration = Configuration()
    configuration.path = path
    guard FileManager.default.fileExists(atPath: path) else { return configuration }
    let bytes = try AtomicFile.read(path, limit: 1 << 20)
    for (index, line) in ConfigurationText(String(decoding: bytes, as: UTF8.self)).lines
      .enumerated()
    {
      do throws(PlanError) {
        try configuration.take(line)
      } catch {
        var error = error
        (error.file, error.line) = (path, index + 1)
        throw error
      }
    }
    return configuration
  }

  private mutating func take(_ line: ConfigurationText.Line) throws(PlanError) {
    switch line {
    case .nothing, .section("keys"): break
    case .section(let name):
      throw PlanError(
        key: name, "unknown section, expected keys; remove or correct it")
    case .value(nil, let key, let text): try settings.set(key, typed: text, at: key)
    case .value("keys", let key, let text): try keys.set(key, to: text)
    case .value(let section?, let key, _):
      throw PlanError(key: "\(section).\(key)", "a line of no known section; remove it")
    case .unreadable(let text):
      throw PlanError(
        key: nil, "expected key: value, found \(text.prefix(60).debugDescription); correct it")
    }
  }

  /// Writes one setting to the file; everything else in it, comments as well, stays.
  ///
  /// - Throws: `FileError` for a file that cannot be read or written.
  package static func save(_ key: String, _ value: String, to path: String) throws {
    var text = ConfigurationText("")
    if FileManager.default.fileExists(atPath: path) {
      let bytes = try AtomicFile.read(path, limit: 1 << 20)
      text = ConfigurationText(String(decoding: bytes, as: UTF8.self))
    } else {
      try AtomicFile.makeDirectory(AtomicFile.directory(of: path))
    }
    let row = ExplorerSchema.table.rows.first { $0.key == key }
    text.set(key, to: value, comment: row.map(Self.comment) ?? "")
    try AtomicFile.write(Data(text.text.utf8), to: path)
  }

  /// What is said of a setting above its line.
  private static func comment(_ row: any SettingRow) -> String {
    "# \(row.summary): \(ExplorerSettings.choices(of: row).joined(separator: ", "))"
  }
}
