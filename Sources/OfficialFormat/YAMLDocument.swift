import Foundation
import Plans
import Yams

/// A YAML file read into nodes, whose errors name the file, the line and the key.
///
/// It remembers which keys were asked for, so that the rest can be told.
final class YAMLDocument {
  let path: String
  private let root: Node
  /// The keys whose values were asked for, and those that were entered as mappings.
  fileprivate var read: Set<String> = []
  fileprivate var entered: Set<String> = [""]

  /// Largest file that is read; the official ones have under 3 kB.
  private static let sizeLimit = 1 << 16

  /// Reads a file that holds one mapping.
  ///
  /// - Throws: `PlanError` for a file that cannot be read or is no YAML mapping.
  init(path: String) throws {
    guard let data = FileManager.default.contents(atPath: path) else {
      throw PlanError(file: path, key: nil, "cannot be read; give the path of a YAML file")
    }
    guard data.count <= Self.sizeLimit, let text = String(data: data, encoding: .utf8) else {
      throw PlanError(
        file: path, key: nil,
        "expected at most \(Self.sizeLimit) bytes of UTF-8 text, found \(data.count) bytes;"
          + " give a YAML configuration of the grafting repository")
    }
    // A few lines of references to references may stand for more than any memory holds.
    if let line = Self.lineOfReference(in: text) {
      throw PlanError(
        file: path, line: line, key: nil,
        "has an anchor, alias or tag (&, *, !), which configurations of the grafting repository do not"
          + " use; write the value itself")
    }
    let node: Node?
    do {
      node = try Yams.compose(yaml: text)
    } catch {
      throw PlanError(
        file: path, key: nil, "is not valid YAML (\(Self.sentence(error))); correct it")
    }
    guard let node, node.mapping != nil else {
      throw PlanError(file: path, key: nil, "holds no mapping of keys to values; correct it")
    }
    self.path = path
    root = node
  }

  /// The first line on which a token begins with `&`, `*` or `!`, quoted texts and comments left out.
  private static func lineOfReference(in text: String) -> Int? {
    var quote: Character?
    for (index, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated()
    {
      var (last, lastVisible): (Character, Character) = (" ", " ")
      for character in line {
        if let open = quote {
          if character == open, last != "\\" || open == "'" { quote = nil }
        } else if character == "#", last.isWhitespace {
          break
        } else {
          let begins =
            " :-?,[{".contains(lastVisible) && (last.isWhitespace || ",[{".contains(last))
          if begins, "&*!".contains(character) { return index + 1 }
          if begins, character == "\"" || character == "'" { quote = character }
        }
        last = character
        if !character.isWhitespace { lastVisible = character }
      }
    }
    return nil
  }

  private static func sentence(_ error: any Error) -> String {
    guard let error = error as? YamlError else { return "\(error)" }
    switch error {
    case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _),
      .composer(_, let problem, let mark, _):
      return "line \(mark.line): \(problem)"
    case .duplicatedKeysInMapping(let duplicates, _):
      return "key \(duplicates.first ?? "") appears twice"
    default: return "it cannot be parsed"
    }
  }

  /// The keys that nobody asked for, with their values where these are short, in the file's order.
  var unread: [String] {
    func walk(_ node: Node, _ path: String) -> [String] {
      (node.mapping ?? [:]).flatMap { key, value -> [String] in
        let name = path.isEmpty ? key.string ?? "" : "\(path).\(key.string ?? "")"
        if entered.contains(name) { return walk(value, name) }
        if read.contains(name) { return [] }
        return [value.scalar.map { "\(name) (\($0.string.prefix(60)))" } ?? name]
      }
    }
    return walk(root, "")
  }

  /// The top mapping.
  var top: Section { Section(document: self, key: "", node: root) }

  func error(_ node: Node?, _ key: String, _ message: String) -> PlanError {
    PlanError(file: path, line: node?.mark?.line, key: key, message)
  }

  /// A mapping of the file and the key that leads to it.
  struct Section {
    let document: YAMLDocument
    let key: String
    let node: Node

    /// The keys in the file's order.
    var names: [String] { node.mapping?.map { $0.key.string ?? "" } ?? [] }

    func path(_ name: String) -> String { key.isEmpty ? name : "\(key).\(name)" }

    /// The value of a key; nil where it is absent.
    func value(_ name: String) -> Node? {
      document.read.insert(path(name))
      return node.mapping?[Node(name)]
    }

    func error(_ name: String, _ message: String) -> PlanError {
      document.error(value(name) ?? node, path(name), message)
    }

    /// A nested mapping.
    func section(_ name: String) throws -> Section {
      guard let found = value(name), found.mapping != nil else {
        throw error(name, "expected a mapping, found \(described(name)); add it")
      }
      document.entered.insert(path(name))
      return Section(document: document, key: path(name), node: found)
    }

    /// A text that is there and not empty.
    func text(_ name: String) throws -> String {
      guard let text = optionalText(name), !text.isEmpty else {
        throw error(name, "expected a text, found \(described(name)); add it")
      }
      return text
    }

    /// A text; nil where it is absent, null or Python's `None`.
    func optionalText(_ name: String) -> String? {
      guard let node = value(name), node.null == nil, let text = node.string, text != "None"
      else { return nil }
      return text
    }

    /// A whole number.
    func integer(_ name: String) throws -> Int {
      guard let number = value(name)?.int else {
        throw error(name, "expected a whole number, found \(described(name)); correct it")
      }
      return number
    }

    /// A seed, 0 to 2^64 - 1; 0 where it is absent.
    func seed(_ name: String) throws -> UInt64 {
      guard let node = value(name), node.null == nil, node.string != "None" else { return 0 }
      guard let seed = node.string.flatMap({ UInt64($0) }) else {
        throw error(
          name,
          "expected a whole number from 0 to \(UInt64.max), found \(described(name)); correct it")
      }
      return seed
    }

    /// A finite number; nil where the key is absent or null.
    func number(_ name: String) throws -> Double? {
      guard let node = value(name), node.null == nil, node.string != "None" else { return nil }
      guard let number = node.float, number.isFinite else {
        throw error(name, "expected a number, found \(described(name)); correct it")
      }
      return number
    }

    /// What stands under a key, for messages.
    func described(_ name: String) -> String {
      value(name).map(YAMLDocument.described) ?? "nothing"
    }
  }

  /// A node in a few words.
  static func described(_ node: Node) -> String {
    switch node {
    case .scalar(let scalar): return String(scalar.string.prefix(60)).debugDescription
    case .mapping(let mapping): return "a mapping of \(mapping.count)"
    case .sequence(let list): return "a list of \(list.count)"
    case .alias: return "an alias"
    }
  }
}

extension PlanError {
  /// An error at a place of a file.
  init(file: String, line: Int? = nil, key: String?, _ message: String) {
    self.init(key: key, message)
    self.file = file
    self.line = line
  }
}
