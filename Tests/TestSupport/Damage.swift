/// Damaged versions of files, for tests that readers outlive them.
package enum Damage {
  /// Numbers and other values that no file should hold where another one stood.
  package static let values = [
    "1e300", "9223372036854775807", "-9223372036854775808", "-1", "0", #""nan""#, "-1e300", "1e999",
    "18446744073709551616", "9007199254740993", "1e18", "null", #""x""#, "{}", "[[[[[[]]]]]]",
  ]

  /// The text of a JSON file with each of its numbers replaced by each extreme and by values of other types,
  /// and cut off at many places.
  ///
  /// - Parameters:
  ///   - text: The file as it should be.
  ///   - count: How many of the extremes are tried.
  /// - Returns: The damaged versions.
  package static func of(_ text: String, values count: Int = values.count) -> [String] {
    let characters = Array(text)
    var damaged: [String] = []
    var index = 0
    while index < characters.count {
      var end = index
      while end < characters.count, characters[end].isNumber || "+-.eE".contains(characters[end]) {
        end += 1
      }
      // A number as a value: after a colon, a comma, a bracket or a space.
      if end > index, characters[index].isNumber || characters[index] == "-",
        index > 0, ":,[ ".contains(characters[index - 1])
      {
        let (head, tail) = (String(characters[..<index]), String(characters[end...]))
        damaged += values.prefix(count).map { head + $0 + tail }
      }
      index = max(end, index + 1)
    }
    let stride = max(1, characters.count / 12)
    damaged += Swift.stride(from: 0, to: characters.count, by: stride).map { cut in
      String(characters[..<cut])
    }
    damaged += Swift.stride(from: 0, to: characters.count, by: stride).map { cut in
      String(characters[..<cut]) + "\n" + String(characters[cut...])
    }
    return damaged
  }
}
