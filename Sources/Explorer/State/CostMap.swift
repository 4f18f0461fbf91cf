import Foundation
import Plans
import Search
import TerminalUI

/// The heat map of the grid: what replacing each slot's operator costs.
package struct CostMap: Equatable, Sendable {
  /// The operator in question for each kind of slot; nil for the one with the lowest price in each slot.
  package var operators: [Slot: OperatorSpec] = [:]

  /// The best operators.
  package init() {}

  /// The largest level.
  package static let highest = 9
  /// Factor between the highest price and the least that has a level of its own.
  private static let ratio = 1000.0

  /// The lowest price of the scale: that of the range, or a thousandth of its highest, if that is more.
  package static func lowest(in range: ClosedRange<Double>) -> Double {
    max(range.lowerBound, range.upperBound / ratio)
  }

  /// The level of a price among others: 0 for the lowest to 9 for the highest, by its logarithm.
  ///
  /// - Parameters:
  ///   - price: The price.
  ///   - range: The finite prices that are shown.
  /// - Returns: The level; nil for a change that saves no time.
  package static func level(_ price: Double, in range: ClosedRange<Double>?) -> Int? {
    guard price.isFinite, let range, range.upperBound > 0 else { return nil }
    let low = lowest(in: range)
    guard price > low, range.upperBound > low else { return 0 }
    let share = log10(price / low) / log10(range.upperBound / low)
    return min(highest, max(0, Int(share * Double(highest + 1))))
  }

  /// A price in percent of error per millisecond, in three characters.
  package static func text(_ price: Double) -> String {
    // Seconds to milliseconds, and a share to percent.
    let value = price / 10
    guard value.isFinite else { return "–" }
    if value >= 999.5 { return "1e\(Int(log10(value).rounded()))" }
    if value >= 9.95 { return Format.fixed(value, 0) }
    if value >= 0.995 { return Format.fixed(value, 1) }
    return String(Format.fixed(value, 2).dropFirst())
  }
}

extension AppState {
  /// The operator whose costs the grid shows for a kind of slot; nil for the best of each slot.
  func consideredOperator(_ slot: Slot) -> OperatorSpec? {
    if case .picker(let picker) = overlay, picker.slot == slot,
      case .replacement(let spec) = picker.entry
    {
      return spec.normalized(for: model.shape)
    }
    return costMap?.operators[slot]
  }

  /// The change of a slot whose cost the grid shows; nil if it is not known.
  package func cost(of slot: SlotID) -> Candidate? {
    guard let spec = consideredOperator(slot.slot) else {
      return library.costs?.candidates(of: slot).first
    }
    return library.costs?.candidate(spec, in: slot)
  }

  /// The prices that the grid shows.
  package var shownPrices: ClosedRange<Double>? {
    let prices = model.shape.slots.compactMap { cost(of: $0)?.price }.filter(\.isFinite)
    guard let low = prices.min(), let high = prices.max() else { return nil }
    return low...high
  }

  /// What replacing an operator in all of some slots costs; nil where it is not known of all.
  func cost(of spec: OperatorSpec, in slots: [SlotID]) -> (loss: Double, seconds: Double)? {
    guard let costs = library.costs else { return nil }
    let normalized = spec.normalized(for: model.shape)
    var sum = (loss: 0.0, seconds: 0.0)
    for slot in slots {
      guard let candidate = costs.candidate(normalized, in: slot) else { return nil }
      sum.loss += candidate.loss
      sum.seconds += candidate.saving.time
    }
    return sum
  }

  /// Shows the costs in the grid, or no longer.
  mutating func toggleCostMap() {
    costMap = costMap == nil ? CostMap() : nil
  }

  /// Goes on to the next operator of the cursor's kind of slot; after the last comes the best of each slot.
  mutating func turnCostMap(by offset: Int) {
    let slot = cursor.slot
    guard var map = costMap, let known = library.costs?.operators(of: slot), !known.isEmpty else {
      return
    }
    let choices: [OperatorSpec?] = [nil] + known
    let place = choices.firstIndex(of: map.operators[slot]) ?? 0
    map.operators[slot] = choices[(place + offset + choices.count) % choices.count]
    costMap = map
  }
}
