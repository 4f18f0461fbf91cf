import Foundation

/// Directories of the user's files by purpose, as the XDG base directory specification has them.
package enum UserDirectory: String {
  /// Configuration files.
  case config = "XDG_CONFIG_HOME"
  /// What programs keep between their starts.
  case state = "XDG_STATE_HOME"
  /// What can be computed anew.
  case cache = "XDG_CACHE_HOME"
  /// The user's data.
  case data = "XDG_DATA_HOME"

  /// Directory where the variable is not set to an absolute path.
  private var usual: String {
    switch self {
    case .config: "~/.config"
    case .state: "~/.local/state"
    case .cache: "~/.cache"
    case .data: "~/.local/share"
    }
  }

  /// The folder `espalier` in the directory.
  package func path(
    environment: [String: String] = ProcessInfo.processInfo.environment
  ) -> String {
    if let chosen = environment[rawValue], chosen.hasPrefix("/") { return "\(chosen)/espalier" }
    return AtomicFile.absolute("\(usual)/espalier", home: environment["HOME"])
  }
}
