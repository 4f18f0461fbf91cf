import Text

/// Fragment of HTML or inline SVG in which text is escaped, also by `String.printable`.
struct HTML {
  /// The markup.
  let markup: String

  /// Escaped text.
  static func text(_ text: String) -> HTML { HTML(markup: escaped(text)) }

  /// Unescaped markup of this program, such as its style sheet.
  static func verbatim(_ markup: String) -> HTML { HTML(markup: markup) }

  /// An element with child elements.
  static func tag(_ name: String, _ attributes: [String: String] = [:], _ children: [HTML])
    -> HTML
  {
    let content = children.map(\.markup).joined()
    return HTML(markup: "<\(name)\(text(of: attributes))>\(content)</\(name)>")
  }

  /// An element with text content.
  static func tag(_ name: String, _ attributes: [String: String] = [:], _ text: String) -> HTML {
    tag(name, attributes, [.text(text)])
  }

  /// A void element, such as `img`.
  static func void(_ name: String, _ attributes: [String: String]) -> HTML {
    HTML(markup: "<\(name)\(text(of: attributes))>")
  }

  /// A table with a header row.
  ///
  /// - Parameters:
  ///   - headings: Header cells.
  ///   - lines: Rows.
  ///   - numeric: Right-aligned columns.
  ///   - classes: CSS class of each row, if any.
  /// - Returns: The table in a container that scrolls horizontally.
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
