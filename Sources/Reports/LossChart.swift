import Foundation
import Runs

/// Chart of losses over steps with a logarithmic axis, as inline SVG.
struct LossChart {
  /// A curve.
  struct Series {
    /// CSS class.
    let style: String
    /// Points by step.
    let points: StepSeries
    /// Whether points have markers.
    var isMarked = false
  }

  /// Accessible title.
  let title: String
  let series: [Series]
  /// Total number of steps of the run.
  let total: Int
  var width = 720.0
  var height = 260.0

  private let margin = (left: 58.0, right: 10.0, top: 8.0, bottom: 24.0)

  init(title: String, series: [Series], total: Int, width: Double = 720, height: Double = 260) {
    (self.title, self.series, self.total) = (title, series, total)
    (self.width, self.height) = (width, height)
  }

  /// Number of points that a logarithmic axis cannot show: zero, negative or non-finite.
  var hidden: Int { series.reduce(0) { $0 + $1.points.count { !Self.isShown($0) } } }

  /// The chart; nil if there is no point to show.
  var html: HTML? {
    let values = series.flatMap { $0.points.filter(Self.isShown).map { log10($0.value) } }
    guard let low = values.min(), let high = values.max() else { return nil }
    let room = max(0.02, (high - low) * 0.05)
    let range = (low - room)...(high + room)
    let last = Double(max(1, total, series.compactMap(\.points.last?.step).max() ?? 1))
    func x(_ step: Double) -> Double {
      margin.left + step / last * (width - margin.left - margin.right)
    }
    func y(_ value: Double) -> Double {
      let share = (log10(value) - range.lowerBound) / (range.upperBound - range.lowerBound)
      return height - margin.bottom - share * (height - margin.top - margin.bottom)
    }
    var parts: [HTML] = [.tag("title", [:], title)]
    for value in Self.ticks(range, limit: Int(height / 26)) {
      let at = Self.number(y(value))
      parts.append(
        .tag(
          "line",
          [
            "class": "grid", "x1": Self.number(margin.left),
            "x2": Self.number(width - margin.right),
            "y1": at, "y2": at,
          ], []))
      parts.append(
        .tag(
          "text",
          [
            "x": Self.number(margin.left - 6), "y": Self.number(y(value) + 4),
            "text-anchor": "end",
          ], Figures.short(value)))
    }
    for (step, anchor) in [(0, "start"), (last, "end")] {
      parts.append(
        .tag(
          "text",
          ["x": Self.number(x(step)), "y": Self.number(height - 6), "text-anchor": anchor],
          step == 0 ? "0" : "step \(Int(last))"))
    }
    for curve in series { parts += Self.drawn(curve, x, y) }
    return .tag(
      "svg",
      [
        "viewBox": "0 0 \(Self.number(width)) \(Self.number(height))", "role": "img",
        "style": "max-width:\(Self.number(width))px",
      ], parts)
  }

  private static func drawn(
    _ curve: Series, _ x: (Double) -> Double, _ y: (Double) -> Double
  ) -> [HTML] {
    var parts: [HTML] = []
    let points = curve.points.thinned(limit: 300)
    // Points that cannot be shown interrupt the line.
    for piece in points.split(whereSeparator: { !isShown($0) }) {
      let path = piece.map { "\(number(x(Double($0.step)))),\(number(y($0.value)))" }
      if path.count > 1 {
        parts.append(
          .tag("polyline", ["class": curve.style, "points": path.joined(separator: " ")], []))
      }
      for point in piece where curve.isMarked || path.count == 1 {
        parts.append(
          .tag(
            "circle",
            [
              "class": curve.style, "cx": number(x(Double(point.step))),
              "cy": number(y(point.value)),
              "r": "2.5",
            ], []))
      }
    }
    return parts
  }

  private static func isShown(_ point: StepValue) -> Bool {
    point.value.isFinite && point.value > 0
  }

  /// Returns at most about `limit` round ticks for a range of exponents of ten, three or more if
  /// possible.
  static func ticks(_ range: ClosedRange<Double>, limit: Int) -> [Double] {
    let decades = Int(range.lowerBound.rounded(.down))...Int(range.upperBound.rounded(.up))
    func within(_ digits: [Double]) -> [Double] {
      decades.flatMap { decade in digits.map { $0 * pow(10, Double(decade)) } }
        .filter { range.contains(log10($0)) }
    }
    let choices: [[Double]] = [
      [1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 8],
      Array(stride(from: 1.0, to: 10, by: 0.2)),
    ]
    let all = choices.map(within).first { $0.count >= 3 } ?? within(choices[choices.count - 1])
    let every = max(1, (all.count + limit - 1) / max(1, limit))
    return all.enumerated().filter { $0.offset % every == 0 }.map(\.element)
  }

  private static func number(_ value: Double) -> String {
    let rounded = (value * 10).rounded() / 10
    return rounded == rounded.rounded() ? String(Int(rounded)) : String(rounded)
  }
}
