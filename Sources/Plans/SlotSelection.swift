/// Numbers by which slots are selected, by name; names are not case-sensitive.
package struct SlotScores: Sendable {
  /// Values of the slots that have one.
  private var values: [String: [SlotID: Double]] = [:]
  /// How to obtain the scores that are missing, as the end of a sentence.
  package var remedy: String?

  /// Makes scores of nothing.
  package init(remedy: String? = nil) { self.remedy = remedy }

  /// The values of one score.
  package subscript(name: String) -> [SlotID: Double]? {
    get { values[name.lowercased()] }
    set { values[name.lowercased()] = newValue }
  }

  /// The values of one score, those given for a score that is missing.
  package subscript(name: String, default missing: [SlotID: Double]) -> [SlotID: Double] {
    get { self[name] ?? missing }
    set { self[name] = newValue }
  }

  /// The names, in order.
  package var names: [String] {
    values.keys.sorted { ($0.count, $0) < ($1.count, $1) }
  }
}

/// Textual selection of slots: patterns of blocks and comparisons of scores, joined by `and`, `or`, `not` and
/// parentheses.
package enum SlotSelection {
  /// Examples of the forms read by `parse`, for help texts.
  package static let forms =
    "\(LayerSelection.forms), above 14, below 7, attention, mlp, L32 > .4, top 8 by L32,"
    + " bottom 8 by var; joined by and, or, not and parentheses"

  /// Parses a selection of slots.
  ///
  /// Slots are those of one kind, or of both where the text says `attention` or `mlp`. A slot without a score is
  /// never selected by it. `top` and `bottom` take the first of all slots in question, not of those that another
  /// part selects.
  ///
  /// - Parameters:
  ///   - text: The text.
  ///   - depth: Number of blocks.
  ///   - slot: The kind of slot.
  ///   - scores: Scores by name.
  /// - Returns: The slots, ascending.
  /// - Throws: `PlanError` for text of another form, a block out of range, or an unknown score.
  package static func parse(
    _ text: String, depth: Int, slot: Slot, scores: SlotScores = SlotScores()
  ) throws(PlanError) -> [SlotID] {
    var parser = Parser(text: text, depth: depth, slot: slot, scores: scores)
    return try parser.selection().sorted()
  }

  /// Parses a selection of slots of one kind, and returns their blocks.
  ///
  /// - Throws: `PlanError` as `parse`, and if only slots of the other kind are selected.
  package static func blocks(
    _ text: String, depth: Int, slot: Slot, scores: SlotScores = SlotScores()
  ) throws(PlanError) -> [Int] {
    let slots = try parse(text, depth: depth, slot: slot, scores: scores)
    let blocks = slots.filter { $0.slot == slot }.map(\.block)
    guard blocks.isEmpty, !slots.isEmpty else { return blocks }
    throw PlanError(
      key: nil,
      "\(quoted(text)) selects slots of the other kind only, expected \(slot.rawValue) slots;"
        + " leave the kind out")
  }

  fileprivate static func quoted(_ text: String) -> String { text.prefix(60).debugDescription }
}

private struct Parser {
  private let text: String
  private let depth: Int
  private let scores: SlotScores
  private let words: [String]
  private let all: Set<SlotID>
  private var position = 0
  private var nesting = 0

  private static let joints: Set<String> = ["and", "or", "not", "(", ")"]
  private static let comparisons: [String: @Sendable (Double, Double) -> Bool] = [
    "<": { $0 < $1 }, ">": { $0 > $1 }, "<=": { $0 <= $1 }, ">=": { $0 >= $1 },
  ]
  /// Most words, and most parentheses and `not` inside each other.
  private static let limits = (words: 1000, nesting: 50)

  init(text: String, depth: Int, slot: Slot, scores: SlotScores) {
    (self.text, self.depth, self.scores) = (text, depth, scores)
    words = Self.words(text.lowercased())
    let named = words.contains { Slot(rawValue: $0) != nil }
    let kinds = named ? Slot.allCases : [slot]
    all = Set((0..<depth).flatMap { block in kinds.map { SlotID(block: block, slot: $0) } })
  }

  /// Splits at spaces, and around parentheses and comparisons.
  private static func words(_ text: String) -> [String] {
    var words: [String] = []
    var word = ""
    func isComparison(_ text: String) -> Bool { text == "<" || text == ">" }
    func close() {
      if !word.isEmpty { words.append(word) }
      word = ""
    }
    for character in text {
      switch character {
      case "(", ")", "<", ">":
        close()
        words.append(String(character))
      case "=" where word.isEmpty && words.last.map(isComparison) == true:
        words[words.count - 1] += "="
      case _ where character.isWhitespace: close()
      default: word.append(character)
      }
    }
    close()
    return words
  }

  mutating func selection() throws(PlanError) -> Set<SlotID> {
    guard words.count <= Self.limits.words else {
      throw refusal("is too long, expected at most \(Self.limits.words) words; shorten it")
    }
    let result = try union()
    guard position == words.count else { throw misunderstood(words[position]) }
    return result
  }

  private mutating func take(_ word: String) -> Bool {
    guard position < words.count, words[position] == word else { return false }
    position += 1
    return true
  }

  private mutating func union() throws(PlanError) -> Set<SlotID> {
    var result = try intersection()
    while take("or") { result.formUnion(try intersection()) }
    return result
  }

  private mutating func intersection() throws(PlanError) -> Set<SlotID> {
    var result = try factor()
    while take("and") { result.formIntersection(try factor()) }
    return result
  }

  private mutating func factor() throws(PlanError) -> Set<SlotID> {
    nesting += 1
    defer { nesting -= 1 }
    guard nesting <= Self.limits.nesting else {
      throw refusal("has too many parentheses inside each other; simplify it")
    }
    if take("not") { return all.subtracting(try factor()) }
    if take("(") {
      let result = try union()
      guard take(")") else { throw refusal("lacks a closing parenthesis; add it") }
      return result
    }
    var atom: [String] = []
    while position < words.count, !Self.joints.contains(words[position]) {
      atom.append(words[position])
      position += 1
    }
    return try slots(of: atom)
  }

  // MARK: - Parts without joints

  private func slots(of atom: [String]) throws(PlanError) -> Set<SlotID> {
    guard let first = atom.first else {
      throw misunderstood(position < words.count ? words[position] : nil)
    }
    switch first {
    case "attention" where atom.count == 1, "mlp" where atom.count == 1:
      return all.filter { $0.slot.rawValue == first }
    case "above" where atom.count == 2, "below" where atom.count == 2:
      let block = try LayerSelection.number(atom[1], in: 0...(depth - 1), of: text)
      return all.filter { first == "above" ? $0.block > block : $0.block < block }
    case "top" where atom.count == 4 && atom[2] == "by",
      "bottom" where atom.count == 4 && atom[2] == "by":
      let count = try LayerSelection.number(atom[1], in: 1...all.count, of: text)
      let ranked = try values(of: atom[3]).filter { all.contains($0.key) && $0.value.isFinite }
        .sorted { first, second in
          let (a, b) = (first.value, second.value)
          return a == b ? first.key < second.key : atom[0] == "top" ? a > b : a < b
        }
      return Set(ranked.prefix(count).map(\.key))
    case _ where atom.count == 3 && Self.comparisons[atom[1]] != nil:
      guard let compare = Self.comparisons[atom[1]], let bound = Double(atom[2]), bound.isFinite
      else { throw misunderstood(atom[2]) }
      let values = try values(of: first)
      return all.filter { slot in values[slot].map { compare($0, bound) } ?? false }
    default:
      let blocks = Set(try LayerSelection.parse(atom.joined(separator: " "), depth: depth))
      return all.filter { blocks.contains($0.block) }
    }
  }

  private func values(of name: String) throws(PlanError) -> [SlotID: Double] {
    if let values = scores[name] { return values }
    let known = scores.names
    let list = known.joined(separator: ", ")
    let names = known.isEmpty ? "no score is known" : "expected one of \(list)"
    throw refusal(
      "names the score \(name.prefix(20).debugDescription), \(names)"
        + (scores.remedy.map { "; \($0)" } ?? "; correct it"))
  }

  private func refusal(_ message: String) -> PlanError {
    PlanError(key: nil, "\(SlotSelection.quoted(text)) \(message)")
  }

  private func misunderstood(_ word: String?) -> PlanError {
    let place = word.map { "not understood at \($0.prefix(20).debugDescription)" } ?? "incomplete"
    return refusal("is \(place), expected forms such as \(SlotSelection.forms); rewrite it")
  }
}
