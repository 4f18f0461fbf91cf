import Checkpoints
import Files
import Foundation
import TensorCore

/// Features of a set of images, or of a file of them.
package struct FeatureSet {
  /// (samples, width): pooled Inception features, or those of another network.
  package let features: Tensor
  /// Spatial Inception features (samples, 2023) and logits (samples, 1008); nil for features of a file.
  package let spatial, logits: Tensor?

  /// Number of samples.
  package var count: Int { features.shape[0] }

  /// Images whose features are computed and kept at a time.
  private static let chunk = 256

  /// Computes the features of images; finished parts are kept, so that an interrupted evaluation goes on.
  ///
  /// - Parameters:
  ///   - images: The images, of any sizes.
  ///   - range: The images to take; nil for all.
  ///   - network: The network.
  ///   - folder: Folder for the finished parts, of these images and this network alone; nil keeps none.
  ///   - progress: Called with the number of images done; may throw to stop.
  /// - Throws: `FileError` for a damaged image or a folder that cannot be written, and errors of `progress`.
  package init(
    _ images: ImageSet, _ range: Range<Int>? = nil, network: InceptionV3, keptIn folder: String?,
    progress: (Int) throws -> Void
  ) throws {
    let range = range ?? 0..<images.count
    let widths = [InceptionV3.poolWidth, InceptionV3.spatialWidth, InceptionV3.classes]
    let all = widths.map { Tensor([range.count, $0]) }
    if let folder { try AtomicFile.makeDirectory(folder) }
    for first in stride(from: 0, to: range.count, by: Self.chunk) {
      let rows = first..<min(range.count, first + Self.chunk)
      let path = folder.map { "\($0)/\(range.lowerBound + first)-\(rows.count).safetensors" }
      let parts =
        try path.flatMap { Self.kept($0, rows: rows.count, widths) }
        ?? Self.computed(
          images, rows.lowerBound + range.lowerBound..<rows.upperBound + range.lowerBound, network)
      if let path, access(path, F_OK) != 0 {
        try SafetensorsWriter.write(
          zip(Self.names, parts).map { .init(name: $0, shape: $1.shape, floats: $1.values) },
          metadata: [:], to: path)
      }
      for (target, part) in zip(all, parts) { target.rows(rows).assign(part) }
      try progress(rows.upperBound)
    }
    (features, spatial, logits) = (all[0], all[1], all[2])
  }

  private static let names = ["pool", "spatial", "logits"]

  /// Reads a finished part; nil if there is none that fits.
  private static func kept(_ path: String, rows: Int, _ widths: [Int]) -> [Tensor]? {
    guard access(path, R_OK) == 0, let file = try? SafetensorsFile(path: path) else { return nil }
    var parts: [Tensor] = []
    for (name, width) in zip(names, widths) {
      guard file.entry(name)?.shape == [rows, width], let values = try? file.floats(name) else {
        // A damaged part is computed again in place of this one.
        unlink(path)
        return nil
      }
      parts.append(Tensor(values, shape: [rows, width]))
    }
    return parts
  }

  private static func computed(
    _ images: ImageSet, _ range: Range<Int>, _ network: InceptionV3
  ) throws(FileError) -> [Tensor] {
    let batch = 16
    let widths = [InceptionV3.poolWidth, InceptionV3.spatialWidth, InceptionV3.classes]
    let parts = widths.map { Tensor([range.count, $0]) }
    for first in stride(from: range.lowerBound, to: range.upperBound, by: batch) {
      var prepared: [Tensor] = []
      for index in first..<min(range.upperBound, first + batch) {
        let image = try images.image(index)
        prepared.append(
          image.pixels.withUnsafeBufferPointer {
            InceptionV3.resized($0, height: image.height, width: image.width)
          })
      }
      let found = network(prepared)
      let rows = (first - range.lowerBound)..<(first - range.lowerBound + prepared.count)
      for (target, part) in zip(parts, [found.pool, found.spatial, found.logits]) {
        target.rows(rows).assign(part)
      }
    }
    return parts
  }

  /// Reads features of any network from an array (samples, width): `.npy`, or the only two-dimensional array of
  /// an archive.
  ///
  /// - Throws: `FileError` for a file without such an array, or values that are not finite.
  package init(path: String) throws(FileError) {
    let file = try Checkpoint.open(path)
    let names = file.names.filter { file.entry($0)?.shape.count == 2 }
    guard names.count == 1, let entry = file.entry(names[0]), entry.count > 0 else {
      throw FileError(
        "\(path): has \(names.count) arrays of features (samples, width), expected one; save the features alone"
      )
    }
    features = Tensor(try file.floats(entry.name), shape: entry.shape)
    (spatial, logits) = (nil, nil)
    if let place = features.firstNonFinite {
      throw FileError(
        "\(path): the features of sample \(place[0]) hold a value that is not finite in column \(place[1]);"
          + " compute them again")
    }
  }
}
