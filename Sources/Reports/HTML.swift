import Text

/// A piece of HTML or inline SVG; text only gets in escaped, with `String.printable`'s escapes too.
struct HTML {
  /// The markup.
  let markup: String

  /// Text for people.
  static func text(_ text: String) -> HTML { HTML(markup: escaped(text)) }

  /// Markup that this program itself wrote, such as its style sheet.
  static func verbatim(_ markup: String) -> HTML { HTML(markup: markup) }

  /// An element with what is in it.
  static func tag(_ name: String, _ attributes: [String: String] = [:], _ children: [HTML])
    -> HTML
  {
    let content = children.map(\.markup).joined()
    return HTML(markup: "<\(name)\(text(of: attributes))>\(content)</\(name)>")
  }

  /// An element with text in it.
  static func tag(_ name: String, _ attributes: [String: String] = [:], _ text: String) -> HTML {
    tag(name, attributes, [.text(text)])
  }

  /// An element of HTML that holds nothing, such as `img`.
  static func void(_ name: String, _ attributes: [String: String]) -> HTML {
    HTML(markup: "<\(name)\(text(of: attributes))>")
  }

  /// A table with a line of headings.
  ///
  /// - Parameters:
  ///   - headings: The first line.
  ///   - lines: The others.
  ///   - numeric: Columns that stand at the right.
  ///   - classes: The class of each line, if any.
  /// - Returns: The table, which scrolls where the page is too narrow for it.
  static func table(
    _ headings: [String], _ lines: [[String]], numeric: Set<Int> = [], classes: [String] = []
  ) -> HTML {
    func cells(_ name: String, _ texts: [String]) -> [HTML] {
      texts.enumerated().map { column, text in
        tag(name, numeric.contains(column) ? ["class": "number"] : [:], text)
      }
    }
    let head = tag("thead", [:], [tag("tr", [:], cells("th", headings))])
    let body = lines.enumerated().map { index, line in
      tag("tr", index < classes.count ? ["class": classes[index]] : [:], cells("td", line))
    }
    return tag("div", ["class": "wide"], [tag("table", [:], [head, tag("tbody", [:], body)])])
  }

  private static func text(of attributes: [String: String]) -> String {
    attributes.sorted { $0.key < $1.key }.map { " \($0.key)=\"\(escaped($0.value))\"" }.joined()
  }

  private static func escaped(_ text: String) -> String {
    var result = ""
    for scalar in text.printable.unicodeScalars {
      switch scalar {
      case "&": result += "&amp;"
      case "<": result += "&lt;"
      case ">": result += "&gt;"
      case "\"": result += "&quot;"
      case "'": result += "&#39;"
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result
  }
}
