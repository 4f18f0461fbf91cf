import Foundation

/// An axis of a chart: its ends, its scale and its ticks.
package struct PlotAxis: Equatable, Sendable {
  /// The lower end as a coordinate: the value, or its decimal logarithm on a logarithmic axis.
  package let low: Double
  /// The upper end as a coordinate, above the lower one.
  package let high: Double
  /// Whether coordinates are decimal logarithms.
  package let isLogarithmic: Bool

  /// A labelled position.
  package struct Tick: Equatable, Sendable {
    /// The value.
    package let value: Double
    /// The value as text.
    package let label: String
  }

  /// Makes an axis over coordinates; nil without a finite one.
  ///
  /// Equal ends are moved apart.
  package init?(fitting coordinates: some Sequence<Double>, isLogarithmic: Bool) {
    var (low, high) = (Double.infinity, -Double.infinity)
    for coordinate in coordinates where coordinate.isFinite {
      low = min(low, coordinate)
      high = max(high, coordinate)
    }
    guard low <= high else { return nil }
    self.init(low: low, high: high, isLogarithmic: isLogarithmic)
  }

  /// Makes an axis over a range of values; nil where a logarithmic axis has no room for it.
  package init?(range: ClosedRange<Double>, isLogarithmic: Bool) {
    let ends = [range.lowerBound, range.upperBound].map {
      Self.coordinate($0, isLogarithmic: isLogarithmic)
    }
    guard ends.allSatisfy(\.isFinite) else { return nil }
    self.init(low: ends[0], high: ends[1], isLogarithmic: isLogarithmic)
  }

  private init(low: Double, high: Double, isLogarithmic: Bool) {
    self.isLogarithmic = isLogarithmic
    // Ends so near to each other that they have no numbers between them are moved apart too.
    guard !(high > low) || Self.fraction(low.nextUp, low, high) >= 0.5 else {
      (self.low, self.high) = (low, high)
      return
    }
    let margin = isLogarithmic ? 0.3 : max(abs(low) * 0.05, low == 0 ? 1 : .leastNormalMagnitude)
    self.low = max(low - margin, -.greatestFiniteMagnitude)
    self.high = min(low + margin, .greatestFiniteMagnitude)
  }

  /// The coordinate of a value, NaN where a logarithmic axis has none.
  package static func coordinate(_ value: Double, isLogarithmic: Bool) -> Double {
    guard isLogarithmic else { return value }
    return value > 0 ? log10(value) : .nan
  }

  /// (value - low) / (high - low), without overflow.
  static func fraction(_ value: Double, _ low: Double, _ high: Double) -> Double {
    (value / 2 - low / 2) / (high / 2 - low / 2)
  }

  /// The place of a coordinate: 0 at the lower end, 1 at the upper one.
  package func fraction(ofCoordinate coordinate: Double) -> Double {
    Self.fraction(coordinate, low, high)
  }

  /// The place of a value: 0 at the lower end, 1 at the upper one, NaN where it has none.
  package func fraction(of value: Double) -> Double {
    fraction(ofCoordinate: Self.coordinate(value, isLogarithmic: isLogarithmic))
  }

  /// The value at a place.
  package func value(at fraction: Double) -> Double {
    let coordinate = low * (1 - fraction) + high * fraction
    return isLogarithmic ? pow(10, coordinate) : coordinate
  }

  // MARK: - Ticks

  /// At most `limit` ticks at round values, ascending.
  ///
  /// Steps of a linear axis are 1, 2 or 5 times a power of ten. A logarithmic axis has powers of ten, those
  /// times 2 and 5 as well where they fit, more of them where it spans too little for three of those, and the
  /// steps of a linear one where it spans less than that.
  ///
  /// - Parameters:
  ///   - limit: The most ticks.
  ///   - isWhole: Whether only whole numbers have ticks.
  /// - Returns: The ticks; may be none.
  package func ticks(limit: Int, isWhole: Bool = false) -> [Tick] {
    guard limit > 0 else { return [] }
    guard isLogarithmic else { return linearTicks(low, high, limit: limit, isWhole: isWhole) }
    let exponents = Int(low.rounded(.down))...Int(high.rounded(.up))
    func multiples(_ factors: [Double]) -> [Double] {
      exponents.flatMap { exponent in factors.map { $0 * pow(10, Double(exponent)) } }
        .filter { (0...1).contains(fraction(of: $0)) && (!isWhole || $0 >= 1) }
    }
    let isShort = !isWhole && multiples([1, 2, 5]).count < 3
    for factors in (isShort ? [[1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8]] : []) + [[1.0, 2, 5], [1]] {
      let values = multiples(factors)
      if values.count >= (factors.count > 3 ? 3 : 2), values.count <= limit {
        return values.map { Tick(value: $0, label: PlotNumber.text($0)) }
      }
      guard factors.count == 1, values.count > limit else { continue }
      let stride = (values.count + limit - 1) / limit
      return values.indices.filter { $0 % stride == 0 }.map {
        Tick(value: values[$0], label: PlotNumber.text(values[$0]))
      }
    }
    return linearTicks(pow(10, low), pow(10, high), limit: limit, isWhole: isWhole)
  }

  private func linearTicks(
    _ low: Double, _ high: Double, limit: Int, isWhole: Bool
  ) -> [Tick] {
    let least = high / Double(limit) - low / Double(limit)
    guard least > 0, least.isFinite, high - low > abs(low) * 1e-14 else { return [] }
    let power = pow(10, floor(log10(least)))
    let steps = [1.0, 2, 5, 10, 20, 50].map { $0 * power }.filter {
      $0 >= least * 0.999_999 && (!isWhole || $0 >= 1)
    }
    for step in steps + (isWhole ? [1] : []) {
      // Ends that are round but for rounding errors have ticks.
      let first = (low / step - 1e-6).rounded(.up)
      let last = (high / step + 1e-6).rounded(.down)
      guard step.isFinite, first <= last, last - first < Double(limit) else { continue }
      let decimals = max(0, -Int(floor(log10(step) + 1e-9)))
      return (0...Int(last - first)).map { index in
        let value = (first + Double(index)) * step
        return Tick(value: value, label: PlotNumber.text(value, decimals: decimals))
      }
    }
    return []
  }
}

/// Numbers of axes and readings as text.
package enum PlotNumber {
  /// A number as it would be written by hand: `1600`, `0.0003`, `2.5`; an exponent only below 1e-4 and from 1e9 on.
  ///
  /// - Parameters:
  ///   - value: The number.
  ///   - digits: The most significant digits; trailing zeros are left out.
  /// - Returns: The text.
  package static func text(_ value: Double, digits: Int = 6) -> String {
    guard value.isFinite else { return value.isNaN ? "nan" : (value > 0 ? "inf" : "-inf") }
    if value == 0 { return "0" }
    let size = abs(value)
    if size >= 1e9 || size < 1e-4 { return exponential(value, digits: digits) }
    let whole = Int(floor(log10(size))) + 1
    return trimmed(String(format: "%.\(max(0, digits - whole))f", value))
  }

  /// A number with a fixed number of decimals, as `text(_:digits:)` where those would be too long.
  static func text(_ value: Double, decimals: Int) -> String {
    let size = abs(value)
    if decimals > 6 || size >= 1e9 { return text(value, digits: 12) }
    return String(format: "%.\(decimals)f", value == 0 ? 0 : value)
  }

  private static func exponential(_ value: Double, digits: Int) -> String {
    let parts = String(format: "%.\(max(0, digits - 1))e", value).split(separator: "e")
    guard parts.count == 2, let exponent = Int(parts[1]) else { return "\(value)" }
    return "\(trimmed(String(parts[0])))e\(exponent)"
  }

  private static func trimmed(_ text: String) -> String {
    guard text.contains(".") else { return text }
    var text = text
    while text.last == "0" { text.removeLast() }
    if text.last == "." { text.removeLast() }
    return text
  }
}
