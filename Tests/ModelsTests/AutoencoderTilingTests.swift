import Foundation
import Models
import Nn
import TensorCore
import TestSupport
import Testing

@MainActor @Suite("Tiled autoencoder")
struct AutoencoderTilingTests {
  private struct Noise: WeightSource {
    func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) -> Tensor {
      let random = RandomStream(seed: 5, name)
      return Initializer.normal(0.2).tensor(shape, random)
    }
  }

  private func model() throws -> AutoencoderKL {
    try AutoencoderKL(
      config: AutoencoderKLConfig(
        blockOutChannels: [4, 8], layersPerBlock: 1, normNumGroups: 2), weights: Noise())
  }

  /// diffusers' `tiled_decode` in its own steps: tiles in rows, blended in place, cropped, joined.
  private func reference(
    _ x: Tensor, side: Int, outputSide: Int, _ body: (Tensor) -> Tensor
  ) -> [[[Float]]] {
    let (height, width) = (x.shape[2], x.shape[3])
    let step = Int(Double(side) * 0.75)
    let blend = Int(Double(outputSide) * 0.25)
    let limit = outputSide - blend
    func image(_ tensor: Tensor) -> [[[Float]]] {
      (0..<tensor.shape[1]).map { channel in
        (0..<tensor.shape[2]).map { y in
          (0..<tensor.shape[3]).map {
            tensor[(channel * tensor.shape[2] + y) * tensor.shape[3] + $0]
          }
        }
      }
    }
    var rows: [[[[[Float]]]]] = []
    for i in stride(from: 0, to: height, by: step) {
      rows.append(
        stride(from: 0, to: width, by: step).map { j in
          let (h, w) = (min(side, height - i), min(side, width - j))
          let tile = Tensor([1, x.shape[1], h, w])
          for channel in 0..<x.shape[1] {
            for y in 0..<h {
              for column in 0..<w {
                tile[(channel * h + y) * w + column] =
                  x[(channel * height + i + y) * width + j + column]
              }
            }
          }
          return image(body(tile))
        })
    }
    for i in rows.indices {
      for j in rows[i].indices {
        for c in rows[i][j].indices {
          if i > 0 {
            let above = rows[i - 1][j][c]
            let extent = min(above.count, rows[i][j][c].count, blend)
            for y in 0..<extent {
              for x in rows[i][j][c][y].indices {
                rows[i][j][c][y][x] =
                  above[above.count - extent + y][x] * (1 - Float(y) / Float(extent))
                  + rows[i][j][c][y][x] * (Float(y) / Float(extent))
              }
            }
          }
          if j > 0 {
            let left = rows[i][j - 1][c]
            let extent = min(left[0].count, rows[i][j][c][0].count, blend)
            for y in rows[i][j][c].indices {
              for x in 0..<extent {
                rows[i][j][c][y][x] =
                  left[y][left[y].count - extent + x] * (1 - Float(x) / Float(extent))
                  + rows[i][j][c][y][x] * (Float(x) / Float(extent))
              }
            }
          }
        }
      }
    }
    return rows[0][0].indices.map { c in
      rows.flatMap { row in
        (0..<min(limit, row[0][c].count)).map { y in row.flatMap { $0[c][y].prefix(limit) } }
      }
    }
  }

  @Test(arguments: [(20, 8), (8, 17), (22, 13), (9, 9)])
  func decodesAsTheReferenceDoes(height: Int, width: Int) throws {
    let model = try model()
    var random = RandomSequence(seed: 1)
    let latents = random.normal([2, 4, height, width])
    let tiling = AutoencoderKL.Tiling(mode: .on, latentSide: 8)
    let tiled = model.decode(latents, tiling: tiling)
    #expect(tiled.shape == [2, 3, 2 * height, 2 * width])
    for row in 0..<2 {
      let expected = reference(latents.rows(row..<(row + 1)), side: 8, outputSide: 16) {
        model.decode($0, tiling: .init(mode: .off))
      }
      let found = tiled.rows(row..<(row + 1)).values
      #expect(zip(found, expected.flatMap { $0.flatMap { $0 } }).allSatisfy { abs($0 - $1) < 1e-5 })
    }
    #expect(tiled.values != model.decode(latents, tiling: .init(mode: .off)).values)
  }

  @Test func encodesAsTheReferenceDoes() throws {
    let model = try model()
    var random = RandomSequence(seed: 1)
    let images = random.normal([1, 3, 40, 26])
    let mean = model.encode(images, tiling: .init(mode: .on, latentSide: 8)).mean
    let expected = reference(images, side: 16, outputSide: 8) {
      model.encode($0, tiling: .init(mode: .off)).mean
    }
    #expect(mean.shape == [1, 4, 20, 13])
    #expect(
      zip(mean.values, expected.flatMap { $0.flatMap { $0 } }).allSatisfy { abs($0 - $1) < 1e-5 })
  }

  @Test func smallImagesAreProcessedWhole() throws {
    let model = try model()
    var random = RandomSequence(seed: 1)
    let latents = random.normal([1, 4, 12, 12])
    let whole = model.decode(latents, tiling: .init(mode: .off)).values
    #expect(model.decode(latents, tiling: .init(mode: .on, latentSide: 12)).values == whole)
    #expect(model.decode(latents, tiling: .init(mode: .auto, latentSide: 8)).values == whole)
  }
}
