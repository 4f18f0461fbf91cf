import Foundation

/// The files that ship with Espalier.
package enum DemoAssets {
  /// Where the folder of the shipped model may be, in the order in which it is looked for: in the bundle
  /// that the build puts beside the executable, then where `make install` puts it.
  package static let candidates: [URL] = {
    let executable = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath()
    let folder = executable.deletingLastPathComponent()
    return ["espalier_Assets.resources/demo", "../share/espalier/demo"].map {
      folder.appending(path: $0).standardizedFileURL
    }
  }()

  /// The folder of the shipped model; nil if it is in none of its places.
  package static let directory: URL? = candidates.first {
    FileManager.default.fileExists(atPath: $0.path)
  }
}
