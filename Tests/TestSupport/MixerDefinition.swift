import Foundation

/// Sequence mixers by their definitions, token by token in double precision, on rows of one image.
package enum MixerDefinition {
  /// Rows of channels, one for each token in raster order.
  package typealias Rows = [[Double]]

  /// Splits flat values into rows.
  package static func rows(_ flat: some Collection<Double>, width: Int) -> Rows {
    let values = Array(flat)
    return stride(from: 0, to: values.count, by: width).map { Array(values[$0..<($0 + width)]) }
  }

  /// x W^T + b with W (outputs, inputs) row by row.
  package static func linear(_ x: Rows, _ weight: [Double], _ bias: [Double]) -> Rows {
    x.map { row in
      bias.indices.map { o in
        row.indices.reduce(bias[o]) { $0 + weight[o * row.count + $1] * row[$1] }
      }
    }
  }

  /// The three feature maps of linear attention by number.
  package static func features(_ map: Int, _ x: [Double]) -> [Double] {
    switch map {
    case 0: return x.map { $0 > 0 ? $0 + 1 : exp($0) }
    case 1: return x.map { max($0, 0) }
    default:
      let raised = x.map { exp($0) } + x.map { exp(-$0) }
      let sum = raised.reduce(0, +)
      return raised.map { $0 / sum }
    }
  }

  /// Attention whose weight of key j for query i of a head is a function of their channels.
  private static func attend(
    _ qkv: Rows, heads: Int, added: Double,
    weight: (_ head: Int, _ i: Int, _ j: Int, _ q: [Double], _ k: [Double]) -> Double
  ) -> Rows {
    let dim = qkv[0].count / 3
    let width = dim / heads
    var out = [[Double]](repeating: [Double](repeating: 0, count: dim), count: qkv.count)
    for head in 0..<heads {
      func part(_ token: Int, _ third: Int) -> [Double] {
        let start = third * dim + head * width
        return Array(qkv[token][start..<(start + width)])
      }
      for i in qkv.indices {
        let weights = qkv.indices.map { weight(head, i, $0, part(i, 0), part($0, 1)) }
        let sum = weights.reduce(added, +)
        for j in qkv.indices {
          for (c, value) in part(j, 2).enumerated() {
            out[i][head * width + c] += weights[j] / sum * value
          }
        }
      }
    }
    return out
  }

  private static func dot(_ a: [Double], _ b: [Double]) -> Double {
    zip(a, b).reduce(0) { $0 + $1.0 * $1.1 }
  }

  /// Linear attention over all tokens.
  package static func linearAttention(_ qkv: Rows, heads: Int, map: Int) -> Rows {
    attend(qkv, heads: heads, added: 1e-6) { _, _, _, q, k in
      dot(features(map, q), features(map, k))
    }
  }

  /// Softmax attention to a window that is shifted into the grid; with mixes, linear attention to the rest.
  package static func neighborhood(
    _ qkv: Rows, heads: Int, grid: (rows: Int, columns: Int), window: (rows: Int, columns: Int),
    mixes: [Double]? = nil
  ) -> Rows {
    func sees(_ a: Int, _ b: Int, _ extent: Int, _ window: Int) -> Bool {
      let window = min(window, extent)
      let start = min(max(a - window / 2, 0), extent - window)
      return (start..<(start + window)).contains(b)
    }
    return attend(qkv, heads: heads, added: 0) { head, i, j, q, k in
      let isNear =
        sees(i / grid.columns, j / grid.columns, grid.rows, window.rows)
        && sees(i % grid.columns, j % grid.columns, grid.columns, window.columns)
      let near = exp(dot(q, k) / Double(q.count).squareRoot())
      guard let mixes else { return isNear ? near : 0 }
      let mix = 1 / (1 + exp(-mixes[head]))
      return isNear
        ? mix * near : (1 - mix) * dot(features(0, q), features(0, k)) / Double(q.count)
    }
  }

  /// Queries and keys of every head times matrices (heads, width, width).
  package static func headMap(_ qkv: Rows, _ first: [Double], _ second: [Double], heads: Int)
    -> Rows
  {
    let width = qkv[0].count / 3 / heads
    return qkv.map { row in
      row.indices.map { c in
        let part = c / width
        guard part < 2 * heads else { return row[c] }
        let matrix = part < heads ? first : second
        let start = (part % heads * width + c % width) * width
        return (0..<width).reduce(0) { $0 + matrix[start + $1] * row[part * width + $1] }
      }
    }
  }

  /// Instance norm over the tokens of some columns.
  package static func tokenNorm(
    _ x: Rows, columns: Range<Int>, _ weight: [Double], _ bias: [Double]
  ) -> Rows {
    var y = x
    for c in columns {
      let values = x.map { $0[c] }
      let mean = values.reduce(0, +) / Double(values.count)
      let variance = values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(values.count)
      for t in x.indices {
        y[t][c] =
          (x[t][c] - mean) / (variance + 1e-5).squareRoot() * weight[c - columns.lowerBound]
          + bias[c - columns.lowerBound]
      }
    }
    return y
  }

  /// Adds a depthwise convolution of the grid, weight (channels, kernel, kernel), to some columns.
  package static func gridConvolution(
    _ x: Rows, columns: Range<Int>, _ weight: [Double], _ bias: [Double], kernel: Int,
    grid: (rows: Int, columns: Int)
  ) -> Rows {
    var y = x
    for row in 0..<grid.rows {
      for column in 0..<grid.columns {
        for c in columns {
          let channel = c - columns.lowerBound
          var sum = bias[channel]
          for a in 0..<kernel {
            for b in 0..<kernel {
              let (r, s) = (row + a - kernel / 2, column + b - kernel / 2)
              guard (0..<grid.rows).contains(r), (0..<grid.columns).contains(s) else { continue }
              sum += weight[(channel * kernel + a) * kernel + b] * x[r * grid.columns + s][c]
            }
          }
          y[row * grid.columns + column][c] += sum
        }
      }
    }
    return y
  }
}
