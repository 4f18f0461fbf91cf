import Checkpoints
import Files
import Models
import Pictures
import Sampling
import TensorCore

/// Images that are to be drawn with a model of either family.
struct Drawing {
  /// Number of images.
  let count: Int
  /// Images a row of the grid, unless told otherwise.
  let columns: Int
  /// Images that are sampled together.
  let batch: Int
  /// (channels, height, width) of an image's latents.
  let latentShape: [Int]
  /// What decodes the latents; nil if nobody asks for images, or the model draws pixels.
  let autoencoder: AutoencoderKL?
  /// Whether the latents are images themselves, with values from -1 to 1.
  var drawsPixels = false
  /// The latents of some images, by their indices, from a start noise or, without one, the seed's.
  let latents: (Range<Int>, Tensor?, @escaping LatentSampler.StepObserver) throws -> Tensor

  /// Where the parts of the result go; nil is nowhere.
  struct Destinations {
    let grid, images, latents, decoded: String?

    /// All files that are to be written.
    var paths: [String] { [grid, images, latents, decoded].compactMap(\.self) }
    /// Whether anything but latents is asked for.
    var needImages: Bool { grid != nil || images != nil || decoded != nil }
  }

  /// Draws everything, a batch at a time; only the grid needs all images at once.
  ///
  /// - Parameters:
  ///   - destinations: The files to write.
  ///   - noise: Start noise of at least `count` rows; nil draws it from the seed.
  ///   - tiling: Whether decoding goes piece by piece.
  ///   - columns: Images a row of the grid.
  /// - Throws: `FileError` for a file that cannot be written, `SamplingError` for a sampler that
  ///   does not fit; nothing is written then.
  func write(
    to destinations: Destinations, noise: Tensor?, tiling: AutoencoderKL.Tiling, columns: Int?
  ) throws {
    let console = ProgressLine()
    defer { console.finish() }
    let factor = autoencoder?.config.spatialFactor ?? (drawsPixels ? 1 : 0)
    let (height, width) = (latentShape[1] * factor, latentShape[2] * factor)
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
        let pixels =
          autoencoder.map { $0.decode($0.unscaled(sample), tiling: tiling) } ?? sample
        guard pixels.isFinite else {
          throw SamplingError(
            description: "the autoencoder gave values that are not finite; use --precision fp32")
        }
        try decoded?.add(pixels.values)
        let drawn = AutoencoderKL.rgbImages(ofDecoded: pixels)
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
