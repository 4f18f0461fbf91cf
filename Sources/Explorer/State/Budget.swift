import Search

/// The most of the teacher's amount that a plan may take while it is edited.
package struct Budget: Equatable, Sendable {
  /// What it counts.
  package let measure: Measure
  /// Percent of the teacher's amount, from 0.1 to 1000.
  package let percent: Double

  /// The fraction of the teacher's amount.
  package var fraction: Double { percent / 100 }

  /// Reads a measure and a percentage, such as `flops 80`; nil for anything else.
  package init?(_ text: String) {
    let words = text.lowercased().split { $0 == " " || $0 == "%" }
    guard words.count == 2, let measure = Measure(rawValue: String(words[0])),
      let percent = Double(words[1]), (0.1...1000).contains(percent)
    else { return nil }
    (self.measure, self.percent) = (measure, percent)
  }

  /// The text that is read so.
  package var text: String { "\(measure.rawValue) \(Format.plain(percent))" }
}

extension AppState {
  /// The fraction of the teacher's amount that the plan takes; nil if the library lacks the time of an operator.
  package func fraction(of measure: Measure) -> Double? {
    let cost = plan.cost()
    guard let edited = cost.edited.amount(of: measure),
      let original = cost.original.amount(of: measure)
    else { return estimate(plan.changes, measure)?.fraction }
    return edited / original
  }

  /// What the plan takes and what it may take, and whether that is more, which it is not if it is not known; nil
  /// without a budget.
  package var budgetUse: (text: String, isOver: Bool)? {
    guard let budget else { return nil }
    let fraction = fraction(of: budget.measure)
    let isOver = fraction.map { $0 > budget.fraction * (1 + 1e-9) } ?? false
    let taken = fraction.map { Format.fixed(100 * $0, 1) } ?? "?"
    return (
      "\(budget.measure.title) \(taken) \(isOver ? ">" : "≤") \(Format.plain(budget.percent)) %",
      isOver
    )
  }

  /// Whether the plan takes more than the budget; false if that is not known.
  package var isOverBudget: Bool { budgetUse?.isOver ?? false }

  /// Sets the budget, or none for an empty text; says what is wrong.
  mutating func setBudget(_ text: String) -> String? {
    if text.isEmpty || text == "none" {
      budget = nil
      notice = .note("no budget")
      return nil
    }
    guard let new = Budget(text) else {
      return "expected a measure (\(Measure.allCases.map(\.rawValue).joined(separator: ", "))) and"
        + " percent of the teacher's from 0.1 to 1000, such as flops 80, or none; found “\(text)”"
    }
    budget = new
    notice =
      fraction(of: new.measure) == nil
      ? .warning("the library does not know the plan's time: b measures it")
      : .note("the header tells when the plan takes more than the budget")
    return nil
  }
}
