import Foundation
import TensorCore

/// Image sizes on which PixArt-Σ was trained, by aspect ratio (PixArt-sigma `ASPECT_RATIO_*`).
package enum AspectRatioBins {
  /// Base sizes in pixels that have a table.
  package static let bases = [256, 512, 1024, 2048]

  /// Heights and widths in sixteenths of the base size.
  private static let sides = [
    (8, 32), (8, 29), (9, 28), (9, 27), (9, 26), (10, 25), (10, 24), (11, 23), (11, 22), (11, 21),
    (12, 21), (12, 20), (13, 19), (13, 18), (14, 18), (14, 17), (15, 17), (15, 16), (16, 16),
    (16, 15),
    (17, 15), (17, 14), (18, 14), (18, 13), (19, 13), (20, 12), (21, 12), (22, 11), (23, 11),
    (24, 10),
    (25, 10), (27, 9), (32, 8),
  ]
  /// Further sizes at 2048 pixels.
  private static let furtherSides = [(8, 31), (8, 30), (26, 9), (28, 9), (29, 8), (30, 8), (31, 8)]

  /// Sizes in pixels with their nominal ratio of height to width, in ascending order.
  package static func table(base: Int) -> [(ratio: Double, height: Int, width: Int)] {
    (sides + (base == 2048 ? furtherSides : []))
      .map { height, width in
        let ratio = Double(height) / Double(width) * 100
        return (ratio.rounded(.toNearestOrEven) / 100, height * base / 16, width * base / 16)
      }
      .sorted { $0.ratio < $1.ratio }
  }

  /// The size whose ratio is nearest to that of the requested one, the first one of equals.
  ///
  /// - Parameters:
  ///   - height: Requested height in pixels.
  ///   - width: Requested width in pixels.
  ///   - base: The model's size in pixels.
  /// - Returns: nil if there is no table for the base size.
  package static func nearest(height: Int, width: Int, base: Int) -> (height: Int, width: Int)? {
    guard bases.contains(base) else { return nil }
    let wanted = Double(height) / Double(width)
    return table(base: base).min { abs($0.ratio - wanted) < abs($1.ratio - wanted) }
      .map { ($0.height, $0.width) }
  }

  /// Scales images (count, channels, height, width) bilinearly until they cover the requested size, and cuts
  /// the middle out of them (diffusers `resize_and_crop_tensor`).
  package static func fitted(_ images: Tensor, height: Int, width: Int) -> Tensor {
    let (rows, columns) = (images.shape[2], images.shape[3])
    if (rows, columns) == (height, width) { return images }
    let ratio = max(Double(height) / Double(rows), Double(width) / Double(columns))
    let (tall, wide) = (Int(Double(rows) * ratio), Int(Double(columns) * ratio))
    let down = samples(rows, to: tall, (tall - height) / 2, height)
    let across = samples(columns, to: wide, (wide - width) / 2, width)
    let result = Tensor([images.shape[0], images.shape[1], height, width])
    Parallel.ranges(images.shape[0] * images.shape[1] * height, grain: 16) { range in
      for line in range {
        let plane = images.pointer + line / height * rows * columns
        let (top, bottom, v) = down[line % height]
        for (column, (left, right, u)) in across.enumerated() {
          let upper = (1 - u) * plane[top * columns + left] + u * plane[top * columns + right]
          let lower = (1 - u) * plane[bottom * columns + left] + u * plane[bottom * columns + right]
          result[line * width + column] = (1 - v) * upper + v * lower
        }
      }
    }
    return result
  }

  /// Neighbours and weight of the second one, of `kept` new samples from `first` on.
  private static func samples(_ old: Int, to new: Int, _ first: Int, _ kept: Int) -> [(
    Int, Int, Float
  )] {
    let scale = Float(old) / Float(new)
    return (first..<(first + kept)).map { index in
      let place = max(0, (Float(index) + 0.5) * scale - 0.5)
      let low = min(old - 1, Int(place))
      return (low, min(old - 1, low + 1), place - Float(low))
    }
  }
}
