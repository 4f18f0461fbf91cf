import Foundation

/// Directory of what programs keep between their starts.
package enum StateDirectory {
  /// `$XDG_STATE_HOME/espalier`, otherwise `~/.local/state/espalier`.
  package static func path(
    environment: [String: String] = ProcessInfo.processInfo.environment
  ) -> String {
    if let state = environment["XDG_STATE_HOME"], state.hasPrefix("/") {
      return "\(state)/espalier"
    }
    return AtomicFile.absolute("~/.local/state/espalier", home: environment["HOME"])
  }
}
