import Checkpoints
import Files
import TensorCore

/// Reference file of an evaluation, as ADM publishes them: statistics of Inception features and images.
package struct ReferenceSet {
  package let path: String
  /// Statistics of the pooled features (2048); nil without `mu`.
  package let pool: FeatureStatistics?
  /// Statistics of the spatial features (2023); nil without `mu_s`.
  package let spatial: FeatureStatistics?
  /// The images `arr_0` (count, height, width, 3) or feature rows (count, width); nil without them.
  package let images: TensorEntry?
  private let file: any TensorFile

  /// Opens a file; images stay on disk.
  ///
  /// - Throws: `FileError` for a file without statistics and images, or statistics that do not fit.
  package init(path: String) throws(FileError) {
    self.path = path
    file = try Checkpoint.open(path)
    images = file.entry("arr_0")
    pool = try Self.statistics(file, "mu", "sigma")
    spatial = try Self.statistics(file, "mu_s", "sigma_s")
    guard (pool == nil) == (spatial == nil) else {
      throw FileError(
        "\(path): has only one of 'mu' and 'mu_s', expected both or neither; fetch the file again")
    }
    guard pool != nil || images != nil else {
      throw FileError(
        "\(path): has neither statistics 'mu', 'sigma' nor images 'arr_0'; give a reference file of ADM, or"
          + " images written with --npz")
    }
  }

  private static func statistics(
    _ file: any TensorFile, _ mean: String, _ covariance: String
  ) throws(FileError) -> FeatureStatistics? {
    guard let entry = file.entry(mean) else { return nil }
    let other = try file.existing(covariance)
    guard entry.shape.count == 1, other.shape == [entry.count, entry.count], entry.count <= 16_384
    else {
      throw FileError(
        "\(file.path): '\(mean)' has shape \(entry.shape) and '\(covariance)' \(other.shape), expected n and"
          + " n by n; fetch the file again")
    }
    let (m, c) = (try file.doubles(mean), try file.doubles(covariance))
    guard m.allSatisfy(\.isFinite), c.allSatisfy(\.isFinite) else {
      throw FileError(
        "\(file.path): '\(mean)' or '\(covariance)' holds values that are not finite; fetch it again"
      )
    }
    return FeatureStatistics(count: 0, mean: m, covariance: c)
  }

  /// Reads some images (height * width * 3 bytes each).
  ///
  /// - Throws: `FileError` for images that are not 8-bit RGB, or damaged.
  package func pixels(_ range: Range<Int>) throws(FileError) -> [UInt8] {
    guard let images, images.dtype == .u8, images.shape.count == 4, images.shape[3] == 3 else {
      throw FileError(
        "\(path): 'arr_0' has shape \(images?.shape ?? []), expected 8-bit images (count, height, width, 3);"
          + " give a file of images")
    }
    let size = images.count / max(1, images.shape[0])
    return try file.withBytes(of: images) { bytes in
      Array(bytes[(range.lowerBound * size)..<(range.upperBound * size)])
    }
  }

  /// Images that ADM's reference files hold beside their statistics.
  private static let mostImages = 10_000

  /// Writes statistics of features in the format of ADM's files, with the first images if all have one size.
  ///
  /// - Parameters:
  ///   - set: Inception features of all images.
  ///   - images: The images.
  ///   - path: The `.npz` file.
  /// - Throws: `FileError` for a damaged image or a file that cannot be written, `FeatureMetricError` for one image.
  package static func write(_ set: FeatureSet, of images: ImageSet, to path: String) throws {
    guard let spatial = set.spatial else { preconditionFailure("reference: features of a file") }
    let (pool, places) = (try FeatureStatistics(set.features), try FeatureStatistics(spatial))
    let arrays = [
      ("mu", [pool.mean.count], pool.mean), ("mu_s", [places.mean.count], places.mean),
      ("sigma", [pool.mean.count, pool.mean.count], pool.covariance),
      ("sigma_s", [places.mean.count, places.mean.count], places.covariance),
    ]
    let first = try images.image(0)
    let count = min(images.count, mostImages)
    let hasOneSize = try (0..<count).allSatisfy { index in
      let image = try images.image(index)
      return (image.width, image.height) == (first.width, first.height)
    }
    try NumpyArchive.write(
      to: path, arrays: arrays,
      images: hasOneSize ? ("arr_0", [count, first.height, first.width, 3]) : nil
    ) { index throws(FileError) in try images.image(index).pixels }
  }
}
