import Files

/// Stack machine for the pickles of PyTorch state dicts (the instructions of pytorch/pytorch
/// `_weights_only_unpickler.py` and their equivalents in newer protocols).
///
/// It builds data only and neither imports nor calls anything; objects of other classes are
/// represented by name. Limits on instructions, containers and memo entries bound time and memory.
struct Unpickler {
  /// The forms of persistent ids.
  enum StorageForm {
    /// (`storage`, class, key, location, count): ZIP archives.
    case archive
    /// The same and a view: legacy files.
    case legacy
    /// No persistent ids are allowed.
    case none
  }

  /// Maximum length of a module or attribute name in bytes.
  private static let nameLimit = 256
  /// Maximum length of a string in bytes.
  private static let textLimit = 1 << 20
  /// Maximum number of instructions, of containers and tensors, and of memo entries; the largest
  /// training checkpoints have tens of thousands of tensors.
  private static let instructionLimit = 1 << 21
  private static let containerLimit = 1 << 18
  private static let memoLimit = 1 << 19
  /// Maximum total length in bytes of the descriptions of keys that are no text.
  private static let keyBytesLimit = 1 << 22

  private var cursor: ByteCursor
  private var pickle = Pickle()
  private var stack: [PickleValue] = []
  /// Stack heights at the open marks.
  private var marks: [Int] = []
  private var memo: [Int: PickleValue] = [:]
  private var storageNumbers: [Pickle.Storage: Int] = [:]
  private let form: StorageForm
  private var opcodeStart = 0
  private var instructions = 0
  /// Number of entries copied into namespaces.
  private var copies = 0
  /// Bytes of the descriptions of keys.
  private var keyBytes = 0

  /// Reads the pickle that starts at `position`.
  ///
  /// - Throws: `PickleFault` at the first unsupported instruction.
  static func read(
    _ bytes: UnsafeRawBufferPointer, at position: Int = 0, storages form: StorageForm
  ) throws(PickleFault) -> Pickle {
    var machine = Unpickler(bytes, at: position, form)
    do {
      while try machine.step() {}
    } catch let fault as PickleFault {
      throw fault
    } catch {
      throw PickleFault(position: machine.opcodeStart, message: "it ends within an instruction")
    }
    machine.pickle.end = machine.cursor.position
    return machine.pickle
  }

  private init(_ bytes: UnsafeRawBufferPointer, at position: Int, _ form: StorageForm) {
    cursor = ByteCursor(bytes, at: position)
    self.form = form
  }

  // MARK: - Instructions

  /// Executes one instruction; false after the last one.
  private mutating func step() throws -> Bool {
    opcodeStart = cursor.position
    instructions += 1
    guard instructions <= Self.instructionLimit,
      pickle.sequences.count + pickle.dictionaries.count + pickle.tensors.count
        <= Self.containerLimit, memo.count <= Self.memoLimit
    else { throw fault("it describes more values than any checkpoint") }
    let opcode = try cursor.read(UInt8.self)
    switch opcode {
    case 0x80:  // PROTO
      let version = try cursor.read(UInt8.self)
      guard (2...5).contains(version) else { throw fault("pickle protocol \(version), expected 2") }
    case 0x95:  // FRAME
      _ = try cursor.read(UInt64.self)
    case 0x2E:  // STOP
      pickle.root = try pop()
      guard stack.isEmpty, marks.isEmpty else { throw fault("values are left over at its end") }
      return false
    case 0x28: marks.append(stack.count)  // MARK
    case 0x63:  // GLOBAL
      try pushGlobal(module: try line(), name: try line())
    case 0x93:  // STACK_GLOBAL
      guard case .text(let name) = try pop(), case .text(let module) = try pop() else {
        throw fault("a global's name is no text")
      }
      try pushGlobal(module: module, name: name)
    case 0x52: try reduce()
    case 0x81, 0x92: try newObject(withKeywords: opcode == 0x92)
    case 0x62: try build()
    case 0x51: try persistentID()
    case 0x71, 0x72, 0x94, 0x68, 0x6A: try memoise(opcode)
    default:
      guard try pushScalar(opcode) || container(opcode) else {
        throw fault("instruction 0x\(String(opcode, radix: 16)) is not used by any state dict")
      }
    }
    return true
  }

  /// Executes an instruction that pushes a scalar; false for other instructions.
  private mutating func pushScalar(_ opcode: UInt8) throws -> Bool {
    switch opcode {
    case 0x4E: stack.append(.none)
    case 0x88: stack.append(.truth(true))
    case 0x89: stack.append(.truth(false))
    case 0x4A: stack.append(.integer(Int(try cursor.read(Int32.self))))
    case 0x4B: stack.append(.integer(Int(try cursor.read(UInt8.self))))
    case 0x4D: stack.append(.integer(Int(try cursor.read(UInt16.self))))
    case 0x8A: try pushLong(Int(try cursor.read(UInt8.self)))
    case 0x8B: try pushLong(Int(try cursor.read(Int32.self)))
    case 0x47:
      stack.append(.number(Double(bitPattern: try cursor.read(UInt64.self).byteSwapped)))
    case 0x58: try pushText(Int(try cursor.read(UInt32.self)))
    case 0x8C, 0x55: try pushText(Int(try cursor.read(UInt8.self)))
    case 0x8D: try pushText(Int(exactly: try cursor.read(UInt64.self)) ?? .max)
    case 0x42: try pushBytes(Int(try cursor.read(UInt32.self)))
    case 0x43: try pushBytes(Int(try cursor.read(UInt8.self)))
    case 0x8E, 0x96: try pushBytes(Int(exactly: try cursor.read(UInt64.self)) ?? .max)
    default: return false
    }
    return true
  }

  private mutating func pushText(_ length: Int) throws {
    guard length <= Self.textLimit else { throw fault("a text of \(length) bytes is too long") }
    guard let text = String(validating: try cursor.take(length), as: UTF8.self) else {
      throw fault("a text is not UTF-8")
    }
    stack.append(.text(text))
  }

  /// Pushes bytes, used only by objects of unsupported classes.
  private mutating func pushBytes(_ length: Int) throws {
    _ = try cursor.take(length)
    stack.append(.object("bytes"))
  }

  /// Pushes an integer of `length` bytes, two's complement.
  private mutating func pushLong(_ length: Int) throws {
    guard (0...Self.nameLimit).contains(length) else {
      throw fault("a whole number of \(length) bytes is too long")
    }
    let bytes = try cursor.take(length)
    guard bytes.count <= 8 else {
      stack.append(.wideInteger(Array(bytes)))
      return
    }
    var value = 0
    for (place, byte) in bytes.enumerated() { value |= Int(byte) << (8 * place) }
    let unused = 64 - 8 * bytes.count
    stack.append(.integer(bytes.isEmpty ? 0 : (value << unused) >> unused))
  }

  /// Executes an instruction that builds or fills a container; false for other instructions.
  private mutating func container(_ opcode: UInt8) throws -> Bool {
    switch opcode {
    case 0x7D: pushDictionary(.plain)
    case 0x5D, 0x8F: push(sequence: [], PickleValue.list)
    case 0x29: stack.append(.tuple(0))  // the one empty tuple
    case 0x74: push(sequence: try popMark(), PickleValue.tuple)
    case 0x91: push(sequence: try popMark(), PickleValue.list)  // FROZENSET
    case 0x85, 0x86, 0x87:
      let items = try (0..<Int(opcode - 0x84)).map { _ in try pop() }
      push(sequence: items.reversed(), PickleValue.tuple)
    case 0x61:
      let item = try pop()
      try append([item])
    case 0x65, 0x90: try append(try popMark())
    case 0x73:
      let value = try pop()
      try set([try pop(), value])
    case 0x75: try set(try popMark())
    default: return false
    }
    return true
  }

  private mutating func push(sequence: [PickleValue], _ wrap: (Int) -> PickleValue) {
    stack.append(wrap(pickle.sequences.count))
    pickle.sequences.append(sequence)
  }

  private mutating func pushDictionary(_ kind: Pickle.DictionaryKind) {
    stack.append(.dictionary(pickle.dictionaries.count))
    pickle.dictionaries.append(Pickle.Dictionary(kind))
  }

  private mutating func append(_ items: [PickleValue]) throws {
    switch try top() {
    case .list(let list): pickle.sequences[list] += items
    case .object: break
    default: throw fault("items are appended to no list")
    }
  }

  private mutating func set(_ items: [PickleValue]) throws {
    if case .object = try top() { return }
    guard case .dictionary(let number) = try top(), items.count % 2 == 0 else {
      throw fault("entries are put into no dictionary")
    }
    for place in stride(from: 0, to: items.count, by: 2) {
      pickle.dictionaries[number].set(try key(items[place]), items[place + 1])
    }
  }

  private mutating func key(_ value: PickleValue) throws(PickleFault) -> Pickle.Key {
    switch value {
    case .text(let text): return .text(text)
    case .integer(let number): return .integer(number)
    default:
      let text = description(value, depth: 0)
      keyBytes += text.utf8.count
      guard keyBytes <= Self.keyBytesLimit else {
        throw fault("it describes more values than any checkpoint")
      }
      return .other(text)
    }
  }

  /// A key that is no text as in Python, such as `(1, 'a')`; an object is shown by its class and place.
  private func description(_ value: PickleValue, depth: Int) -> String {
    switch value {
    case .none: return "None"
    case .truth(let flag): return flag ? "True" : "False"
    case .integer(let number): return String(number)
    case .wideInteger(let bytes): return "a whole number of \(bytes.count) bytes"
    case .number(let number): return String(number)
    case .text(let text): return "'\(text.prefix(64))'"
    case .global(.dtype(let name)), .global(.other(let name)): return name
    case .tuple(let number), .list(let number):
      let items = pickle.sequences[number]
      guard depth < 4, items.count <= 8 else { return "(\(items.count) items)" }
      return "(\(items.map { description($0, depth: depth + 1) }.joined(separator: ", ")))"
    case .object(let name): return "\(name) at byte \(opcodeStart)"
    case .dictionary, .global, .storage, .tensor: return "a key at byte \(opcodeStart)"
    }
  }

  private mutating func memoise(_ opcode: UInt8) throws {
    switch opcode {
    case 0x71: memo[Int(try cursor.read(UInt8.self))] = try top()
    case 0x72: memo[Int(try cursor.read(UInt32.self))] = try top()
    case 0x94: memo[memo.count] = try top()
    default:
      let index =
        opcode == 0x68 ? Int(try cursor.read(UInt8.self)) : Int(try cursor.read(UInt32.self))
      guard let value = memo[index] else { throw fault("memo entry \(index) was never stored") }
      stack.append(value)
    }
  }

  // MARK: - Globals, never called

  private mutating func pushGlobal(module: String, name: String) throws(PickleFault) {
    guard let global = PickleGlobal(module: module, name: name) else {
      throw fault("it refers to '\(module).\(name)', which no state dict needs and may run code")
    }
    stack.append(.global(global))
  }

  private mutating func line() throws -> String {
    guard let text = String(validating: try cursor.line(limit: Self.nameLimit), as: UTF8.self)
    else { throw fault("a global's name is no text") }
    return text
  }

  private mutating func reduce() throws {
    let arguments = try tuple(try pop())
    guard case .global(let global) = try pop() else {
      throw fault("it calls something that is no known name")
    }
    switch (global, arguments.count) {
    case (.orderedDictionary, 0): pushDictionary(.ordered)
    case (.rebuildTensor, 6...7): try pushTensor(arguments)
    case (.rebuildTypedTensor, 7...8): try pushTypedTensor(arguments)
    case (.rebuildSubclass, 4):
      switch arguments[0] {
      case .global(.rebuildTensor): try pushTensor(try tuple(arguments[2]))
      case .global(.rebuildTypedTensor): try pushTypedTensor(try tuple(arguments[2]))
      default: stack.append(.object("a subclass of torch.Tensor"))
      }
    case (.rebuildParameter, 3...4):
      switch arguments[0] {
      case .tensor, .object: stack.append(arguments[0])
      default: throw fault("a parameter holds no tensor")
      }
    case (.size, 1):
      _ = try tuple(arguments[0])
      stack.append(arguments[0])
    case (.device, 1...2), (.encode, 2):
      guard case .text = arguments[0] else { throw fault("a text is expected as argument") }
      stack.append(arguments[0])
    case (.set, 1):
      guard case .list = arguments[0] else { throw fault("a set is made of no list") }
      stack.append(arguments[0])
    case (.other(let name), _): stack.append(.object(name))
    default:
      throw fault("a call of \(global) with \(arguments.count) arguments is not understood")
    }
  }

  private mutating func newObject(withKeywords: Bool) throws {
    if withKeywords { _ = try pop() }
    let arguments = try tuple(try pop())
    switch try pop() {
    case .global(.namespace) where arguments.isEmpty && !withKeywords: pushDictionary(.namespace)
    case .global(.other(let name)): stack.append(.object(name))
    default: throw fault("it makes an object of something that is no class")
    }
  }

  /// Sets the state of an object: copies the entries of a namespace, drops that of other classes.
  private mutating func build() throws {
    let state = try pop()
    switch try top() {
    case .tensor, .object: return
    case .dictionary(let number):
      guard case .dictionary(let entries) = state else {
        throw fault("an object's state is no dictionary")
      }
      switch pickle.dictionaries[number].kind {
      case .ordered: return
      case .namespace:
        // Shared data are copied only here; the budget keeps the copies below the size of the
        // pickle.
        copies += pickle.dictionaries[entries].entries.count
        guard copies <= cursor.position else { throw fault("namespaces repeat the same entries") }
        for (key, value) in pickle.dictionaries[entries].entries {
          pickle.dictionaries[number].set(key, value)
        }
      case .plain: throw fault("a plain dictionary is given attributes")
      }
    default: throw fault("something that is no object is given attributes")
    }
  }

  /// Pushes a tensor whose type is the seventh argument.
  private mutating func pushTypedTensor(_ arguments: [PickleValue]) throws(PickleFault) {
    guard arguments.count >= 7 else { throw fault("a tensor has no type") }
    guard case .global(.other(let name)) = arguments[6],
      let dtype = PickleGlobal.typesOverBytes[name]
    else {
      stack.append(.object("a tensor of another type"))
      return
    }
    try pushTensor(arguments, as: dtype)
  }

  private mutating func pushTensor(
    _ arguments: [PickleValue], as dtype: DType? = nil
  ) throws(PickleFault) {
    guard arguments.count >= 6 else { throw fault("a tensor lacks arguments") }
    if case .object(let storage) = arguments[0] {
      stack.append(.object("a tensor of \(storage)"))
      return
    }
    guard case .storage(let storage) = arguments[0], case .integer(let offset) = arguments[1],
      let shape = extents(arguments[2]), let strides = extents(arguments[3]),
      shape.count == strides.count
    else { throw fault("a tensor's storage, offset, shape or strides are malformed") }
    stack.append(.tensor(pickle.tensors.count))
    pickle.tensors.append(
      Pickle.Tensor(
        storage: storage, offset: offset, shape: shape, strides: strides, dtype: dtype))
  }

  private func extents(_ value: PickleValue) -> [Int]? {
    guard case .tuple(let number) = value,
      pickle.sequences[number].count <= SafetensorsHeader.rankLimit
    else { return nil }
    var extents: [Int] = []
    for item in pickle.sequences[number] {
      guard case .integer(let extent) = item else { return nil }
      extents.append(extent)
    }
    return extents
  }

  private mutating func persistentID() throws {
    let parts = try tuple(try pop())
    let expected = form == .archive ? 5 : 6
    // Elements of other types in an archive have members of their own, which nothing reads.
    if form == .archive, parts.count == expected, case .text("storage") = parts[0],
      case .global(.other(let name)) = parts[1]
    {
      stack.append(.object(name))
      return
    }
    guard form != .none, parts.count == expected, case .text("storage") = parts[0],
      case .global(.storage(let dtype)) = parts[1], case .text(let key) = parts[2],
      case .text = parts[3], case .integer(let count) = parts[4]
    else {
      if case .text("module") = parts.first {
        throw fault("it holds a whole module with its source code, expected a state dict")
      }
      throw fault("a persistent id is no storage")
    }
    guard count >= 0 else { throw fault("storage '\(key)' has a negative size") }
    var storage = Pickle.Storage(dtype: dtype, key: key, count: count, viewCount: count)
    if form == .legacy, case .tuple(let number) = parts[5] {
      let view = pickle.sequences[number]
      guard view.count == 3, case .integer(let start) = view[1], case .integer(let size) = view[2],
        start >= 0, size >= 0, start <= count, size <= count - start
      else { throw fault("the view of storage '\(key)' lies outside of it") }
      (storage.viewStart, storage.viewCount) = (start, size)
    }
    if let known = storageNumbers[storage] {
      stack.append(.storage(known))
    } else {
      storageNumbers[storage] = pickle.storages.count
      stack.append(.storage(pickle.storages.count))
      pickle.storages.append(storage)
    }
  }

  // MARK: - The stack

  /// Lowest stack height that instructions may pop to: the last open mark.
  private var floor: Int { marks.last ?? 0 }

  private mutating func pop() throws(PickleFault) -> PickleValue {
    guard stack.count > floor else { throw fault("it takes a value from an empty stack") }
    return stack.removeLast()
  }

  private func top() throws(PickleFault) -> PickleValue {
    guard stack.count > floor else { throw fault("it uses a value of an empty stack") }
    return stack[stack.count - 1]
  }

  /// Pops the values above the last mark and the mark.
  private mutating func popMark() throws(PickleFault) -> [PickleValue] {
    guard let mark = marks.popLast() else { throw fault("a mark is missing") }
    defer { stack.removeLast(stack.count - mark) }
    return Array(stack[mark...])
  }

  private func tuple(_ value: PickleValue) throws(PickleFault) -> [PickleValue] {
    guard case .tuple(let number) = value else { throw fault("arguments are no tuple") }
    return pickle.sequences[number]
  }

  private func fault(_ message: String) -> PickleFault {
    PickleFault(position: opcodeStart, message: message)
  }
}
