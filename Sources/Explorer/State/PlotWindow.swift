import Foundation
import TerminalUI

/// The part of the horizontal axis that a plot shows.
package struct PlotWindow: Equatable, Sendable {
  /// The steps shown as last chosen; nil for all of them.
  package private(set) var range: ClosedRange<Double>?
  /// Whether the window moves with the newest step.
  package private(set) var tails = true

  /// The whole axis, following the newest step.
  package init() {}

  /// The narrowest window in steps.
  private static let narrowest = 2.0

  /// The steps shown of those that there are.
  package func visible(of extent: ClosedRange<Double>, isLogarithmic: Bool) -> ClosedRange<Double> {
    guard let range else { return extent }
    guard tails else { return range }
    let (low, high) = Self.coordinates(range, isLogarithmic)
    let (_, end) = Self.coordinates(extent, isLogarithmic)
    return Self.values(end - (high - low), end, isLogarithmic)
  }

  /// Narrows the window by a factor below 1, or widens it, around a step; nil for its end.
  package mutating func zoom(
    by factor: Double, around step: Double?, of extent: ClosedRange<Double>, isLogarithmic: Bool
  ) {
    let shown = visible(of: extent, isLogarithmic: isLogarithmic)
    let (low, high) = Self.coordinates(shown, isLogarithmic)
    let place = step.map { PlotAxis.coordinate($0, isLogarithmic: isLogarithmic) } ?? high
    let centre = place.isFinite ? min(max(place, low), high) : high
    let next = Self.values(
      centre - (centre - low) * factor, centre + (high - centre) * factor, isLogarithmic)
    if factor < 1, next.upperBound - next.lowerBound < Self.narrowest { return }
    set(next, of: extent, isLogarithmic)
  }

  /// Moves the window by a share of its width.
  package mutating func pan(
    by share: Double, of extent: ClosedRange<Double>, isLogarithmic: Bool
  ) {
    guard range != nil else { return }
    let (low, high) = Self.coordinates(
      visible(of: extent, isLogarithmic: isLogarithmic), isLogarithmic)
    let offset = (high - low) * share
    set(Self.values(low + offset, high + offset, isLogarithmic), of: extent, isLogarithmic)
  }

  /// Moves the window just so far that it shows a step.
  package mutating func reveal(
    _ step: Double, of extent: ClosedRange<Double>, isLogarithmic: Bool
  ) {
    let shown = visible(of: extent, isLogarithmic: isLogarithmic)
    guard range != nil, !shown.contains(step) else { return }
    let (low, high) = Self.coordinates(shown, isLogarithmic)
    let place = PlotAxis.coordinate(step, isLogarithmic: isLogarithmic)
    let offset = place < low ? place - low : place - high
    set(Self.values(low + offset, high + offset, isLogarithmic), of: extent, isLogarithmic)
  }

  /// Moves the window to the first step, or to the newest, which it then follows.
  package mutating func move(
    toEnd: Bool, of extent: ClosedRange<Double>, isLogarithmic: Bool
  ) {
    pan(by: toEnd ? 1e6 : -1e6, of: extent, isLogarithmic: isLogarithmic)
  }

  /// Takes a window, moved into the axis; one that is no narrower than the axis shows all of it.
  private mutating func set(
    _ wanted: ClosedRange<Double>, of extent: ClosedRange<Double>, _ isLogarithmic: Bool
  ) {
    let (low, high) = Self.coordinates(extent, isLogarithmic)
    var (from, to) = Self.coordinates(wanted, isLogarithmic)
    guard to - from < high - low, from.isFinite, to.isFinite else {
      self = PlotWindow()
      return
    }
    let width = to - from
    if to > high { (from, to) = (high - width, high) }
    if from < low { (from, to) = (low, low + width) }
    tails = to >= high
    range = Self.values(from, to, isLogarithmic)
  }

  /// Ends as coordinates; a logarithmic axis begins at step 1.
  private static func coordinates(
    _ range: ClosedRange<Double>, _ isLogarithmic: Bool
  ) -> (Double, Double) {
    let ends = [range.lowerBound, range.upperBound].map {
      PlotAxis.coordinate(isLogarithmic ? max(1, $0) : $0, isLogarithmic: isLogarithmic)
    }
    return (ends[0], ends[1])
  }

  private static func values(
    _ low: Double, _ high: Double, _ isLogarithmic: Bool
  ) -> ClosedRange<Double> {
    let ends = [low, max(low, high)].map { isLogarithmic ? pow(10, $0) : $0 }
    return ends[0]...max(ends[0], ends[1])
  }
}
