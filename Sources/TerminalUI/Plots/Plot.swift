import Foundation

/// Curves, sparklines and bars made of characters; `Chart` draws curves with axes.
package enum Plot {
  /// A curve: points in the order in which they are joined.
  package struct Series: Equatable, Sendable {
    /// Horizontal positions; as many as `y`.
    package var x: [Double]
    /// Values; not finite ones are gaps.
    package var y: [Double]
    /// The curve's style.
    package var style: Style
    /// A character that marks the curve every few columns, so that it is known without its colour.
    package var mark: Character?

    /// Makes a curve of points.
    package init(x: [Double], y: [Double], style: Style = Style(), mark: Character? = nil) {
      precondition(x.count == y.count, "a series needs as many x as y")
      (self.x, self.y, self.style, self.mark) = (x, y, style, mark)
    }

    /// Makes a curve of values at 0, 1, 2, ...
    package init(values: [Double], style: Style = Style()) {
      self.init(x: values.indices.map(Double.init), y: values, style: style)
    }

    /// The finite point whose x is nearest to a value; nil without one.
    package func nearest(to value: Double) -> (x: Double, y: Double)? {
      zip(x, y).filter { $0.isFinite && $1.isFinite }
        .min { abs($0.0 - value) < abs($1.0 - value) }
        .map { (x: $0, y: $1) }
    }

    /// The same curve with its bias-corrected exponential moving average; see `Smoothing`.
    package func smoothed(weight: Double) -> Series {
      var result = self
      result.y = Smoothing.average(x: x, y: y, weight: weight)
      return result
    }
  }

  /// A line of eighth blocks, one for each value, or for the mean of several if there are more values than columns.
  ///
  /// A value that is not finite is a space; equal values are drawn half high.
  package static func sparkline(
    _ values: [Double], columns: Int, range: ClosedRange<Double>? = nil
  ) -> String {
    guard columns > 0, !values.isEmpty else { return "" }
    let count = min(values.count, columns)
    let means = (0..<count).map { index -> Double in
      let bucket = values[(index * values.count / count)..<((index + 1) * values.count / count)]
        .filter(\.isFinite)
      return bucket.isEmpty ? .nan : bucket.reduce(0) { $0 + $1 / Double(bucket.count) }
    }
    let finite = means.filter(\.isFinite)
    guard let low = range?.lowerBound ?? finite.min(), let high = range?.upperBound ?? finite.max()
    else { return String(repeating: " ", count: count) }
    let blocks = Array("▁▂▃▄▅▆▇█")
    return String(
      means.map { mean in
        guard mean.isFinite else { return " " }
        guard high > low else { return blocks[3] }
        let fraction = PlotAxis.fraction(mean, low, high)
        return blocks[min(7, max(0, Int((fraction * 7).rounded())))]
      })
  }

  /// A horizontal bar with eighths of a cell; the rest is shaded, and all of it if the fraction is not a number.
  package static func bar(_ fraction: Double, columns: Int) -> String {
    guard columns > 0 else { return "" }
    let share = fraction.isNaN ? 0 : min(1, max(0, fraction))
    let eighths = Int((share * Double(columns) * 8).rounded())
    var result = String(repeating: "█", count: eighths / 8)
    if eighths % 8 > 0 { result.append(Array("▏▎▍▌▋▊▉")[eighths % 8 - 1]) }
    return result + String(repeating: "░", count: columns - result.count)
  }
}
