import Foundation
import Plans
import Yams

/// A YAML file read into nodes, whose errors name the file, the line and the key.
struct YAMLDocument {
  let path: String
  private let root: Node

  /// Largest file that is read; the official ones have under 3 kB.
  private static let sizeLimit = 1 << 20

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
    func value(_ name: String) -> Node? { node.mapping?[Node(name)] }

    func error(_ name: String, _ message: String) -> PlanError {
      document.error(value(name) ?? node, path(name), message)
    }

    /// A nested mapping.
    func section(_ name: String) throws -> Section {
      guard let found = value(name), found.mapping != nil else {
        throw error(name, "expected a mapping, found \(described(name)); add it")
      }
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
      guard let node = value(name), node.null == nil else { return 0 }
      guard let seed = node.string.flatMap({ UInt64($0) }) else {
        throw error(
          name,
          "expected a whole number from 0 to \(UInt64.max), found \(described(name)); correct it")
      }
      return seed
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
