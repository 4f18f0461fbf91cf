import Foundation

extension String {
  /// The text, or nil if it is empty.
  var nonEmpty: String? { isEmpty ? nil : self }
}

/// Numbers and times as the screen shows them.
package enum Format {
  /// "1 slot", "3 slots".
  package static func count(_ number: Int, _ noun: String) -> String {
    number == 1 ? "1 \(noun)" : "\(number) \(noun)s"
  }

  /// A number as one would type it: no trailing zeros, no needless exponent.
  package static func plain(_ value: Double) -> String {
    if value == value.rounded(), abs(value) < 1e15 { return String(Int(value)) }
    return value.description.replacing("e-0", with: "e-")
  }

  /// A loss in at most four characters: ".121", "1.23", "12.3", "9e-4".
  package static func loss(_ value: Double) -> String {
    guard value.isFinite else { return value.isNaN ? "nan" : "inf" }
    let size = abs(value)
    if size >= 9999.5 { return "≥1e4" }
    if size >= 99.95 { return fixed(value, 0) }
    if size >= 9.995 { return fixed(value, 1) }
    if size >= 0.9995 { return fixed(value, 2) }
    if size >= 0.00095 { return String(fixed(value, 3).drop { $0 == "0" }) }
    if size < 1e-99 { return "0" }
    let exponent = Int(floor(log10(size)))
    let digit = Int((size / pow(10, Double(exponent))).rounded())
    return digit == 10 ? "1e\(exponent + 1)" : "\(digit)e\(exponent)"
  }

  /// A statistic with three significant digits: "−0.012", "1.92", "14.2", "1.2e5".
  package static func statistic(_ value: Double) -> String {
    guard value.isFinite else { return value.isNaN ? "nan" : "inf" }
    let size = abs(value)
    let sign = value < 0 ? "−" : ""
    if size == 0 { return "0" }
    if size >= 9995 || size < 0.0005 {
      let exponent = Int(floor(log10(size)))
      return "\(sign)\(fixed(size / pow(10, Double(exponent)), 1))e\(exponent)"
    }
    return sign + fixed(size, size >= 99.95 ? 0 : size >= 9.995 ? 1 : size >= 0.9995 ? 2 : 3)
  }

  /// The change from one number to another in percent, with a sign: "−3.1%", "+0.2%", "±0%".
  package static func change(from original: Double, to edited: Double) -> String {
    guard original > 0 else { return edited > 0 ? "new" : "±0%" }
    let percent = (edited / original - 1) * 100
    if abs(percent) < 0.005 { return "±0%" }
    let digits = abs(percent) < 0.95 ? 2 : abs(percent) < 99.5 ? 1 : 0
    return (percent < 0 ? "−" : "+") + fixed(abs(percent), digits) + "%"
  }

  /// A share in [0, 1] with two digits: ".58", "1.0".
  package static func share(_ value: Double) -> String {
    guard value.isFinite else { return "nan" }
    if value >= 0.995 { return "1.0" }
    return String(fixed(max(0, value), 2).dropFirst())
  }

  /// A quantity with a metric prefix: "1.33 M", "412".
  package static func metric(_ value: Double) -> String {
    let steps: [(Double, String)] = [(1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")]
    for (scale, name) in steps where abs(value) >= scale * 0.9995 {
      let scaled = value / scale
      return fixed(scaled, abs(scaled) >= 99.95 ? 0 : abs(scaled) >= 9.995 ? 1 : 2) + name
    }
    return fixed(value, 0)
  }

  /// A duration as a clock: "01:54", "2:03:20".
  package static func clock(_ seconds: Double) -> String {
    guard seconds.isFinite, seconds >= 0, seconds < 1e8 else { return "--:--" }
    let whole = Int(seconds.rounded())
    if whole >= 3600 {
      return "\(whole / 3600):" + two(whole / 60 % 60) + ":" + two(whole % 60)
    }
    return two(whole / 60) + ":" + two(whole % 60)
  }

  /// An age in words: "3 s", "12 min", "5 h", "8 d".
  package static func age(_ seconds: Double) -> String {
    guard abs(seconds) < 1e15 else { return "?" }
    let whole = max(0, Int(seconds))
    if whole < 100 { return "\(whole) s" }
    if whole < 6000 { return "\(whole / 60) min" }
    if whole < 172_800 { return "\(whole / 3600) h" }
    return "\(whole / 86_400) d"
  }

  /// A change of a time in milliseconds with a sign: "−0.031 ms", "+1.2 ms".
  package static func milliseconds(_ seconds: Double) -> String {
    "\(seconds < 0 ? "−" : "+")\(statistic(abs(1000 * seconds))) ms"
  }

  /// A rate of steps: "3.4 steps/s", "12 steps/min".
  package static func rate(_ perSecond: Double) -> String {
    guard perSecond.isFinite, perSecond > 0 else { return "" }
    if perSecond < 0.5 { return fixed(perSecond * 60, perSecond < 0.1 ? 1 : 0) + " steps/min" }
    return fixed(perSecond, perSecond >= 9.95 ? 0 : 1) + " steps/s"
  }

  /// A number with a fixed number of decimals.
  package static func fixed(_ value: Double, _ decimals: Int) -> String {
    String(format: "%.\(decimals)f", value)
  }

  /// Two digits.
  package static func two(_ number: Int) -> String {
    number < 10 ? "0\(number)" : String(number)
  }
}
