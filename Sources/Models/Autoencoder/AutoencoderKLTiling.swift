import TensorCore

extension AutoencoderKL {
  /// Tiled processing of large images with blended edges, as in diffusers'
  /// `AutoencoderKL.tiled_decode`; bounds the memory and changes the result slightly.
  package struct Tiling: Equatable, Sendable {
    /// Condition for tiling.
    package enum Mode: String, CaseIterable, Sendable {
      /// For images larger than a tile.
      case on
      case off
      /// For images larger than a tile whose planes at full size would exceed `planeBudget`.
      case auto
    }

    package var mode: Mode
    /// Side of a tile in latent positions, a multiple of 4; a quarter of it overlaps the next one.
    package var latentSide: Int
    /// Maximum size in bytes of full-resolution planes that are processed without tiles.
    static let planeBudget = 3 << 29

    package static let auto = Tiling(mode: .auto)

    package init(mode: Mode, latentSide: Int = 64) {
      precondition(latentSide > 0 && latentSide % 4 == 0, "Tiling: side \(latentSide)")
      self.mode = mode
      self.latentSide = latentSide
    }

    /// Tiling for latents of a size; nil if they are processed whole.
    func tiles(latentHeight: Int, latentWidth: Int, _ config: AutoencoderKLConfig) -> Tiling? {
      guard mode != .off, max(latentHeight, latentWidth) > latentSide else { return nil }
      return mode == .on || Self.planeBytes(latentHeight, latentWidth, config) > Self.planeBudget
        ? self : nil
    }

    /// Approximate peak memory: input, padded copy, result and residual of a convolution on the
    /// widest full-resolution planes.
    private static func planeBytes(_ height: Int, _ width: Int, _ config: AutoencoderKLConfig)
      -> Int
    {
      let widest = config.blockOutChannels.prefix(2).max() ?? 0
      let pixels = height * width * config.spatialFactor * config.spatialFactor
      return 4 * MemoryLayout<Float>.size * widest * pixels
    }

    /// Tile map from images to latents.
    func encoding(_ factor: Int) -> TileMap {
      TileMap(inputSide: latentSide * factor, outputSide: latentSide)
    }

    /// Tile map from latents to images.
    func decoding(_ factor: Int) -> TileMap {
      TileMap(inputSide: latentSide, outputSide: latentSide * factor)
    }
  }
}

/// Splits inputs into tiles that overlap by a quarter, and blends the outputs.
struct TileMap {
  /// Side of input and output tiles, multiples of 4.
  let inputSide, outputSide: Int

  /// Applies `body` to every tile of x (1, channels, h, w).
  ///
  /// The upper and left quarter of a tile are blended linearly with the lower and right edges of
  /// its blended neighbours; its first three quarters are kept.
  /// - Parameters:
  ///   - x: The input.
  ///   - result: Receives the output (1, channels', h', w'), scaled as the tile sides.
  ///   - body: Processes a tile.
  func apply(_ x: Tensor, into result: Tensor, _ body: (Tensor) -> Tensor) {
    let extent = outputSide / 4
    let kept = outputSide - extent
    let step = inputSide - inputSide / 4
    var above: [Plane] = []
    for (row, y) in stride(from: 0, to: x.shape[2], by: step).enumerated() {
      var current: [Plane] = []
      for (column, x0) in stride(from: 0, to: x.shape[3], by: step).enumerated() {
        let rows = y..<min(x.shape[2], y + inputSide)
        let columns = x0..<min(x.shape[3], x0 + inputSide)
        // Edge tiles have other sizes, whose buffers the pool would retain.
        BufferPool.trim()
        let tile = Plane(body(Plane(x).cut(rows, columns)))
        if row > 0 { tile.fadeIn(below: above[column], extent) }
        if column > 0 { tile.fadeIn(rightOf: current[column - 1], extent) }
        tile.copy(
          height: min(kept, tile.height), width: min(kept, tile.width), to: Plane(result),
          y: row * kept, x: column * kept)
        current.append(tile)
      }
      above = current
    }
    BufferPool.trim()
  }
}

/// Row access to an image (1, channels, height, width).
private struct Plane {
  let tensor: Tensor
  var channels: Int { tensor.shape[1] }
  var height: Int { tensor.shape[2] }
  var width: Int { tensor.shape[3] }

  init(_ tensor: Tensor) { self.tensor = tensor }

  func row(_ channel: Int, _ y: Int) -> UnsafeMutablePointer<Float> {
    tensor.pointer + (channel * height + y) * width
  }

  func cut(_ rows: Range<Int>, _ columns: Range<Int>) -> Tensor {
    let result = Plane(Tensor([1, channels, rows.count, columns.count]))
    for channel in 0..<channels {
      for y in rows {
        result.row(channel, y - rows.lowerBound).update(
          from: row(channel, y) + columns.lowerBound, count: columns.count)
      }
    }
    return result.tensor
  }

  func copy(height: Int, width: Int, to other: Plane, y: Int, x: Int) {
    for channel in 0..<channels {
      for line in 0..<height {
        (other.row(channel, y + line) + x).update(from: row(channel, line), count: width)
      }
    }
  }

  /// Blends the first rows with the last ones of the tile above.
  func fadeIn(below above: Plane, _ extent: Int) {
    let extent = min(above.height, height, extent)
    for channel in 0..<channels {
      for y in 0..<extent {
        let share = Float(y) / Float(extent)
        let (mine, other) = (row(channel, y), above.row(channel, above.height - extent + y))
        for x in 0..<width { mine[x] = other[x] * (1 - share) + mine[x] * share }
      }
    }
  }

  /// Blends the first columns with the last ones of the tile to the left.
  func fadeIn(rightOf left: Plane, _ extent: Int) {
    let extent = min(left.width, width, extent)
    for channel in 0..<channels {
      for y in 0..<height {
        let (mine, other) = (row(channel, y), left.row(channel, y) + left.width - extent)
        for x in 0..<extent {
          let share = Float(x) / Float(extent)
          mine[x] = other[x] * (1 - share) + mine[x] * share
        }
      }
    }
  }
}
