/// Why a filter or an order of runs cannot be used, in one sentence.
package struct RunQueryError: Error, Equatable, CustomStringConvertible {
  /// The sentence.
  package let description: String

  init(_ description: String) { self.description = description }
}

/// Condition on runs: words that must all hold, such as `state:running loss<.05 op:swa tag:paper`.
///
/// - `key:value` holds for a run with the value; several values are separated by commas.
/// - `key<value` compares a number; the relations are `<`, `<=`, `>`, `>=`, `=` and `!=`. A run
///   without the number does not match.
/// - Any other word must occur in the name, identifier, kind, state, note or tags, in letters of
///   either case.
/// - A `-` before a word negates it; quotation marks keep spaces: `note:"second try"`.
package struct RunFilter: Equatable, Sendable {
  /// The text that was parsed.
  package let text: String
  private let terms: [Term]

  private struct Term: Equatable {
    let isNegated: Bool
    let test: Test
  }

  private enum Test: Equatable {
    case anywhere(String)
    case member(Attribute, [String])
    case relation(RunNumber, Relation, Double)
  }

  private enum Relation: String, CaseIterable {
    // Longer ones first, for parsing.
    case atMost = "<="
    case atLeast = ">="
    case notEqual = "!="
    case below = "<"
    case above = ">"
    case equal = "="
    case colon = ":"

    func holds(_ one: Double, _ other: Double) -> Bool {
      switch self {
      case .atMost: one <= other
      case .atLeast: one >= other
      case .below: one < other
      case .above: one > other
      case .equal, .colon: one == other || one.isNaN && other.isNaN
      case .notEqual: !(one == other || one.isNaN && other.isNaN)
      }
    }
  }

  /// Texts of a run.
  private enum Attribute: String, CaseIterable {
    case name, id, state, kind, op, tag, note, engine, model, chain, has

    /// The values that exist; nil if any may.
    var choices: [String]? {
      switch self {
      case .state:
        ["alive", "ended", "queued", "running", "paused", "frozen", "done", "cancelled"]
          + ["failed", "lost"]
      case .kind: Job.Kind.allCases.map(\.rawValue)
      case .has: ["note", "tag", "checkpoint", "images", "loss", "damage"]
      default: nil
      }
    }
  }

  /// Parses a filter; an empty one matches every run.
  ///
  /// - Throws: `RunQueryError` for an unknown key, a value that the key does not have, or a number
  ///   that cannot be read.
  package init(_ text: String = "") throws(RunQueryError) {
    self.text = text
    var terms: [Term] = []
    for word in Self.words(text) { terms.append(try Self.term(word)) }
    self.terms = terms
  }

  /// The filter that every run matches.
  package static let all = RunFilter(text: "", terms: [])

  private init(text: String, terms: [Term]) { (self.text, self.terms) = (text, terms) }

  /// Whether every run matches.
  package var isEmpty: Bool { terms.isEmpty }

  /// Whether matching needs the changes of plans; see `RunStore`.
  package var needsPlans: Bool {
    terms.contains { if case .member(.op, _) = $0.test { true } else { false } }
  }

  /// Whether a run matches.
  ///
  /// - Parameters:
  ///   - run: The run.
  ///   - now: Current time in seconds since 1970, for ages.
  /// - Returns: True if all terms hold.
  package func matches(_ run: RunSummary, now: Double) -> Bool {
    terms.allSatisfy { Self.holds($0.test, run, now) != $0.isNegated }
  }

  // MARK: - Parsing

  /// Splits at spaces outside quotation marks, which are removed.
  private static func words(_ text: String) -> [(text: String, isQuoted: Bool)] {
    var words: [(String, Bool)] = []
    var (word, isInside, isQuoted) = ("", false, false)
    func isQuoteFirst() -> Bool { word.isEmpty || word == "-" }
    for character in text {
      switch character {
      case "\"":
        // A word that begins with a quotation mark has no key.
        if !isInside, isQuoteFirst() { isQuoted = true }
        isInside.toggle()
      case _ where character.isWhitespace && !isInside:
        if !word.isEmpty { words.append((word, isQuoted)) }
        (word, isQuoted) = ("", false)
      default: word.append(character)
      }
    }
    return word.isEmpty ? words : words + [(word, isQuoted)]
  }

  private static func term(
    _ word: (text: String, isQuoted: Bool)
  ) throws(RunQueryError) -> Term {
    let isNegated = word.text.count > 1 && word.text.first == "-"
    let text = isNegated ? String(word.text.dropFirst()) : word.text
    func plain() -> Term { Term(isNegated: isNegated, test: .anywhere(text.lowercased())) }
    guard !word.isQuoted, let start = text.firstIndex(where: { ":<>=!".contains($0) }),
      start != text.startIndex,
      let relation = Relation.allCases.first(where: { text[start...].hasPrefix($0.rawValue) })
    else { return plain() }
    let (key, value) = (
      text[..<start].lowercased(), String(text[start...].dropFirst(relation.rawValue.count))
    )
    if let number = RunNumber(key: key) {
      guard let limit = number.read(value) else {
        throw RunQueryError(
          "\(text): \(value.debugDescription) is no \(number.example.what); write for example"
            + " \(key)<\(number.example.value)")
      }
      return Term(isNegated: isNegated, test: .relation(number, relation, limit))
    }
    guard let attribute = Attribute(rawValue: key) else {
      let keys = Attribute.allCases.map(\.rawValue) + RunNumber.allCases.map(\.rawValue)
      throw RunQueryError(
        "\(text): unknown key \(key.debugDescription), expected one of \(keys.joined(separator: ", "));"
          + " quotation marks search for the text itself")
    }
    guard relation == .colon || relation == .equal || relation == .notEqual else {
      throw RunQueryError("\(text): \(key) is no number; write \(key):VALUE")
    }
    let values = value.lowercased().split(separator: ",").map(String.init)
    guard !values.isEmpty else { throw RunQueryError("\(text): a value is missing after \(key)") }
    if let choices = attribute.choices,
      let other = values.first(where: { !choices.contains($0) })
    {
      throw RunQueryError(
        "\(text): expected \(choices.joined(separator: ", ")), found \(other.debugDescription)")
    }
    return Term(
      isNegated: isNegated != (relation == .notEqual), test: .member(attribute, values))
  }

  // MARK: - Matching

  private static func holds(_ test: Test, _ run: RunSummary, _ now: Double) -> Bool {
    switch test {
    case .anywhere(let text):
      let texts =
        [run.name, run.id, run.kind?.rawValue ?? "", run.state.name, run.annotation.note]
        + run.annotation.tags
      return texts.contains { $0.lowercased().contains(text) }
    case .member(let attribute, let values):
      return values.contains { holds(attribute, $0, run) }
    case .relation(let number, let relation, let limit):
      return number.value(of: run, now: now).map { relation.holds($0, limit) } ?? false
    }
  }

  private static func holds(_ attribute: Attribute, _ value: String, _ run: RunSummary) -> Bool {
    switch attribute {
    case .name: run.name.lowercased().contains(value)
    case .id: run.id.lowercased().contains(value)
    case .state:
      switch value {
      case "alive": run.isAlive
      case "ended": !run.isAlive
      default: run.state.name == value
      }
    case .kind: run.kind?.rawValue == value
    case .op: run.operatorNames.contains { $0.hasPrefix(value) }
    case .tag: run.annotation.tags.contains { $0.lowercased() == value }
    case .note: run.annotation.note.lowercased().contains(value)
    case .engine: run.engineName.lowercased().hasPrefix(value)
    case .model: run.modelHash.lowercased().hasPrefix(value)
    case .chain: run.chain?.id.lowercased().contains(value) ?? false
    case .has:
      switch value {
      case "note": !run.annotation.note.isEmpty
      case "tag": !run.annotation.tags.isEmpty
      case "checkpoint": run.checkpoint != nil
      case "images": run.imageCount > 0
      case "loss": run.loss != nil || run.meanHeldOut != nil
      default: run.damage != nil
      }
    }
  }
}

/// Number of a run that filters compare and lists are sorted by.
package enum RunNumber: String, CaseIterable, Sendable {
  /// Training loss of the last step.
  case loss
  /// Last held-out loss.
  case heldOut = "held-out"
  /// Completed steps, and their total.
  case step, total
  /// Completed fraction in percent.
  case progress
  /// Steps per second.
  case rate
  /// Estimated remaining seconds, and seconds since the run was made.
  case left, age
  /// Priority and position in the queue.
  case priority, queue

  /// Makes the number of a key, which may be written `heldout` or `held_out`.
  init?(key: String) {
    self.init(rawValue: ["heldout", "held_out"].contains(key) ? "held-out" : key)
  }

  private var isDuration: Bool { self == .left || self == .age }

  /// Name and example of a value.
  fileprivate var example: (what: String, value: String) {
    isDuration ? ("duration", "2h") : ("number", self == .progress ? "50%" : ".05")
  }

  /// Reads a value; nil if the text is none.
  fileprivate func read(_ text: String) -> Double? {
    if isDuration, let seconds = DurationText.seconds(text) { return seconds }
    let digits = self == .progress && text.last == "%" ? String(text.dropLast()) : text
    return Double(digits)
  }

  /// The number of a run; nil if the run has none.
  package func value(of run: RunSummary, now: Double) -> Double? {
    switch self {
    case .loss: run.loss
    case .heldOut: run.meanHeldOut?.last.value
    case .step: Double(run.step)
    case .total: run.total > 0 ? Double(run.total) : nil
    case .progress: run.total > 0 ? 100 * Double(run.step) / Double(run.total) : nil
    case .rate: run.rate
    case .left: run.secondsLeft
    case .age: run.createdAt.map { now - $0 }
    case .priority: run.place.map { Double($0.priority) }
    case .queue: run.turn.map { Double($0.position) }
    }
  }
}

/// Durations as text.
package enum DurationText {
  /// Seconds of a text such as `90s`, `30m`, `2h` or `7d`; nil for any other text.
  package static func seconds(_ text: String) -> Double? {
    let units: [Character: Double] = ["s": 1, "m": 60, "h": 3600, "d": 86_400]
    guard let unit = text.last.flatMap({ units[$0] }), let number = Double(text.dropLast()),
      number >= 0, number.isFinite
    else { return nil }
    return number * unit
  }
}

extension RunSummary {
  /// Names of the operators of its plan; empty if the plan was not read.
  package var operatorNames: Set<String> {
    Set(changes?.edits.values.map(\.name) ?? [])
  }

  /// Name of the engine that works on it.
  package var engineName: String { engine ?? "native" }
}
