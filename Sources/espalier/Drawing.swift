import Checkpoints
import Files
import Models
import Pictures
import Sampling
import TensorCore

/// Sampling job for a model of any family.
struct Drawing {
  /// Number of images.
  let count: Int
  /// Default number of columns of the grid.
  let columns: Int
  /// Batch size.
  let batch: Int
  /// Shape of the latents of an image (channels, height, width).
  let latentShape: [Int]
  /// Decoder of the latents; nil if no images are written, or the model works in pixel space.
  let autoencoder: AutoencoderKL?
  /// Whether the latents are images themselves, with values from -1 to 1.
  var drawsPixels = false
  /// How decoded values become bytes.
  var bytes = AutoencoderKL.Bytes.truncated
  /// Height and width to which decoded images are scaled and cut; nil keeps their own.
  var fitted: (height: Int, width: Int)?
  /// Captions of a range of images of a text-conditional model.
  var captions: ((Range<Int>) -> Captions)?
  /// Samples the latents of a range of images from initial noise; nil draws it from the seed.
  let latents: (Range<Int>, Tensor?, @escaping LatentSampler.StepObserver) throws -> Tensor
  /// Counts the evaluations that step caching saves.
  var reuse: StepReuse?

  /// Output files; nil for parts that are not written.
  struct Destinations {
    let grid, images, latents, decoded: String?

    /// All output files.
    var paths: [String] { [grid, images, latents, decoded].compactMap(\.self) }
    /// Whether any output needs decoded images.
    var needImages: Bool { grid != nil || images != nil || decoded != nil }
  }

  /// Decoded images (count, channels, height, width) of latents.
  func images(of latents: Tensor, tiling: AutoencoderKL.Tiling) -> Tensor {
    let decoded = autoencoder.map { $0.decode($0.unscaled(latents), tiling: tiling) } ?? latents
    return fitted.map { AspectRatioBins.fitted(decoded, height: $0.height, width: $0.width) }
      ?? decoded
  }

  /// Samples batch by batch and writes the output; only the grid needs all images in memory.
  ///
  /// - Parameters:
  ///   - destinations: The files to write.
  ///   - noise: Initial noise with at least `count` rows; nil draws it from the seed.
  ///   - tiling: Whether large images are decoded in tiles.
  ///   - columns: Number of columns of the grid.
  /// - Throws: `FileError` for a file that cannot be written, `SamplingError` for invalid sampler
  ///   settings; nothing is written then.
  func write(
    to destinations: Destinations, noise: Tensor?, tiling: AutoencoderKL.Tiling, columns: Int?
  ) throws {
    let console = ProgressLine()
    defer { console.finish() }
    let factor = autoencoder?.config.spatialFactor ?? (drawsPixels ? 1 : 0)
    let (height, width) =
      fitted.map { ($0.height, $0.width) }
      ?? (latentShape[1] * factor, latentShape[2] * factor)
    let decodedShape = [count, autoencoder?.config.outChannels ?? latentShape[0], height, width]
    var grid: [RGBImage] = []
    func draw(
      _ images: NumpyWriter<UInt8>?, _ latents: NumpyWriter<Float>?, _ decoded: NumpyWriter<Float>?
    ) throws {
      for first in stride(from: 0, to: count, by: batch) {
        let range = first..<min(count, first + batch)
        let sample = try self.latents(range, noise?.rows(range)) { step, steps, _ in
          console.update(
            "images \(first)-\(range.upperBound - 1) of \(count), step \(step)/\(steps)")
        }
        try latents?.add(sample.values)
        guard autoencoder != nil || drawsPixels else { continue }
        let pixels = self.images(of: sample, tiling: tiling)
        guard pixels.isFinite else {
          throw SamplingError(
            description: "the autoencoder gave values that are not finite; use --precision fp32")
        }
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
          to: destinations.images, shape: [count, height, width, 3], isArchive: true
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
