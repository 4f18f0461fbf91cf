extension RGBImage {
  /// Resizes and center-crops to a square: `center_crop_arr` of facebookresearch/DiT.
  ///
  /// The image is halved by a box filter while its short side is at least twice the size, resized
  /// by a bicubic filter, and cropped; the bytes equal those of Pillow.
  ///
  /// - Returns: The crop; nil if the image is so elongated that it would exceed `pixelLimit` pixels
  ///   before cropping.
  /// - Precondition: The size is positive.
  package func centerCropped(to size: Int) -> RGBImage? {
    precondition(size > 0, "a crop needs a positive size")
    var image = self
    while min(image.width, image.height) >= 2 * size {
      image = image.resampled(width: image.width / 2, height: image.height / 2, .box)
    }
    let scale = Double(size) / Double(min(image.width, image.height))
    func scaled(_ extent: Int) -> Int {
      Int((Double(extent) * scale).rounded(.toNearestOrEven))
    }
    let (width, height) = (scaled(image.width), scaled(image.height))
    guard width <= Self.pixelLimit / height else { return nil }
    let (left, top) = ((width - size) / 2, (height - size) / 2)
    return image.resampled(
      width: width, height: height, .bicubic, columns: left..<left + size, rows: top..<top + size)
  }

  /// Mirrors the image horizontally.
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

  /// The picture at another size as `Image.resize` of Pillow 13 makes it: with fixed-point weights, one axis
  /// after the other, and rounded to 8 bits in between.
  ///
  /// Columns come first unless the rows shrink by more than twice as many as the columns do.
  ///
  /// - Parameters:
  ///   - newWidth: The new number of columns.
  ///   - newHeight: The new number of rows.
  ///   - filter: The filter.
  ///   - columns: The columns of the result to compute; nil for all.
  ///   - rows: The rows of the result to compute; nil for all.
  /// - Returns: The part of the resized picture with those rows and columns.
  /// - Precondition: The extents are positive, and the rows and columns lie within them and are not empty.
  package func resampled(
    width newWidth: Int, height newHeight: Int, _ filter: ResamplingFilter,
    columns: Range<Int>? = nil, rows: Range<Int>? = nil
  ) -> RGBImage {
    precondition(newWidth > 0 && newHeight > 0, "a picture needs a positive size")
    let across = filter.windows(from: width, to: newWidth, columns ?? 0..<newWidth)
    let down = filter.windows(from: height, to: newHeight, rows ?? 0..<newHeight)
    if newHeight < height, height - newHeight > 2 * (width - newWidth) {
      return filteredDown(down, from: 0).filteredAcross(across, rows: 0..<down.count)
    }
    let needed = down[0].first..<down[down.count - 1].end
    return filteredAcross(across, rows: needed).filteredDown(down, from: needed.lowerBound)
  }

  /// Some rows of the picture with each row filtered; a column of the result for each window.
  private func filteredAcross(_ windows: [ResamplingFilter.Window], rows: Range<Int>) -> RGBImage {
    var result = RGBImage(width: windows.count, height: rows.count)
    pixels.withUnsafeBufferPointer { source in
      result.pixels.withUnsafeMutableBufferPointer { target in
        var place = 0
        for row in rows {
          for window in windows {
            var at = 3 * (row * width + window.first)
            var sums = (ResamplingFilter.half, ResamplingFilter.half, ResamplingFilter.half)
            for weight in window.weights {
              sums.0 += weight * Int(source[at])
              sums.1 += weight * Int(source[at + 1])
              sums.2 += weight * Int(source[at + 2])
              at += 3
            }
            target[place] = ResamplingFilter.byte(sums.0)
            target[place + 1] = ResamplingFilter.byte(sums.1)
            target[place + 2] = ResamplingFilter.byte(sums.2)
            place += 3
          }
        }
      }
    }
    return result
  }

  /// The picture, whose first row has the number `start` in the windows, with each column filtered; a row of
  /// the result for each window.
  private func filteredDown(_ windows: [ResamplingFilter.Window], from start: Int) -> RGBImage {
    var result = RGBImage(width: width, height: windows.count)
    let line = 3 * width
    var sums = [Int](repeating: 0, count: line)
    pixels.withUnsafeBufferPointer { source in
      result.pixels.withUnsafeMutableBufferPointer { target in
        for (row, window) in windows.enumerated() {
          for place in 0..<line { sums[place] = ResamplingFilter.half }
          for (index, weight) in window.weights.enumerated() {
            let at = (window.first - start + index) * line
            for place in 0..<line { sums[place] += weight * Int(source[at + place]) }
          }
          for place in 0..<line { target[row * line + place] = ResamplingFilter.byte(sums[place]) }
        }
      }
    }
    return result
  }
}

/// A filter of Pillow's resampling.
package enum ResamplingFilter {
  /// The mean of the pixels whose centres are covered; upwards, the nearest pixel.
  case box
  /// Cubic convolution with a = -0.5, stretched when a picture shrinks.
  case bicubic

  /// Filter weights of one output pixel along an axis, for input pixels from `first`.
  fileprivate struct Window {
    let first: Int
    let weights: [Int]
    /// The old pixel behind the last one.
    var end: Int { first + weights.count }
  }

  /// Bits behind the point of a weight.
  private static let precision = 22
  /// Half of the weight one, with which sums start so that they are rounded.
  fileprivate static let half = 1 << (precision - 1)

  /// A sum of weighted bytes as a byte.
  @inline(__always) fileprivate static func byte(_ sum: Int) -> UInt8 {
    UInt8(min(255, max(0, sum >> precision)))
  }

  /// The windows of some new pixels of an axis.
  fileprivate func windows(from old: Int, to new: Int, _ wanted: Range<Int>) -> [Window] {
    let scale = Double(old) / Double(new)
    let reach = max(scale, 1)
    let support = (self == .box ? 0.5 : 2) * reach
    let inverse = 1 / reach
    return wanted.map { index in
      let center = (Double(index) + 0.5) * scale
      let first = max(0, Int(center - support + 0.5))
      let end = min(old, Int(center + support + 0.5))
      let raw = (first..<max(first, end)).map { value((Double($0) - center + 0.5) * inverse) }
      let sum = raw.reduce(0, +)
      return Window(
        first: first,
        weights: raw.map { weight in
          let share = (sum == 0 ? weight : weight / sum) * Double(1 << Self.precision)
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
