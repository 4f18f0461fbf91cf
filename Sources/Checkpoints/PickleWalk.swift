/// Gives every tensor and plain value of a pickle a dotted name.
struct PickleWalk {
  /// Tensors by their numbers, in the order of the pickle.
  private(set) var tensors: [(name: String, number: Int)] = []
  private(set) var values: [String: PlainValue] = [:]
  private let pickle: Pickle
  private var names: Set<String> = []
  private var visits: Int

  /// Deepest nesting of containers.
  private static let depthLimit = 32
  /// Longest dotted name.
  private static let nameLimit = 1024

  /// Visits everything below the root.
  ///
  /// - Parameters:
  ///   - pickle: What was read.
  ///   - size: Bytes of the pickle; containers that are shared may be visited again only as often as
  ///     this allows.
  /// - Throws: `PickleFault` for nesting, cycles or sharing beyond every checkpoint.
  init(_ pickle: Pickle, size: Int) throws(PickleFault) {
    self.pickle = pickle
    visits = 4 * size + 1000
    guard case .dictionary = pickle.root else {
      if case .tensor(let number) = pickle.root {
        tensors = [("tensor", number)]
        return
      }
      throw PickleFault(position: pickle.end, message: "it is neither a dictionary nor a tensor")
    }
    try visit(pickle.root, "", depth: 0)
  }

  private mutating func visit(_ value: PickleValue, _ name: String, depth: Int) throws(PickleFault)
  {
    visits -= 1
    guard depth <= Self.depthLimit, visits >= 0 else {
      throw fault("its containers are nested too deeply or contain themselves")
    }
    switch value {
    case .dictionary(let number):
      for (key, value) in pickle.dictionaries[number].entries {
        try visit(value, try join(name, key.name), depth: depth + 1)
      }
    case .list(let number), .tuple(let number):
      for (index, value) in pickle.sequences[number].enumerated() {
        try visit(value, try join(name, String(index)), depth: depth + 1)
      }
    case .tensor(let number):
      try claim(name)
      tensors.append((name, number))
    case .none: try add(.none, name)
    case .truth(let flag): try add(.truth(flag), name)
    case .integer(let number): try add(.integer(number), name)
    case .number(let number): try add(.number(number), name)
    case .text(let text): try add(.text(text), name)
    case .global(.dtype(let text)): try add(.text(text), name)
    case .wideInteger(let bytes): try add(.text("a whole number of \(bytes.count) bytes"), name)
    case .global, .storage:
      throw fault("entry '\(name)' is neither a tensor nor a plain value")
    }
  }

  private mutating func add(_ value: PlainValue, _ name: String) throws(PickleFault) {
    try claim(name)
    values[name] = value
  }

  private mutating func claim(_ name: String) throws(PickleFault) {
    guard names.insert(name).inserted else { throw fault("two entries are called '\(name)'") }
  }

  private func join(_ path: String, _ key: String) throws(PickleFault) -> String {
    guard path.utf8.count + key.utf8.count < Self.nameLimit else {
      throw fault("an entry's name is longer than \(Self.nameLimit) bytes")
    }
    return path.isEmpty ? key : "\(path).\(key)"
  }

  private func fault(_ message: String) -> PickleFault {
    PickleFault(position: pickle.end, message: message)
  }
}
