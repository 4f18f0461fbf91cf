import Checkpoints
import Files
import Foundation
import TensorCore

/// PixArt model on disk with its autoencoder.
package struct PixArtFiles {
  /// The transformer.
  package let transformer: PixArtFile

  /// Makes a value from an open model.
  package init(_ transformer: PixArtFile) { self.transformer = transformer }

  /// Loads the autoencoder: a given file, otherwise `vae/` of the diffusers directory, otherwise
  /// `autoencoder.safetensors` in the folder of the weights.
  ///
  /// - Parameters:
  ///   - path: The weights of the autoencoder; nil searches for them.
  ///   - precision: Precision of the products in large convolutions.
  /// - Returns: The autoencoder.
  /// - Throws: `FileError` if there is none, its latents do not fit, or it has no configuration.
  package func autoencoder(_ path: String?, _ precision: Precision) throws -> AutoencoderKL {
    let folder = AtomicFile.directory(of: transformer.path)
    let candidates = ["../vae", "autoencoder.safetensors"]
      .map { AtomicFile.resolved($0, in: folder) }
    guard let found = path ?? candidates.first(where: FileManager.default.fileExists(atPath:))
    else {
      throw FileError(
        "\(transformer.path): has neither \(candidates[0]) nor \(candidates[1]); give the"
          + " autoencoder's weights with --autoencoder")
    }
    // Shapes do not determine the scaling factor, and PixArt's is not the default.
    let file = try AutoencoderKL.file(of: found)
    guard let config = try AutoencoderKLConfig.stated(for: file) else {
      throw FileError(
        "\(found): there is no config.json of an AutoencoderKL beside it; put the autoencoder's own"
          + " config.json there")
    }
    guard config.latentChannels == transformer.config.inChannels else {
      throw FileError(
        "\(found): has \(config.latentChannels) latent channels, \(transformer.path) has"
          + " \(transformer.config.inChannels); use the model's own autoencoder")
    }
    return try AutoencoderKL(file, config: config, precision: precision)
  }
}
