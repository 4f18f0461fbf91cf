/// Damaged versions of files, for tests that readers outlive them.
package enum Damage {
  /// Numbers and other values that no file should hold where another one stood.
  private static let values = [
    "1e300", "-1e300", "1e999", "9223372036854775807", "-9223372036854775808",
    "9223372036854775808", "18446744073709551616", "9007199254740993", "-1", "0", "0.5", "1e18",
    #""nan""#, #""-inf""#, "null", "true", #""x""#, "[]", "{}", "[[[[[[]]]]]]",
  ]

  /// The text of a JSON file with each of its numbers replaced by each extreme and by values of other types,
  /// and cut off at many places.
  package static func of(_ text: String) -> [String] {
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
        damaged += values.map { head + $0 + tail }
      }
      index = max(end, index + 1)
    }
    let stride = max(1, characters.count / 40)
    damaged += Swift.stride(from: 0, to: characters.count, by: stride).map { cut in
      String(characters[..<cut])
    }
    damaged += Swift.stride(from: 0, to: characters.count, by: stride).map { cut in
      String(characters[..<cut]) + "\n" + String(characters[cut...])
    }
    return damaged
  }
}
