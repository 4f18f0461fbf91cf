import Foundation
import Models
import Pictures
import TensorCore

extension AutoencoderKL {
  /// Converts images to a tensor (count, 3, height, width) with values in [-1, 1].
  package static func tensor(_ images: [RGBImage]) -> Tensor {
    guard let first = images.first else { return Tensor([0, 3, 0, 0]) }
    let area = first.width * first.height
    let result = Tensor([images.count, 3, first.height, first.width])
    for (index, image) in images.enumerated() {
      for pixel in 0..<area {
        for channel in 0..<3 {
          result[(index * 3 + channel) * area + pixel] =
            Float(image.pixels[pixel * 3 + channel]) / 127.5 - 1
        }
      }
    }
    return result
  }

  /// Decodes scaled latents (batch, channels, h, w) to 8-bit images.
  package func rgbImages(ofScaled latents: Tensor, tiling: Tiling = .auto) -> [RGBImage] {
    Self.rgbImages(ofDecoded: decode(unscaled(latents), tiling: tiling))
  }

  /// How decoded values become bytes.
  package enum Bytes: Sendable {
    /// clamp(127.5 x + 128, 0, 255) truncated, as DiT's scripts and ADM's evaluation do.
    case truncated
    /// 255 clamp(x / 2 + 0.5, 0, 1) rounded, ties to even, as pipelines of diffusers do.
    case rounded

    fileprivate func byte(_ value: Float) -> UInt8 {
      switch self {
      case .truncated: UInt8(min(255, max(0, 127.5 * value + 128)))
      case .rounded:
        UInt8((255 * min(1, max(0, value / 2 + 0.5))).rounded(.toNearestOrEven))
      }
    }
  }

  /// Converts decoded images (batch, 3, height, width) to 8 bits.
  package static func rgbImages(ofDecoded decoded: Tensor, _ bytes: Bytes = .truncated)
    -> [RGBImage]
  {
    let (height, width) = (decoded.shape[2], decoded.shape[3])
    let area = height * width
    return (0..<decoded.shape[0]).map { item in
      var pixels = [UInt8](repeating: 0, count: 3 * area)
      for channel in 0..<3 {
        let plane = decoded.pointer + (item * 3 + channel) * area
        for index in 0..<area {
          let value = plane[index].isFinite ? plane[index] : 0
          pixels[3 * index + channel] = bytes.byte(value)
        }
      }
      return RGBImage(width: width, height: height, pixels: pixels)
    }
  }
}

extension RGBImage {
  /// Returns the absolute difference per channel to an image of the same size.
  package func absoluteDifference(to other: RGBImage) -> RGBImage {
    RGBImage(
      width: width, height: height,
      pixels: zip(pixels, other.pixels).map { $0 > $1 ? $0 - $1 : $1 - $0 })
  }
}
