extension RGBImage {
  /// The square centre of the picture at a size: `center_crop_arr` of facebookresearch/DiT.
  ///
  /// The picture is halved by a box filter while its short side is at least twice the size, brought to
  /// the size by a bicubic filter, and cropped; byte for byte what Pillow makes of it.
  /// - Precondition: The size is positive.
  package func centerCropped(to size: Int) -> RGBImage {
    precondition(size > 0, "a crop needs a positive size")
    var image = self
    while min(image.width, image.height) >= 2 * size {
      image = image.resampled(width: image.width / 2, height: image.height / 2, .box)
    }
    let scale = Double(size) / Double(min(image.width, image.height))
    func scaled(_ extent: Int) -> Int {
      Int((Double(extent) * scale).rounded(.toNearestOrEven))
    }
    image = image.resampled(width: scaled(image.width), height: scaled(image.height), .bicubic)
    let (left, top) = ((image.width - size) / 2, (image.height - size) / 2)
    var result = RGBImage(width: size, height: size)
    for row in 0..<size {
      let source = 3 * ((top + row) * image.width + left)
      result.pixels.replaceSubrange(
        (3 * row * size)..<(3 * (row + 1) * size), with: image.pixels[source..<source + 3 * size])
    }
    return result
  }

  /// The picture with left and right exchanged.
  package func mirrored() -> RGBImage {
    var result = self
    for row in 0..<height {
      for column in 0..<width {
        let (from, to) = (3 * (row * width + column), 3 * (row * width + width - 1 - column))
        for channel in 0..<3 { result.pixels[to + channel] = pixels[from + channel] }
      }
    }
    return result
  }

  /// The picture at another size as Pillow's `Image.resize` makes it (`Resample.c`): columns first,
  /// then rows, with whole-number weights and eight bits in between.
  func resampled(width newWidth: Int, height newHeight: Int, _ filter: ResamplingFilter)
    -> RGBImage
  {
    var image = self
    if newWidth != width {
      let weights = filter.weights(from: width, to: newWidth)
      var result = RGBImage(width: newWidth, height: height)
      for row in 0..<height {
        Self.apply(
          weights, from: image.pixels, at: 3 * row * width, stride: 3, into: &result.pixels,
          at: 3 * row * newWidth, stride: 3)
      }
      image = result
    }
    if newHeight != height {
      let weights = filter.weights(from: height, to: newHeight)
      var result = RGBImage(width: newWidth, height: newHeight)
      for column in 0..<newWidth {
        Self.apply(
          weights, from: image.pixels, at: 3 * column, stride: 3 * newWidth,
          into: &result.pixels, at: 3 * column, stride: 3 * newWidth)
      }
      image = result
    }
    return image
  }

  /// Filters one line of pixels into another.
  private static func apply(
    _ weights: [ResamplingFilter.Window], from source: [UInt8], at start: Int, stride: Int,
    into target: inout [UInt8], at targetStart: Int, stride targetStride: Int
  ) {
    source.withUnsafeBufferPointer { source in
      target.withUnsafeMutableBufferPointer { target in
        for (index, window) in weights.enumerated() {
          let half = 1 << (ResamplingFilter.precision - 1)
          var sums = (half, half, half)
          var at = start + window.first * stride
          for weight in window.weights {
            sums.0 += weight * Int(source[at])
            sums.1 += weight * Int(source[at + 1])
            sums.2 += weight * Int(source[at + 2])
            at += stride
          }
          let place = targetStart + index * targetStride
          func byte(_ sum: Int) -> UInt8 {
            UInt8(min(255, max(0, sum >> ResamplingFilter.precision)))
          }
          target[place] = byte(sums.0)
          target[place + 1] = byte(sums.1)
          target[place + 2] = byte(sums.2)
        }
      }
    }
  }
}

/// A filter of Pillow's resampling.
enum ResamplingFilter {
  case box, bicubic

  /// What one new pixel takes from an axis: weights of neighbouring old pixels from `first` on.
  struct Window {
    let first: Int
    let weights: [Int]
  }

  /// Bits behind the point of a weight.
  static let precision = 22

  /// The windows of all new pixels of an axis (`precompute_coeffs`, `normalize_coeffs_8bpc`).
  func weights(from old: Int, to new: Int) -> [Window] {
    let scale = Double(old) / Double(new)
    let reach = max(scale, 1)
    let support = (self == .box ? 0.5 : 2) * reach
    return (0..<new).map { index in
      let center = (Double(index) + 0.5) * scale
      let first = max(0, Int(center - support + 0.5))
      let end = min(old, Int(center + support + 0.5))
      let inverse = 1 / reach
      let raw = (first..<max(first, end)).map { value((Double($0) - center + 0.5) * inverse) }
      let sum = raw.reduce(0, +)
      let one = Double(1 << Self.precision)
      return Window(
        first: first,
        weights: raw.map { weight in
          let share = (sum == 0 ? weight : weight / sum) * one
          return Int(share < 0 ? share - 0.5 : share + 0.5)
        })
    }
  }

  private func value(_ position: Double) -> Double {
    switch self {
    case .box: return position > -0.5 && position <= 0.5 ? 1 : 0
    case .bicubic:
      let (a, x) = (-0.5, abs(position))
      if x < 1 { return ((a + 2) * x - (a + 3)) * x * x + 1 }
      return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0
    }
  }
}
