/// Assigns dotted names to all tensors and plain values of a pickle.
struct PickleWalk {
  /// Names and indices of the tensors in pickle order.
  private(set) var tensors: [(name: String, number: Int)] = []
  private(set) var values: [String: PlainValue] = [:]
  private let pickle: Pickle
  private var names: Set<String> = []
  /// Remaining budgets of visited values and of bytes of their names.
  private var visits, nameBytes: Int

  /// Maximum nesting depth of containers.
  private static let depthLimit = 32
  /// Maximum length of a dotted name in bytes.
  private static let nameLimit = 1024
  /// Maximum number of visited values, counting shared ones at each reference; a checkpoint of a
  /// 28-block model with optimizer state has a few thousand.
  private static let visitLimit = 1 << 19
  /// Maximum total length of all names in bytes.
  private static let nameBytesLimit = 1 << 25

  /// Visits everything below the root.
  ///
  /// - Parameters:
  ///   - pickle: The pickle.
  ///   - size: Its size in bytes, which limits repeated visits of shared containers.
  /// - Throws: `PickleFault` for cycles and for nesting or sharing beyond the limits.
  init(_ pickle: Pickle, size: Int) throws(PickleFault) {
    self.pickle = pickle
    visits = min(Self.visitLimit, 4 * size + 1000)
    nameBytes = Self.nameBytesLimit
    switch pickle.root {
    case .dictionary: try visit(pickle.root, "", depth: 0)
    case .tensor(let number): tensors = [("tensor", number)]
    case .object(let name):
      throw fault("it is an object of class '\(name)', expected a dictionary of tensors")
    default: throw fault("it is neither a dictionary nor a tensor")
    }
  }

  private mutating func visit(_ value: PickleValue, _ name: String, depth: Int) throws(PickleFault)
  {
    visits -= 1
    guard depth <= Self.depthLimit else {
      throw fault("its containers are nested too deeply or contain themselves")
    }
    guard visits >= 0, nameBytes >= 0 else {
      throw fault("it has more entries or longer names than any checkpoint")
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
    case .global(.dtype(let text)), .global(.other(let text)): try add(.text(text), name)
    case .object(let text): try add(.object(text), name)
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

  private mutating func join(_ path: String, _ key: String) throws(PickleFault) -> String {
    let count = path.utf8.count + key.utf8.count
    guard count < Self.nameLimit else {
      throw fault("an entry's name is longer than \(Self.nameLimit) bytes")
    }
    nameBytes -= count
    return path.isEmpty ? key : "\(path).\(key)"
  }

  private func fault(_ message: String) -> PickleFault {
    PickleFault(position: pickle.end, message: message)
  }
}
