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
}
