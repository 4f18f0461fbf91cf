import Foundation

/// Formats numbers for tables.
package enum Figures {
  /// Four significant digits.
  package static func short(_ value: Double) -> String { String(format: "%.4g", value) }

  /// A fraction as a percentage.
  package static func percent(_ value: Double) -> String { String(format: "%.1f %%", value * 100) }

  /// A relative change as a signed percentage.
  package static func change(_ value: Double, from base: Double) -> String {
    base == 0 ? "n/a" : String(format: "%+.2f %%", (value / base - 1) * 100)
  }

  /// Three to four digits with an SI-like suffix for thousands, millions and so on.
  package static func metric(_ value: Double) -> String {
    let units: [(Double, String)] = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")]
    guard let (scale, letter) = units.first(where: { abs(value) >= $0.0 }) else {
      return String(format: "%.0f", value)
    }
    return short(value / scale) + " \(letter)"
  }
}
