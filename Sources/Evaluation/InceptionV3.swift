import Checkpoints
import Files
import Foundation
import Pictures
import TensorCore

/// The network of the Fréchet inception distance: TensorFlow's Inception v3 of 2015-12-05.
///
/// Convolutions without bias, batch norm (epsilon 1e-3) folded into them, ReLU. Average pools leave padding out
/// of the mean, and the last block pools by maximum, as in the frozen graph.
package final class InceptionV3 {
  /// Features of images.
  package struct Features {
    /// Pooled features (images, 2048), for FID, precision, recall and KID.
    package let pool: Tensor
    /// Spatial features (images, 2023), for sFID.
    package let spatial: Tensor
    /// Logits without bias (images, 1008), for the inception score.
    package let logits: Tensor

    /// Softmax of the logits (images, 1008).
    package var probabilities: Tensor {
      let result = Tensor(logits.shape)
      let classes = logits.shape[1]
      for row in 0..<logits.shape[0] {
        let (source, target) = (logits.pointer + row * classes, result.pointer + row * classes)
        let largest = (0..<classes).reduce(-Float.infinity) { max($0, source[$1]) }
        var sum = 0.0
        for column in 0..<classes { sum += exp(Double(source[column] - largest)) }
        for column in 0..<classes {
          target[column] = Float(exp(Double(source[column] - largest)) / sum)
        }
      }
      return result
    }
  }

  /// Side of the images that the network sees.
  package static let side = 299
  package static let poolWidth = 2048
  /// Channels and side of the map from which spatial features are taken.
  private static let (spatialChannels, spatialSide) = (7, 17)
  package static let spatialWidth = spatialChannels * spatialSide * spatialSide
  package static let classes = 1008
  private static let epsilon: Float = 1e-3

  /// A convolution with its folded norm: (kernel height * kernel width * inputs, outputs).
  private struct Unit {
    let weight, bias: Tensor
    let height, width, inputs, outputs: Int
  }

  /// Feature map of one image (rows * columns, channels).
  private struct Map {
    let rows, columns, channels: Int
    let values: Tensor

    init(_ rows: Int, _ columns: Int, _ channels: Int) {
      (self.rows, self.columns, self.channels) = (rows, columns, channels)
      values = Tensor([rows * columns, channels])
    }
  }

  private let units: [String: Unit]
  /// Weight of the last layer (2048, 1008).
  private let classifier: Tensor

  /// Loads the weights of the PyTorch ports (`pt_inception-2015-12-05-….pth`) or of the frozen graph
  /// (`classify_image_graph_def.pb`).
  ///
  /// - Throws: `FileError` for a missing tensor or another shape.
  package convenience init(path: String) throws {
    let file = try Checkpoint.open(path)
    try self.init((file as? FrozenGraph)?.aliased(Self.graphAliases) ?? file)
  }

  /// Loads the weights from an open file.
  package init(_ file: any TensorFile) throws(FileError) {
    func tensor(_ name: String, _ shape: [Int]) throws(FileError) -> Tensor {
      let entry = try file.existing(name)
      guard entry.shape == shape else {
        throw FileError(
          "\(file.path): tensor '\(name)' has shape \(entry.shape), expected \(shape); use the weights of"
            + " Inception v3 of 2015-12-05")
      }
      return Tensor(try file.floats(name), shape: shape)
    }
    var units: [String: Unit] = [:]
    for (name, shape) in Self.layout {
      let (outputs, inputs, height, width) = (shape[0], shape[1], shape[2], shape[3])
      let kernel = try tensor("\(name).conv.weight", shape)
      let gain = try tensor("\(name).bn.weight", [outputs])
      let offset = try tensor("\(name).bn.bias", [outputs])
      let mean = try tensor("\(name).bn.running_mean", [outputs])
      let variance = try tensor("\(name).bn.running_var", [outputs])
      let (weight, bias) = (Tensor([height * width * inputs, outputs]), Tensor([outputs]))
      for output in 0..<outputs {
        let scale = gain[output] / (variance[output] + Self.epsilon).squareRoot()
        bias[output] = offset[output] - mean[output] * scale
        for input in 0..<inputs {
          for place in 0..<(height * width) {
            weight[(place * inputs + input) * outputs + output] =
              kernel[(output * inputs + input) * height * width + place] * scale
          }
        }
      }
      units[name] = Unit(
        weight: weight, bias: bias, height: height, width: width, inputs: inputs, outputs: outputs)
    }
    self.units = units
    let last = try tensor("fc.weight", [Self.classes, Self.poolWidth])
    classifier = Tensor([Self.poolWidth, Self.classes])
    for row in 0..<Self.classes {
      for column in 0..<Self.poolWidth {
        classifier[column * Self.classes + row] = last[row * Self.poolWidth + column]
      }
    }
  }

  /// Names and kernel shapes (outputs, inputs, height, width) of all convolutions.
  private static let layout: [(String, [Int])] = {
    var all: [(String, [Int])] = []
    func add(_ name: String, _ inputs: Int, _ outputs: Int, _ height: Int = 1, _ width: Int = 1) {
      all.append((name, [outputs, inputs, height, width]))
    }
    add("Conv2d_1a_3x3", 3, 32, 3, 3)
    add("Conv2d_2a_3x3", 32, 32, 3, 3)
    add("Conv2d_2b_3x3", 32, 64, 3, 3)
    add("Conv2d_3b_1x1", 64, 80)
    add("Conv2d_4a_3x3", 80, 192, 3, 3)
    for (block, inputs, pool) in [("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)] {
      let name = "Mixed_\(block)."
      add("\(name)branch1x1", inputs, 64)
      add("\(name)branch5x5_1", inputs, 48)
      add("\(name)branch5x5_2", 48, 64, 5, 5)
      add("\(name)branch3x3dbl_1", inputs, 64)
      add("\(name)branch3x3dbl_2", 64, 96, 3, 3)
      add("\(name)branch3x3dbl_3", 96, 96, 3, 3)
      add("\(name)branch_pool", inputs, pool)
    }
    add("Mixed_6a.branch3x3", 288, 384, 3, 3)
    add("Mixed_6a.branch3x3dbl_1", 288, 64)
    add("Mixed_6a.branch3x3dbl_2", 64, 96, 3, 3)
    add("Mixed_6a.branch3x3dbl_3", 96, 96, 3, 3)
    for (block, width) in [("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)] {
      let name = "Mixed_\(block)."
      add("\(name)branch1x1", 768, 192)
      add("\(name)branch7x7_1", 768, width)
      add("\(name)branch7x7_2", width, width, 1, 7)
      add("\(name)branch7x7_3", width, 192, 7, 1)
      add("\(name)branch7x7dbl_1", 768, width)
      add("\(name)branch7x7dbl_2", width, width, 7, 1)
      add("\(name)branch7x7dbl_3", width, width, 1, 7)
      add("\(name)branch7x7dbl_4", width, width, 7, 1)
      add("\(name)branch7x7dbl_5", width, 192, 1, 7)
      add("\(name)branch_pool", 768, 192)
    }
    add("Mixed_7a.branch3x3_1", 768, 192)
    add("Mixed_7a.branch3x3_2", 192, 320, 3, 3)
    add("Mixed_7a.branch7x7x3_1", 768, 192)
    add("Mixed_7a.branch7x7x3_2", 192, 192, 1, 7)
    add("Mixed_7a.branch7x7x3_3", 192, 192, 7, 1)
    add("Mixed_7a.branch7x7x3_4", 192, 192, 3, 3)
    for (block, inputs) in [("7b", 1280), ("7c", 2048)] {
      let name = "Mixed_\(block)."
      add("\(name)branch1x1", inputs, 320)
      add("\(name)branch3x3_1", inputs, 384)
      add("\(name)branch3x3_2a", 384, 384, 1, 3)
      add("\(name)branch3x3_2b", 384, 384, 3, 1)
      add("\(name)branch3x3dbl_1", inputs, 448)
      add("\(name)branch3x3dbl_2", 448, 384, 3, 3)
      add("\(name)branch3x3dbl_3a", 384, 384, 1, 3)
      add("\(name)branch3x3dbl_3b", 384, 384, 3, 1)
      add("\(name)branch_pool", inputs, 192)
    }
    return all
  }()

  /// Constants of the frozen graph by the names of the ports.
  ///
  /// Kernels are (height, width, inputs, outputs) there.
  package static let graphAliases: [String: FrozenGraph.Alias] = {
    var aliases = ["fc.weight": FrozenGraph.Alias("softmax/weights", axes: [1, 0])]
    for (unit, _) in layout {
      let node = graphNode(unit)
      aliases["\(unit).conv.weight"] = .init("\(node)/conv2d_params", axes: [3, 2, 0, 1])
      for (name, constant) in [
        ("weight", "gamma"), ("bias", "beta"), ("running_mean", "moving_mean"),
        ("running_var", "moving_variance"),
      ] {
        aliases["\(unit).bn.\(name)"] = .init("\(node)/batchnorm/\(constant)", axes: [0])
      }
    }
    return aliases
  }()

  /// Node of a convolution in the frozen graph: blocks are `mixed`, `mixed_1` and so on, branches towers.
  private static func graphNode(_ unit: String) -> String {
    func numbered(_ name: String, _ index: Int) -> String { index == 0 ? name : "\(name)_\(index)" }
    let parts = unit.split(separator: ".").map(String.init)
    guard parts.count == 2 else {
      let stem = ["1a", "2a", "2b", "3b", "4a"]
      return numbered("conv", stem.firstIndex { unit.contains("_\($0)_") } ?? 0)
    }
    let blocks = ["5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"]
    let block = numbered("mixed", blocks.firstIndex { parts[0].hasSuffix($0) } ?? 0)
    let branch = parts[1].split(separator: "_").map(String.init)
    let (isFirst, place) = (branch.count == 1, branch.last ?? "")
    if isFirst { return "\(block)/conv" }
    if branch[1] == "pool" { return "\(block)/tower_2/conv" }
    // Block 6a has no other tower before the double one.
    let isSecond = ["branch3x3dbl", "branch7x7dbl", "branch7x7x3"].contains(branch[0])
    let tower = isSecond && !parts[0].hasSuffix("6a") ? "tower_1" : "tower"
    // The last convolutions of 7b and 7c are a pair beside each other.
    if place.hasSuffix("a") { return "\(block)/\(tower)/mixed/conv" }
    if place.hasSuffix("b") { return "\(block)/\(tower)/mixed/conv_1" }
    return "\(block)/\(tower)/" + numbered("conv", (Int(place) ?? 1) - 1)
  }

  // MARK: - Images

  /// Resizes an 8-bit RGB image as the frozen graph does and scales it to (x - 128) / 128: TensorFlow 1's
  /// bilinear resizing, without half-pixel shift or corner alignment, in float32.
  ///
  /// - Parameters:
  ///   - pixels: Interleaved RGB (height, width, 3).
  ///   - height: Height in pixels.
  ///   - width: Width in pixels.
  /// - Returns: (299, 299, 3).
  package static func resized(_ pixels: UnsafeBufferPointer<UInt8>, height: Int, width: Int)
    -> Tensor
  {
    let result = Tensor([side, side, 3])
    func places(_ extent: Int) -> [(low: Int, high: Int, weight: Float)] {
      let scale = Float(extent) / Float(side)
      return (0..<side).map { index in
        let position = Float(index) * scale
        let low = min(extent - 1, Int(position))
        return (low, min(extent - 1, low + 1), position - Float(low))
      }
    }
    let (down, across) = (places(height), places(width))
    for (row, vertical) in down.enumerated() {
      for (column, horizontal) in across.enumerated() {
        for channel in 0..<3 {
          func lerp(_ line: Int) -> Float {
            let left = Float(pixels[(line * width + horizontal.low) * 3 + channel])
            let right = Float(pixels[(line * width + horizontal.high) * 3 + channel])
            return left + (right - left) * horizontal.weight
          }
          let (top, bottom) = (lerp(vertical.low), lerp(vertical.high))
          let value = top + (bottom - top) * vertical.weight
          result[(row * side + column) * 3 + channel] = (value - 128) / 128
        }
      }
    }
    return result
  }

  /// Resizes an image in the same way.
  package static func resized(_ image: RGBImage) -> Tensor {
    image.pixels.withUnsafeBufferPointer { resized($0, height: image.height, width: image.width) }
  }

  /// Features of prepared images, one image on each thread.
  ///
  /// - Parameter images: (299, 299, 3) each, as `resized` gives them.
  /// - Returns: One row per image.
  package func callAsFunction(_ images: [Tensor]) -> Features {
    let pool = Tensor([images.count, Self.poolWidth])
    let spatial = Tensor([images.count, Self.spatialWidth])
    Parallel.tasks(images.count) { index in
      run(
        images[index], pool: pool.pointer + index * Self.poolWidth,
        spatial: spatial.pointer + index * Self.spatialWidth)
    }
    let logits = Tensor([images.count, Self.classes])
    Gemm.run(
      m: images.count, n: Self.classes, k: Self.poolWidth, a: pool.pointer, b: classifier.pointer,
      c: logits.pointer)
    return Features(pool: pool, spatial: spatial, logits: logits)
  }

  private func run(
    _ image: Tensor, pool: UnsafeMutablePointer<Float>, spatial: UnsafeMutablePointer<Float>
  ) {
    var x = Map(Self.side, Self.side, 3)
    x.values.assign(image.reshaped(x.values.shape))
    x = convolved(x, "Conv2d_1a_3x3", stride: 2)
    x = convolved(x, "Conv2d_2a_3x3")
    x = convolved(x, "Conv2d_2b_3x3", padding: (1, 1))
    x = pooled(x, .largest, stride: 2)
    x = convolved(x, "Conv2d_3b_1x1")
    x = convolved(x, "Conv2d_4a_3x3")
    x = pooled(x, .largest, stride: 2)
    for block in ["5b", "5c", "5d"] {
      x = joined(x, "Mixed_\(block).") { branch in
        branch.end("branch1x1")
        branch.end("branch5x5_2", of: branch.start("branch5x5_1"), padding: (2, 2))
        let double = branch.next("branch3x3dbl_2", branch.start("branch3x3dbl_1"), padding: (1, 1))
        branch.end("branch3x3dbl_3", of: double, padding: (1, 1))
        branch.end("branch_pool", of: pooled(x, .mean))
      }
    }
    x = joined(x, "Mixed_6a.", stride: 2) { branch in
      branch.end("branch3x3", stride: 2)
      let double = branch.next("branch3x3dbl_2", branch.start("branch3x3dbl_1"), padding: (1, 1))
      branch.end("branch3x3dbl_3", of: double, stride: 2)
      branch.append(pooled(x, .largest, stride: 2))
    }
    for block in ["6b", "6c", "6d", "6e"] {
      x = joined(x, "Mixed_\(block).") { branch in
        branch.end("branch1x1")
        if block == "6d" { branch.copyFirst(Self.spatialChannels, to: spatial) }
        let single = branch.next("branch7x7_2", branch.start("branch7x7_1"), padding: (0, 3))
        branch.end("branch7x7_3", of: single, padding: (3, 0))
        var double = branch.start("branch7x7dbl_1")
        double = branch.next("branch7x7dbl_2", double, padding: (3, 0))
        double = branch.next("branch7x7dbl_3", double, padding: (0, 3))
        double = branch.next("branch7x7dbl_4", double, padding: (3, 0))
        branch.end("branch7x7dbl_5", of: double, padding: (0, 3))
        branch.end("branch_pool", of: pooled(x, .mean))
      }
    }
    x = joined(x, "Mixed_7a.", stride: 2) { branch in
      branch.end("branch3x3_2", of: branch.start("branch3x3_1"), stride: 2)
      var long = branch.next("branch7x7x3_2", branch.start("branch7x7x3_1"), padding: (0, 3))
      long = branch.next("branch7x7x3_3", long, padding: (3, 0))
      branch.end("branch7x7x3_4", of: long, stride: 2)
      branch.append(pooled(x, .largest, stride: 2))
    }
    for block in ["7b", "7c"] {
      x = joined(x, "Mixed_\(block).") { branch in
        branch.end("branch1x1")
        let single = branch.start("branch3x3_1")
        branch.end("branch3x3_2a", of: single, padding: (0, 1))
        branch.end("branch3x3_2b", of: single, padding: (1, 0))
        let double = branch.next("branch3x3dbl_2", branch.start("branch3x3dbl_1"), padding: (1, 1))
        branch.end("branch3x3dbl_3a", of: double, padding: (0, 1))
        branch.end("branch3x3dbl_3b", of: double, padding: (1, 0))
        branch.end("branch_pool", of: pooled(x, block == "7b" ? .mean : .largest))
      }
    }
    for channel in 0..<x.channels {
      var sum = 0.0
      for place in 0..<(x.rows * x.columns) {
        sum += Double(x.values[place * x.channels + channel])
      }
      pool[channel] = Float(sum / Double(x.rows * x.columns))
    }
  }

  // MARK: - Layers

  /// Branches of a block, concatenated along the channels in the order in which they end.
  private final class Branches {
    private let network: InceptionV3
    private let prefix: String
    private let input: Map
    private(set) var output: Map
    private var filled = 0

    init(_ network: InceptionV3, _ input: Map, _ prefix: String, stride: Int) {
      (self.network, self.input, self.prefix) = (network, input, prefix)
      let ends = InceptionV3.width(of: prefix) + (stride == 2 ? input.channels : 0)
      output =
        stride == 2
        ? Map((input.rows - 3) / 2 + 1, (input.columns - 3) / 2 + 1, ends)
        : Map(input.rows, input.columns, ends)
    }

    func start(_ name: String) -> Map { network.convolved(input, prefix + name) }

    func next(_ name: String, _ x: Map, padding: (Int, Int)) -> Map {
      network.convolved(x, prefix + name, padding: padding)
    }

    func end(_ name: String, of x: Map? = nil, stride: Int = 1, padding: (Int, Int) = (0, 0)) {
      filled += network.convolve(
        x ?? input, prefix + name, stride: stride, padding: padding, into: output, at: filled)
    }

    func append(_ x: Map) {
      for place in 0..<(x.rows * x.columns) {
        (output.values.pointer + place * output.channels + filled).update(
          from: x.values.pointer + place * x.channels, count: x.channels)
      }
      filled += x.channels
    }

    func copyFirst(_ channels: Int, to target: UnsafeMutablePointer<Float>) {
      for place in 0..<(output.rows * output.columns) {
        (target + place * channels).update(
          from: output.values.pointer + place * output.channels, count: channels)
      }
    }
  }

  /// Endings of the names of convolutions whose outputs are concatenated.
  private static let ends = [
    "branch1x1", "branch5x5_2", "branch3x3dbl_3", "branch_pool", "branch3x3", "branch7x7_3",
    "branch7x7dbl_5", "branch3x3_2", "branch7x7x3_4", "branch3x3_2a", "branch3x3_2b",
    "branch3x3dbl_3a", "branch3x3dbl_3b",
  ]

  private static func width(of prefix: String) -> Int {
    layout.filter { name, _ in ends.contains { name == prefix + $0 } }.reduce(0) { $0 + $1.1[0] }
  }

  private func joined(_ x: Map, _ prefix: String, stride: Int = 1, _ body: (Branches) -> Void)
    -> Map
  {
    let branches = Branches(self, x, prefix, stride: stride)
    body(branches)
    return branches.output
  }

  private func convolved(
    _ x: Map, _ name: String, stride: Int = 1, padding: (Int, Int) = (0, 0)
  ) -> Map {
    guard let unit = units[name] else { preconditionFailure("Inception: no unit \(name)") }
    let rows = (x.rows + 2 * padding.0 - unit.height) / stride + 1
    let columns = (x.columns + 2 * padding.1 - unit.width) / stride + 1
    let result = Map(rows, columns, unit.outputs)
    _ = convolve(x, name, stride: stride, padding: padding, into: result, at: 0)
    return result
  }

  /// Values of patches gathered at a time.
  private static let patchValues = 1 << 19

  /// Convolves into some channels of a map by products with gathered patches; returns their number.
  private func convolve(
    _ x: Map, _ name: String, stride: Int, padding: (Int, Int), into target: Map, at channel: Int
  ) -> Int {
    guard let unit = units[name] else { preconditionFailure("Inception: no unit \(name)") }
    let depth = unit.height * unit.width * unit.inputs
    let places = target.rows * target.columns
    let isPointwise = unit.height * unit.width == 1 && stride == 1
    let most = isPointwise ? places : max(target.columns, Self.patchValues / depth)
    let patches = isPointwise ? x.values : Tensor([min(most, places), depth])
    for first in Swift.stride(from: 0, to: places, by: most) {
      let range = first..<min(places, first + most)
      if !isPointwise { gather(x, unit, stride, padding, target.columns, range, into: patches) }
      let start = target.values.pointer + first * target.channels + channel
      Gemm.serial(
        m: range.count, n: unit.outputs, k: depth, a: patches.pointer, lda: depth,
        b: unit.weight.pointer, ldb: unit.outputs, c: start, ldc: target.channels)
      let bias = unit.bias.pointer
      for place in 0..<range.count {
        let row = start + place * target.channels
        for output in 0..<unit.outputs { row[output] = max(0, row[output] + bias[output]) }
      }
    }
    return unit.outputs
  }

  /// Copies the patches under the kernel for some output places (places, height * width * inputs).
  private func gather(
    _ x: Map, _ unit: Unit, _ stride: Int, _ padding: (Int, Int), _ columns: Int,
    _ range: Range<Int>,
    into patches: Tensor
  ) {
    let line = unit.width * unit.inputs
    for (index, place) in range.enumerated() {
      let top = place / columns * stride - padding.0
      let left = place % columns * stride - padding.1
      // Columns of the kernel that lie inside the map.
      let inside = max(0, -left)..<max(max(0, -left), min(unit.width, x.columns - left))
      for row in 0..<unit.height {
        let target = patches.pointer + (index * unit.height + row) * line
        guard (0..<x.rows).contains(top + row) else {
          target.update(repeating: 0, count: line)
          continue
        }
        if inside.count < unit.width { target.update(repeating: 0, count: line) }
        (target + inside.lowerBound * unit.inputs).update(
          from: x.values.pointer + ((top + row) * x.columns + left + inside.lowerBound)
            * x.channels,
          count: inside.count * unit.inputs)
      }
    }
  }

  private enum Pool {
    case largest
    /// The mean without padding.
    case mean
  }

  /// Pools 3x3 windows; with stride one, the map is padded by one.
  private func pooled(_ x: Map, _ pool: Pool, stride: Int = 1) -> Map {
    let padding = stride == 1 ? 1 : 0
    let result = Map(
      (x.rows + 2 * padding - 3) / stride + 1, (x.columns + 2 * padding - 3) / stride + 1,
      x.channels)
    for row in 0..<result.rows {
      let top = row * stride - padding
      let rows = max(0, top)..<min(x.rows, top + 3)
      for column in 0..<result.columns {
        let left = column * stride - padding
        let columns = max(0, left)..<min(x.columns, left + 3)
        let target = result.values.pointer + (row * result.columns + column) * x.channels
        target.update(repeating: pool == .mean ? 0 : -.infinity, count: x.channels)
        for line in rows {
          for place in columns {
            let source = x.values.pointer + (line * x.columns + place) * x.channels
            if pool == .mean {
              for channel in 0..<x.channels { target[channel] += source[channel] }
            } else {
              for channel in 0..<x.channels {
                target[channel] = max(target[channel], source[channel])
              }
            }
          }
        }
        if pool == .mean {
          let share = 1 / Float(rows.count * columns.count)
          for channel in 0..<x.channels { target[channel] *= share }
        }
      }
    }
    return result
  }
}
