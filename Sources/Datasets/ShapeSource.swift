import Foundation
import TensorCore

/// Deterministic, unlimited source of class-conditional images of coloured shapes.
///
/// An image depends only on seed and index. Colour, position, size and rotation vary; the
/// background is plain or a gradient; edges are antialiased over about one pixel.
package struct ShapeSource: Sendable {
  /// Width and height of every image, in pixels.
  package static let side = 64

  /// The number of classes.
  package static let numClasses = ShapeClass.allCases.count

  /// The names of the classes, in label order.
  package static let classNames = ShapeClass.allCases.map(\.name)

  /// The seed of all images.
  package let seed: UInt64

  /// Makes a source; different seeds give independent images.
  package init(seed: UInt64) {
    self.seed = seed
  }

  /// Draws an image.
  ///
  /// - Parameters:
  ///   - index: Index of the image, from 0.
  ///   - label: The class, 0 ..< `numClasses`; nil selects `index % numClasses`.
  /// - Returns: The pixels (side, side, 3), row-major from the top left, and the class.
  package func image(index: Int, label: Int? = nil) -> (pixels: [UInt8], label: Int) {
    let label = label ?? index % Self.numClasses
    guard let shape = ShapeClass(rawValue: label) else {
      preconditionFailure("ShapeSource: label \(label) is outside 0 ..< \(Self.numClasses)")
    }
    return (Scene(shape: shape, seed: seed, index: index).pixels(), label)
  }
}

/// Random properties of one image.
private struct Scene {
  let shape: ShapeClass
  let radius: Float
  let center: (x: Float, y: Float)
  let cosine: Float
  let sine: Float
  let ink: SIMD3<Float>
  let paper: SIMD3<Float>
  let shading: (x: Float, y: Float)

  /// Draws the scene from up to 16 uniform numbers, each assigned to the same property for every
  /// shape.
  init(shape: ShapeClass, seed: UInt64, index: Int) {
    let random = RandomStream(seed: seed, "procedural images")
    var draw = 16 &* index
    func uniform(_ low: Float, _ high: Float) -> Float {
      defer { draw += 1 }
      return low + Float(random.uniform(draw)) * (high - low)
    }
    self.shape = shape
    radius = uniform(15, 23)
    let slack = min(8, 31 - radius)
    center = (32 + uniform(-slack, slack), 32 + uniform(-slack, slack))
    let (low, high) = shape.rotation
    let angle = Double(uniform(low, high)) * .pi / 180
    cosine = Float(cos(angle))
    sine = Float(sin(angle))

    ink = Self.color(
      hue: uniform(0, 1), saturation: uniform(0.75, 1),
      value: uniform(0.85, 1))
    let light = uniform(0, 1)
    let depth = uniform(0, 1)
    let tint = Self.color(
      hue: uniform(0, 1), saturation: uniform(0, 0.12), value: 1)
    let dark = tint * (0.06 + 0.12 * depth)
    let bright = tint * (0.8 + 0.12 * depth)
    paper = Self.paper(ink: ink, dark: dark, bright: bright, light: light)

    let shaded = uniform(0, 1) < 0.5
    let slope = uniform(0.03, 0.08)
    let direction = Double(uniform(0, 2)) * .pi
    shading =
      shaded ? (slope * Float(cos(direction)) / 32, slope * Float(sin(direction)) / 32) : (0, 0)
  }

  /// Background colour: light or dark by `light`, unless only one of them contrasts with the ink.
  private static func paper(
    ink: SIMD3<Float>, dark: SIMD3<Float>, bright: SIMD3<Float>, light: Float
  ) -> SIMD3<Float> {
    let margin: Float = 0.3
    let level = luma(ink)
    if abs(level - luma(dark)) < margin { return bright }
    if abs(level - luma(bright)) < margin { return dark }
    return light < 0.5 ? dark : bright
  }

  private static func luma(_ color: SIMD3<Float>) -> Float {
    0.299 * color.x + 0.587 * color.y + 0.114 * color.z
  }

  /// Converts hue, saturation and value in [0, 1] to red, green and blue.
  private static func color(hue: Float, saturation: Float, value: Float) -> SIMD3<Float> {
    func channel(_ offset: Float) -> Float {
      let turn = (offset + hue * 6).truncatingRemainder(dividingBy: 6)
      return value - value * saturation * max(0, min(turn, 4 - turn, 1))
    }
    return SIMD3(channel(5), channel(3), channel(1))
  }

  func pixels() -> [UInt8] {
    // One specialised loop per shape keeps the switch out of the pixel loop.
    switch shape {
    case .disc: draw { ShapeClass.disc.distance($0, $1) }
    case .ring: draw { ShapeClass.ring.distance($0, $1) }
    case .square: draw { ShapeClass.square.distance($0, $1) }
    case .diamondRing: draw { ShapeClass.diamondRing.distance($0, $1) }
    case .triangle: draw { ShapeClass.triangle.distance($0, $1) }
    case .cross: draw { ShapeClass.cross.distance($0, $1) }
    case .star: draw { ShapeClass.star.distance($0, $1) }
    case .crescent: draw { ShapeClass.crescent.distance($0, $1) }
    case .stripes: draw { ShapeClass.stripes.distance($0, $1) }
    case .leaf: draw { ShapeClass.leaf.distance($0, $1) }
    }
  }

  @inline(__always)
  private func draw(_ distance: (Float, Float) -> Float) -> [UInt8] {
    let side = ShapeSource.side
    let scale = 1 / radius
    return [UInt8](unsafeUninitializedCapacity: side * side * 3) { bytes, count in
      for row in 0..<side {
        let dy = Float(row) + 0.5 - center.y
        for column in 0..<side {
          let dx = Float(column) + 0.5 - center.x
          let x = (dx * cosine + dy * sine) * scale
          let y = (dy * cosine - dx * sine) * scale
          let coverage = min(max(0.5 - distance(x, y) * radius, 0), 1)
          let shade = shading.x * (Float(column) - 31.5) + shading.y * (Float(row) - 31.5)
          let ground = paper + shade
          let color = (ground + coverage * (ink - ground)) * 255 + 0.5
          let at = (row * side + column) * 3
          bytes[at] = UInt8(min(max(color.x, 0), 255))
          bytes[at + 1] = UInt8(min(max(color.y, 0), 255))
          bytes[at + 2] = UInt8(min(max(color.z, 0), 255))
        }
      }
      count = side * side * 3
    }
  }
}
