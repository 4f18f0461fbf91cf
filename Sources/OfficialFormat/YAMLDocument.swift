import Foundation
import Plans
import Yams

/// Parsed YAML file, whose errors name the file, the line and the key.
///
/// It records the keys that were read, so that unread keys can be reported.
final class YAMLDocument {
  let path: String
  private let root: Node
  /// Keys of the values and mappings that were read.
  fileprivate var read: Set<String> = []
  fileprivate var entered: Set<String> = [""]

  /// Maximum size of a file in bytes; official ones have less than 3 kB.
  private static let sizeLimit = 1 << 16

  /// Reads a file that holds one mapping.
  ///
  /// - Throws: `PlanError` for a file that cannot be read or is not a YAML mapping.
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
    // Nested aliases may expand to more than the memory holds, so references are refused.
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

  /// First line with a token that begins with `&`, `*` or `!`, outside quoted strings and comments.
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

  /// Unread keys with their values, if short, in file order.
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

  /// Top-level mapping.
  var top: Section { Section(document: self, key: "", node: root) }

  func error(_ node: Node?, _ key: String, _ message: String) -> PlanError {
    PlanError(file: path, line: node?.mark?.line, key: key, message)
  }

  /// Mapping with its key path.
  struct Section {
    let document: YAMLDocument
    let key: String
    let node: Node

    /// Keys in file order.
    var names: [String] { node.mapping?.map { $0.key.string ?? "" } ?? [] }

    func path(_ name: String) -> String { key.isEmpty ? name : "\(key).\(name)" }

    /// Value of a key; nil if it is absent.
    func value(_ name: String) -> Node? {
      document.read.insert(path(name))
      return node.mapping?[Node(name)]
    }

    func error(_ name: String, _ message: String) -> PlanError {
      document.error(value(name) ?? node, path(name), message)
    }

    /// Reads a nested mapping.
    func section(_ name: String) throws -> Section {
      guard let found = value(name), found.mapping != nil else {
        throw error(name, "expected a mapping, found \(described(name)); add it")
      }
      document.entered.insert(path(name))
      return Section(document: document, key: path(name), node: found)
    }

    /// Reads a non-empty string.
    func text(_ name: String) throws -> String {
      guard let text = optionalText(name), !text.isEmpty else {
        throw error(name, "expected a text, found \(described(name)); add it")
      }
      return text
    }

    /// Reads a string; nil if it is absent, null or Python's `None`.
    func optionalText(_ name: String) -> String? {
      guard let node = value(name), node.null == nil, let text = node.string, text != "None"
      else { return nil }
      return text
    }

    /// Reads an integer.
    func integer(_ name: String) throws -> Int {
      guard let number = value(name)?.int else {
        throw error(name, "expected a whole number, found \(described(name)); correct it")
      }
      return number
    }

    /// Reads a seed, 0 to 2^64 - 1; 0 if it is absent.
    func seed(_ name: String) throws -> UInt64 {
      guard let node = value(name), node.null == nil, node.string != "None" else { return 0 }
      guard let seed = node.string.flatMap({ UInt64($0) }) else {
        throw error(
          name,
          "expected a whole number from 0 to \(UInt64.max), found \(described(name)); correct it")
      }
      return seed
    }

    /// Reads a finite number; nil if the key is absent or null.
    func number(_ name: String) throws -> Double? {
      guard let node = value(name), node.null == nil, node.string != "None" else { return nil }
      guard let number = node.float, number.isFinite else {
        throw error(name, "expected a number, found \(described(name)); correct it")
      }
      return number
    }

    /// Description of the value of a key, for messages.
    func described(_ name: String) -> String {
      value(name).map(YAMLDocument.described) ?? "nothing"
    }
  }

  /// Short description of a node.
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
  /// Makes an error at a position in a file.
  init(file: String, line: Int? = nil, key: String?, _ message: String) {
    self.init(key: key, message)
    self.file = file
    self.line = line
  }
}
