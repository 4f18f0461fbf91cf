/// The ten shapes, in label order.
enum ShapeClass: Int, CaseIterable {
  case disc, ring, square, diamondRing, triangle, cross, star, crescent, stripes, leaf

  var name: String {
    switch self {
    case .diamondRing: "diamond ring"
    default: "\(self)"
    }
  }

  /// Range of rotations in degrees: the full period for shapes with rotational symmetry, a moderate
  /// tilt about the upright position for others.
  var rotation: (low: Float, high: Float) {
    switch self {
    case .disc, .ring: (0, 0)
    case .square: (-20, 20)
    case .diamondRing: (-15, 15)
    case .triangle: (-25, 25)
    case .cross: (-20, 20)
    case .star: (-36, 36)
    case .crescent: (-45, 45)
    case .stripes: (-15, 15)
    case .leaf: (10, 80)
    }
  }

  /// Signed distance from a point to the outline, negative inside.
  ///
  /// The shape lies upright in the unit disc (x to the right, y down). Close to the outline the
  /// value is the Euclidean distance; farther away some shapes give a lower bound of it.
  @inline(__always)
  func distance(_ x: Float, _ y: Float) -> Float {
    switch self {
    case .disc: Self.length(x, y) - 0.92
    case .ring: abs(Self.length(x, y) - 0.75) - 0.23
    case .square: Self.box(x, y, 0.8, 0.8)
    case .diamondRing: abs((abs(x) + abs(y) - 0.79) * 0.707_106_77) - 0.18
    case .triangle: Self.triangle(x, y)
    case .cross: min(Self.box(x, y, 0.98, 0.3), Self.box(x, y, 0.3, 0.98))
    case .star: Self.star(x, y)
    case .crescent: max(Self.length(x, y) - 0.96, 0.74 - Self.length(x - 0.46, y))
    case .stripes: Self.box(x, abs(abs(y) - 0.31) - 0.31, 0.85, 0.18)
    case .leaf: Self.leaf(x, y)
    }
  }

  @inline(__always)
  private static func length(_ x: Float, _ y: Float) -> Float { (x * x + y * y).squareRoot() }

  @inline(__always)
  private static func box(_ x: Float, _ y: Float, _ halfWidth: Float, _ halfHeight: Float)
    -> Float
  {
    let dx = abs(x) - halfWidth
    let dy = abs(y) - halfHeight
    return length(max(dx, 0), max(dy, 0)) + min(max(dx, dy), 0)
  }

  /// An equilateral triangle with one corner up, a little below the centre.
  @inline(__always)
  private static func triangle(_ x: Float, _ y: Float) -> Float {
    let lowered = y - 0.12
    return max(lowered - 0.5, abs(x) * 0.866_025_4 - lowered * 0.5 - 0.5)
  }

  /// A five-pointed star with one tip up: the plane is folded onto half a point, a triangle between
  /// the tip (0, -1) and the inner corner at radius 0.46 and 36 degrees.
  @inline(__always)
  private static func star(_ x: Float, _ y: Float) -> Float {
    let (cosine36, sine36): (Float, Float) = (0.809_017, 0.587_785_25)
    var px = abs(x)
    var py = -y
    // Reflect twice across the spokes at 36 and at 108 degrees from the vertical.
    let first = 2 * max(px * cosine36 - py * sine36, 0)
    px -= first * cosine36
    py += first * sine36
    let second = 2 * max(-px * cosine36 - py * sine36, 0)
    px += second * cosine36
    py += second * sine36
    px = abs(px)
    // The edge from the tip to the inner corner.
    let (ex, ey): (Float, Float) = (0.46 * sine36, 0.46 * cosine36 - 1)
    let (qx, qy) = (px, py - 1)
    let along = min(max((qx * ex + qy * ey) / (ex * ex + ey * ey), 0), 1)
    let outside = qx * ey - qy * ex < 0
    let gap = length(qx - ex * along, qy - ey * along)
    return outside ? gap : -gap
  }

  /// Two circular arcs that meet in points at the left and the right.
  @inline(__always)
  private static func leaf(_ x: Float, _ y: Float) -> Float {
    // Half length 1, half width 0.5: arcs of radius (1 + 0.5^2) / (2 * 0.5).
    let arc: Float = 1.25
    let offset: Float = 0.75
    let ax = abs(x)
    let ay = abs(y)
    if offset * ax - ay > offset { return length(ax - 1, ay) }
    return length(ax, ay + offset) - arc
  }
}
