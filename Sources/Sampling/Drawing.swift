import Checkpoints
import Files
import Models
import Pictures
import TensorCore

/// Images of a model of any family, drawn batch by batch.
package struct Drawing {
  /// Number of images.
  package let count: Int
  /// Default number of columns of the grid.
  package let columns: Int
  /// Batch size.
  package let batch: Int
  /// Shape of the latents of an image (channels, height, width).
  package let latentShape: [Int]
  /// Decoder of the latents; nil if no images are written, or the model works in pixel space.
  package let autoencoder: AutoencoderKL?
  /// Whether large images are decoded in tiles.
  package var tiling = AutoencoderKL.Tiling.auto
  /// Whether the latents are images themselves, with values from -1 to 1.
  package var drawsPixels = false
  /// How decoded values become bytes.
  package var bytes = AutoencoderKL.Bytes.truncated
  /// Height and width to which decoded images are scaled and cut; nil keeps their own.
  package var fitted: (height: Int, width: Int)?
  /// Captions of a range of images of a text-conditional model.
  package var captions: ((Range<Int>) -> Captions)?
  /// Samples the latents of a range of images from initial noise; nil draws it from the seed.
  package let latents: (Range<Int>, Tensor?, @escaping LatentSampler.StepObserver) throws -> Tensor
  /// Counts the evaluations that step caching saves; nil without.
  package var reuse: StepReuse?

  package init(
    count: Int, columns: Int, batch: Int, latentShape: [Int], autoencoder: AutoencoderKL?,
    latents: @escaping (Range<Int>, Tensor?, @escaping LatentSampler.StepObserver) throws -> Tensor
  ) {
    (self.count, self.columns, self.batch) = (count, columns, batch)
    (self.latentShape, self.autoencoder, self.latents) = (latentShape, autoencoder, latents)
  }

  /// Output files; nil for parts that are not written.
  package struct Destinations {
    package let grid, images, latents, decoded: String?

    package init(grid: String?, images: String?, latents: String?, decoded: String?) {
      (self.grid, self.images, self.latents, self.decoded) = (grid, images, latents, decoded)
    }

    /// All output files.
    package var paths: [String] { [grid, images, latents, decoded].compactMap(\.self) }
    /// Whether any output needs decoded images.
    package var needImages: Bool { grid != nil || images != nil || decoded != nil }
  }

  /// Height and width of the decoded images in pixels.
  package var size: (height: Int, width: Int) {
    let factor = autoencoder?.config.spatialFactor ?? 1
    return fitted ?? (latentShape[1] * factor, latentShape[2] * factor)
  }

  /// Decoded images (count, channels, height, width) of latents.
  ///
  /// - Throws: `SamplingError` for values that are not finite.
  package func images(of latents: Tensor) throws(SamplingError) -> Tensor {
    let decoded = autoencoder.map { $0.decode($0.unscaled(latents), tiling: tiling) } ?? latents
    let images =
      fitted.map { AspectRatioBins.fitted(decoded, height: $0.height, width: $0.width) } ?? decoded
    guard images.isFinite else {
      throw SamplingError(
        description: "the autoencoder gave values that are not finite; use --precision fp32")
    }
    return images
  }

  /// Draws 8-bit images by index.
  ///
  /// - Throws: `SamplingError`, and errors of `onStep`.
  package func pictures(
    _ range: Range<Int>, onStep: @escaping LatentSampler.StepObserver
  ) throws -> [RGBImage] {
    AutoencoderKL.rgbImages(ofDecoded: try images(of: try latents(range, nil, onStep)), bytes)
  }

  /// Samples batch by batch and writes the output; only the grid needs all images in memory.
  ///
  /// - Parameters:
  ///   - destinations: The files to write.
  ///   - noise: Initial noise with at least `count` rows; nil draws it from the seed.
  ///   - columns: Number of columns of the grid.
  ///   - progress: Called after every step with what is being done.
  /// - Throws: `FileError` for a file that cannot be written, `SamplingError` for invalid sampler
  ///   settings; nothing is written then.
  package func write(
    to destinations: Destinations, noise: Tensor?, columns: Int?,
    progress: @escaping (String) -> Void
  ) throws {
    let decodedShape = [
      count, autoencoder?.config.outChannels ?? latentShape[0], size.height, size.width,
    ]
    var grid: [RGBImage] = []
    func draw(
      _ images: NumpyWriter<UInt8>?, _ latents: NumpyWriter<Float>?, _ decoded: NumpyWriter<Float>?
    ) throws {
      for first in stride(from: 0, to: count, by: batch) {
        let range = first..<min(count, first + batch)
        let sample = try self.latents(range, noise?.rows(range)) { step, steps, _ in
          progress("images \(first)-\(range.upperBound - 1) of \(count), step \(step)/\(steps)")
        }
        try latents?.add(sample.values)
        guard autoencoder != nil || drawsPixels else { continue }
        let pixels = try self.images(of: sample)
        try decoded?.add(pixels.values)
        let drawn = AutoencoderKL.rgbImages(ofDecoded: pixels, bytes)
        for image in drawn { try images?.add(image.pixels) }
        if destinations.grid != nil { grid += drawn }
      }
    }
    try NumpyWriter<Float>.write(to: destinations.latents, shape: [count] + latentShape) {
      latents in
      try NumpyWriter<Float>.write(to: destinations.decoded, shape: decodedShape) { decoded in
        try NumpyWriter<UInt8>.write(
          to: destinations.images, shape: [count, size.height, size.width, 3], isArchive: true
        ) { images in
          try draw(images, latents, decoded)
        }
      }
    }
    if let path = destinations.grid {
      try RGBImage.grid(grid, columns: columns ?? self.columns, gap: 2).write(to: path)
    }
  }
}
