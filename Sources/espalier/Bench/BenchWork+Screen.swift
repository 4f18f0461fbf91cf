import Explorer
import Foundation
import Models
import Plans
import Pictures
import TensorCore
import TerminalUI

extension BenchWork {
  /// Work of the explorer between key press and terminal output, for `Benchmarks/screen.py`.
  static let screen = [
    BenchWork(
      id: "frame", title: "explorer frame, 120x40, shipped model", units: 1, unit: "frames/s",
      make: frame),
    BenchWork(
      id: "sixel", title: "sixel of an image of 256 px", units: 1, unit: "images/s", make: sixel),
  ]

  @Sendable private static func frame(_: Precision) throws -> () -> Void {
    let files = try ModelFiles("demo")
    let reference = try files.reference()
    var plan = GraftPlan(named: "bench", model: reference)
    for block in stride(from: 1, to: reference.shape.depth, by: 2) {
      plan.edits[SlotID(block: block, slot: .attention)] = OperatorSpec("hyena_x")
    }
    let state = AppState(
      model: reference, classNames: files.model.classNames,
      document: PlanDocument(plan: plan, path: nil), size: Size(columns: 120, rows: 40), now: 0)
    return { _ = ExplorerView.frame(state) }
  }

  @Sendable private static func sixel(_: Precision) -> () -> Void {
    let side = 256
    // Gradients and an edge, similar to a decoded image.
    let bytes = (0..<(side * side)).flatMap { index -> [UInt8] in
      let (x, y) = (index % side, index / side)
      let isInside = (x - 128) * (x - 128) + (y - 120) * (y - 120) < 4900
      return isInside
        ? [UInt8(200 - x / 4), UInt8(90 + y / 4), 70] : [UInt8(x / 2), UInt8(y / 2), UInt8(120)]
    }
    let pixels = RGBImage(width: side, height: side, pixels: bytes)
    return { _ = SixelEncoder.encode(pixels, colors: 256) }
  }
}
