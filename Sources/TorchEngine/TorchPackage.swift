import Foundation

/// The Python package `espalier_torch` that ships with the program.
package enum TorchPackage {
  /// Where its folder may be, in the order in which it is looked for: in the bundle that the build
  /// puts beside the executable, then where `make install` puts it.
  package static let candidates: [URL] = {
    let executable = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath()
    let folder = executable.deletingLastPathComponent()
    return ["espalier_TorchEngine.resources", "../share/espalier/torch"].map {
      folder.appending(path: $0).standardizedFileURL
    }
  }()

  /// The folder with `pyproject.toml` and `espalier_torch`; nil if it is in none of its places.
  package static let directory: URL? = candidates.first {
    FileManager.default.fileExists(atPath: $0.appending(path: "espalier_torch").path)
  }
}
