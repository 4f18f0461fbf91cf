import Foundation

/// The samples that both stages train on; without one they are the procedural images.
package struct DataSettings: Equatable, Sendable {
  /// A folder of images by class, or latents with labels (`LatentFiles` names the forms).
  package var path: String
  /// Other samples of the same form for the held-out loss; nil sets some of `path` aside.
  package var heldOut: String?
  /// Whether every second image, by chance, is mirrored before it is encoded, as upstream.
  package var flip = true

  /// Names a data set.
  package init(path: String) { self.path = path }

  /// The first of its paths at which there is nothing.
  package var missingPath: String? {
    [path, heldOut].compactMap { $0 }.first { !FileManager.default.fileExists(atPath: $0) }
  }

  /// The same with relative paths taken from a folder.
  package func resolved(in folder: String) -> DataSettings {
    func absolute(_ path: String) -> String {
      URL(fileURLWithPath: path, relativeTo: URL(fileURLWithPath: folder, isDirectory: true))
        .standardizedFileURL.path
    }
    var result = self
    result.path = absolute(path)
    result.heldOut = heldOut.map(absolute)
    return result
  }
}
