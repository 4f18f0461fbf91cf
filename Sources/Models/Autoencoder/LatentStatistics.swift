import Checkpoints
import Files
import Foundation

/// Mean and standard deviation of every latent channel of a training, by which latents are normalised.
///
/// They lie in `latents_stats.pt` (hustvl/LightningDiT: `mean` and `std`, one number a channel) beside a model or
/// beside latents, or in a model's own file as the running statistics of a batch norm (REPA-E: `bn.running_mean`,
/// `bn.running_var`).
package struct LatentStatistics: Equatable, Sendable {
  /// Name of the file.
  package static let fileName = "latents_stats.pt"

  /// Those in a model's own file, a batch norm without weights.
  static let names = ["bn.running_mean", "bn.running_var", "bn.num_batches_tracked"]

  /// One number a channel.
  package let mean, deviation: [Double]
  /// The file that states them.
  package let path: String

  /// Reads the file in a folder; nil if there is none.
  ///
  /// - Throws: `FileError` for a file without one finite mean and one positive deviation a channel.
  package init?(in folder: String) throws(FileError) {
    let path = "\(folder)/\(Self.fileName)"
    guard access(path, F_OK) == 0 else { return nil }
    let file = try Checkpoint.open(path)
    try self.init(file.doubles("mean"), file.doubles("std"), path, ("mean", "std"))
  }

  /// Reads those of a model's own file; nil if it has none.
  ///
  /// - Throws: `FileError` as `init(in:)`.
  init?(of file: any TensorFile) throws(FileError) {
    let names = (Self.names[0], Self.names[1])
    guard file.entry(names.0) != nil, file.entry(names.1) != nil else { return nil }
    let variance = try file.doubles(names.1)
    try self.init(
      file.doubles(names.0), variance.map { $0 < 0 ? -1 : $0.squareRoot() }, file.path, names)
  }

  private init(
    _ mean: [Double], _ deviation: [Double], _ path: String, _ names: (String, String)
  ) throws(FileError) {
    guard mean.count == deviation.count, !mean.isEmpty, mean.allSatisfy(\.isFinite),
      deviation.allSatisfy({ $0.isFinite && $0 > 0 })
    else {
      throw FileError(
        "\(path): '\(names.0)' has \(mean.count) and '\(names.1)' \(deviation.count) numbers, expected a finite mean"
          + " and a positive deviation for every latent channel; compute them again")
    }
    (self.mean, self.deviation, self.path) = (mean, deviation, path)
  }

  /// Throws if they are those of another number of channels.
  package func require(channels: Int) throws(FileError) {
    guard mean.count == channels else {
      throw FileError(
        "\(path): states \(mean.count) channels, expected \(channels); put the statistics of these latents there"
      )
    }
  }
}
