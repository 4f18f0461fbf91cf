/// Order of a list of runs by one column, such as `loss` or, descending, `-loss`.
///
/// Runs without a value come last in either direction; runs with equal values stay newest first.
package struct RunOrder: Equatable, Sendable {
  /// Column of the list.
  package enum Column: String, CaseIterable, Sendable {
    case name, state, kind, progress, loss, rate, left, tags, age
    case heldOut = "held-out"
  }

  /// The column.
  package var column: Column
  /// Whether the largest comes first.
  package var isDescending: Bool

  /// Newest first, the order of `RunStore`.
  package static let newest = RunOrder(.age)

  /// Makes an order.
  package init(_ column: Column, isDescending: Bool = false) {
    (self.column, self.isDescending) = (column, isDescending)
  }

  /// Parses the name of a column, with `-` before it for descending order.
  ///
  /// - Throws: `RunQueryError` for an unknown column.
  package init(_ text: String) throws(RunQueryError) {
    let isDescending = text.first == "-"
    let name = isDescending ? String(text.dropFirst()) : text
    guard let column = Column(rawValue: ["heldout", "held_out"].contains(name) ? "held-out" : name)
    else {
      let names = Column.allCases.map(\.rawValue).joined(separator: ", ")
      throw RunQueryError(
        "unknown column \(name.debugDescription), expected one of \(names); a '-' before it reverses the"
          + " order")
    }
    self.init(column, isDescending: isDescending)
  }

  /// The text that is parsed as this order.
  package var text: String { (isDescending ? "-" : "") + column.rawValue }

  /// Sorts runs that are given newest first.
  ///
  /// - Parameters:
  ///   - runs: The runs, newest first.
  ///   - now: Current time in seconds since 1970.
  /// - Returns: The runs in order.
  package func sorted(_ runs: [RunSummary], now: Double) -> [RunSummary] {
    if self == .newest { return runs }
    let keyed = runs.enumerated().map { (offset: $0, key: key(of: $1, now), run: $1) }
    return keyed.sorted { one, other in
      switch (one.key, other.key) {
      case (let first?, let second?) where first != second:
        isDescending ? second < first : first < second
      case (_?, nil): true
      case (nil, _?): false
      default: one.offset < other.offset
      }
    }.map(\.run)
  }

  /// Value by which runs are ordered.
  private enum SortKey: Comparable {
    case number(Double)
    case text(String)
  }

  private func key(of run: RunSummary, _ now: Double) -> SortKey? {
    func number(_ number: RunNumber) -> SortKey? {
      number.value(of: run, now: now).flatMap { $0.isNaN ? nil : .number($0) }
    }
    switch column {
    case .name: return .text(run.name.lowercased())
    case .state: return .number(Double(run.state.urgency))
    case .kind: return run.kind.map { .text($0.rawValue) }
    case .progress: return number(.progress)
    case .loss: return number(.loss)
    case .heldOut: return number(.heldOut)
    case .rate: return number(.rate)
    case .left: return number(.left)
    case .age: return number(.age)
    case .tags:
      let tags = run.annotation.tags
      return tags.isEmpty ? nil : .text(tags.joined(separator: " ").lowercased())
    }
  }
}

extension RunState {
  /// Rank in the order by state: at work first, then what needs attention, then what is over.
  fileprivate var urgency: Int {
    switch self {
    case .running, .starting: 0
    case .paused: 1
    case .frozen: 2
    case .unreachable: 3
    case .detached: 4
    case .pending: 5
    case .queued: 6
    case .failed: 7
    case .lost: 8
    case .cancelled: 9
    case .done: 10
    }
  }
}
