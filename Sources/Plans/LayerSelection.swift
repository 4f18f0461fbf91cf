/// Textual selection of blocks, for patterns such as the paper's interleaved grafts.
package enum LayerSelection {
  /// Examples of the forms read by `parse`, for help texts.
  package static let forms = "all, odd, even, every 2, every 2 from 1, first 4, last 7, 3-9, 1,3,5"

  /// Parses the selected blocks of a model of `depth` blocks, ascending and distinct.
  ///
  /// - Throws: `PlanError` for text of another form or a block out of range.
  package static func parse(_ text: String, depth: Int) throws(PlanError) -> [Int] {
    let words = text.lowercased().split(whereSeparator: \.isWhitespace).map(String.init)
    switch words.first {
    case "all" where words.count == 1: return Array(0..<depth)
    case "odd" where words.count == 1: return (0..<depth).filter { $0 % 2 == 1 }
    case "even" where words.count == 1: return (0..<depth).filter { $0 % 2 == 0 }
    case "every" where words.count == 2 || words.count == 4 && words[2] == "from":
      let step = try number(words[1], in: 1...depth, of: text)
      let start = words.count == 4 ? try number(words[3], in: 0...(depth - 1), of: text) : 0
      return Array(stride(from: start, to: depth, by: step))
    case "first" where words.count == 2:
      return Array(0..<(try number(words[1], in: 1...depth, of: text)))
    case "last" where words.count == 2:
      return Array((depth - (try number(words[1], in: 1...depth, of: text)))..<depth)
    default:
      return try list(words.joined(separator: " "), of: text, depth: depth)
    }
  }

  /// Parses single blocks and ranges, separated by commas.
  private static func list(
    _ items: String, of text: String, depth: Int
  ) throws(PlanError) -> [Int] {
    var blocks: Set<Int> = []
    for item in items.split(separator: ",", omittingEmptySubsequences: false) {
      let ends = item.split(separator: "-", omittingEmptySubsequences: false)
        .map { String($0.trimmingPrefix(" ").reversed().drop { $0 == " " }.reversed()) }
      guard let first = ends.first, let last = ends.last, ends.count <= 2 else {
        throw misunderstood(text)
      }
      let low = try number(first, in: 0...(depth - 1), of: text)
      let high = try number(last, in: 0...(depth - 1), of: text)
      guard low <= high else {
        throw PlanError(
          key: nil, "the range \(item) runs backwards; write \(high)-\(low)")
      }
      blocks.formUnion(low...high)
    }
    return blocks.sorted()
  }

  static func number(
    _ word: String, in range: ClosedRange<Int>, of text: String
  ) throws(PlanError) -> Int {
    guard !word.isEmpty, word.utf8.allSatisfy({ (48...57).contains($0) }), let value = Int(word)
    else { throw misunderstood(text) }
    guard range.contains(value) else {
      throw PlanError(
        key: nil,
        "\(value) in \(text.debugDescription) is outside \(range.lowerBound) to"
          + " \(range.upperBound) for this model; correct the number")
    }
    return value
  }

  private static func misunderstood(_ text: String) -> PlanError {
    PlanError(
      key: nil,
      "\(text.prefix(60).debugDescription) selects no blocks, expected one of these forms:"
        + " \(forms); rewrite it")
  }
}
