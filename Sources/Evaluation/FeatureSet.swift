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

  package init(features: Tensor, spatial: Tensor?, logits: Tensor?) {
    (self.features, self.spatial, self.logits) = (features, spatial, logits)
  }

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
    let parts = try TensorParts(keptIn: folder)
    let all = Self.names.map { Tensor([range.count, $0.width]) }
    for first in stride(from: 0, to: range.count, by: Self.chunk) {
      let rows = first..<min(range.count, first + Self.chunk)
      let own = range.lowerBound + rows.lowerBound..<range.lowerBound + rows.upperBound
      let found = try parts.part(
        "\(own.lowerBound)-\(rows.count)", rows: rows.count, Self.names.map(\.name)
      ) { try Self.computed(images, own, network, progress: { try progress(first + $0) }) }
      for (target, part) in zip(all, found) { target.rows(rows).assign(part) }
      try progress(rows.upperBound)
    }
    (features, spatial, logits) = (all[0], all[1], all[2])
  }

  private static let names: [(name: String, width: Int)] = [
    ("pool", InceptionV3.poolWidth), ("spatial", InceptionV3.spatialWidth),
    ("logits", InceptionV3.classes),
  ]

  private static func computed(
    _ images: ImageSet, _ range: Range<Int>, _ network: InceptionV3,
    progress: (Int) throws -> Void
  ) throws -> [Tensor] {
    let batch = 16
    let parts = names.map { Tensor([range.count, $0.width]) }
    for first in stride(from: range.lowerBound, to: range.upperBound, by: batch) {
      var prepared: [Tensor] = []
      for index in first..<min(range.upperBound, first + batch) {
        prepared.append(InceptionV3.resized(try images.image(index)))
      }
      let found = network(prepared)
      let rows = (first - range.lowerBound)..<(first - range.lowerBound + prepared.count)
      for (target, part) in zip(parts, [found.pool, found.spatial, found.logits]) {
        target.rows(rows).assign(part)
      }
      try progress(rows.upperBound)
    }
    return parts
  }

  /// Reads features of any network from an array (samples, width): `.npy`, or the only two-dimensional array of
  /// an archive.
  ///
  /// - Throws: `FileError` for a file without such an array, or values that are not finite.
  package init(path: String) throws(FileError) {
    let file = try Checkpoint.open(path)
    let entry = try Self.entry(in: file)
    features = Tensor(try file.floats(entry.name), shape: entry.shape)
    (spatial, logits) = (nil, nil)
    if let place = features.firstNonFinite {
      throw FileError(
        "\(path): the features of sample \(place[0]) hold a value that is not finite in column \(place[1]);"
          + " compute them again")
    }
  }

  /// The only array of features (samples, width) of a file.
  ///
  /// - Throws: `FileError` for none or several.
  package static func entry(in file: any TensorFile) throws(FileError) -> TensorEntry {
    let names = file.names.filter { file.entry($0)?.shape.count == 2 }
    guard names.count == 1, let entry = file.entry(names[0]), entry.count > 0 else {
      throw FileError(
        "\(file.path): has \(names.count) arrays of features (samples, width), expected one; save the features alone"
      )
    }
    return entry
  }
}
