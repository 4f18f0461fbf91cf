/// A value of a pickle.
///
/// Containers are indices into the lists of `Pickle`, so that cycles do not leak and freeing a deep
/// structure does not recurse.
enum PickleValue {
  case none
  case truth(Bool)
  case integer(Int)
  /// An integer beyond 64 bits: its bytes, little-endian.
  case wideInteger([UInt8])
  case number(Double)
  case text(String)
  case tuple(Int)
  case list(Int)
  case dictionary(Int)
  case global(PickleGlobal)
  case storage(Int)
  case tensor(Int)
  /// An object of an unsupported class, represented by the class name; its content is dropped.
  case object(String)
}

/// A global referenced by name; never imported or called.
enum PickleGlobal: Equatable {
  case orderedDictionary
  case namespace
  case set
  case size
  case device
  case encode
  case rebuildTensor
  /// A tensor of a type that has no storage class of its own, over bytes.
  case rebuildTypedTensor
  /// An instance of a subclass of tensors: a maker with its arguments.
  case rebuildSubclass
  case rebuildParameter
  case storage(DType)
  case dtype(String)
  /// A class or function not used by state dicts, whose objects are represented by name.
  case other(String)

  /// Resolves a global; nil for functions that run code or commands, and for storages that PyTorch does not have.
  init?(module: String, name: String) {
    switch (module, name) {
    case ("collections", "OrderedDict"): self = .orderedDictionary
    case ("argparse", "Namespace"): self = .namespace
    case ("builtins", "set"), ("__builtin__", "set"): self = .set
    case ("torch", "Size"): self = .size
    case ("torch", "device"): self = .device
    case ("_codecs", "encode"): self = .encode
    case ("torch._utils", "_rebuild_tensor_v2"): self = .rebuildTensor
    case ("torch._utils", "_rebuild_tensor_v3"): self = .rebuildTypedTensor
    case ("torch._tensor", "_rebuild_from_type_v2"): self = .rebuildSubclass
    case ("torch._utils", "_rebuild_parameter"), ("torch._utils", "_rebuild_parameter_with_state"):
      self = .rebuildParameter
    case ("torch.storage", "UntypedStorage"): self = .storage(.u8)
    case ("torch", _):
      if let dtype = Self.storages[name] {
        self = .storage(dtype)
      } else if Self.dtypes.contains(name) {
        self = .dtype("torch.\(name)")
      } else if name.hasSuffix("Storage"), !Self.otherStorages.contains(name) {
        return nil
      } else {
        self = .other("torch.\(name)")
      }
    case ("builtins", _), ("__builtin__", _):
      guard Self.plainTypes.contains(name) else { return nil }
      self = .other(name)
    // Other kinds of tensors, such as sparse and quantised ones.
    case ("torch._utils", _): self = .other("torch.\(name)")
    default:
      let package = module.prefix { $0 != "." }
      if Self.dangerous.contains(String(package)) || name.hasPrefix("_rebuild_") { return nil }
      self = .other("\(module).\(name)")
    }
  }

  private static let plainTypes: Set<String> = [
    "Ellipsis", "NotImplemented", "bool", "bytearray", "bytes", "complex", "dict", "float",
    "frozenset",
    "int", "list", "long", "object", "range", "slice", "str", "tuple", "unicode", "xrange",
  ]

  private static let dangerous: Set<String> = [
    "asyncio", "code", "codeop", "commands", "ctypes", "distutils", "ensurepip", "idlelib", "imp",
    "importlib", "marshal", "multiprocessing", "nt", "ntpath", "operator", "os", "pdb", "pickle",
    "_pickle",
    "pip", "pkgutil", "posix", "posixpath", "profile", "pty", "pydoc", "runpy", "setuptools",
    "shutil",
    "site", "socket", "subprocess", "sys", "timeit", "trace", "venv", "webbrowser",
  ]

  private static let storages: [String: DType] = [
    "FloatStorage": .f32, "HalfStorage": .f16, "BFloat16Storage": .bf16, "DoubleStorage": .f64,
    "LongStorage": .i64, "IntStorage": .i32, "ShortStorage": .i16, "CharStorage": .i8,
    "ByteStorage": .u8, "BoolStorage": .bool,
  ]

  /// Storages of complex and quantised tensors, which are represented by name.
  private static let otherStorages: Set<String> = [
    "ComplexFloatStorage", "ComplexDoubleStorage", "QInt8Storage", "QUInt8Storage", "QInt32Storage",
    "QUInt4x2Storage", "QUInt2x4Storage",
  ]

  private static let dtypes: Set<String> = [
    "float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool",
  ]

  /// Types of tensors over bytes, by name.
  static let typesOverBytes: [String: DType] = [
    "torch.float8_e4m3fn": .f8e4m3, "torch.float8_e5m2": .f8e5m2, "torch.uint16": .u16,
    "torch.uint32": .u32, "torch.uint64": .u64,
  ]
}

/// The result of reading a pickle.
struct Pickle {
  /// A key of a dictionary.
  enum Key: Hashable {
    case text(String)
    case integer(Int)
    /// A key of another type, by its description.
    case other(String)

    /// Component of a dotted name.
    var name: String {
      switch self {
      case .text(let text), .other(let text): text
      case .integer(let number): String(number)
      }
    }
  }

  /// Python type of a dictionary, which determines the allowed operations.
  enum DictionaryKind {
    case plain
    case ordered
    case namespace
  }

  /// A dictionary in the order of insertion.
  struct Dictionary {
    var kind = DictionaryKind.plain
    private(set) var entries: [(key: Key, value: PickleValue)] = []
    private var places: [Key: Int] = [:]

    init(_ kind: DictionaryKind) { self.kind = kind }

    subscript(key: Key) -> PickleValue? { places[key].map { entries[$0].value } }

    /// Adds or replaces an entry.
    mutating func set(_ key: Key, _ value: PickleValue) {
      if let place = places[key] {
        entries[place].value = value
      } else {
        places[key] = entries.count
        entries.append((key, value))
      }
    }
  }

  /// A storage referenced by a persistent id.
  struct Storage: Hashable {
    let dtype: DType
    let key: String
    /// Number of elements of the storage in the file.
    let count: Int
    /// First element of a view (legacy files only).
    var viewStart = 0
    /// Number of elements of the view; that of the storage without a view.
    var viewCount: Int
  }

  /// A tensor as described by the pickle, not yet checked against its storage.
  struct Tensor {
    let storage: Int
    let offset: Int
    let shape: [Int]
    let strides: [Int]
    /// Type of the elements over a storage of bytes; nil for that of the storage.
    var dtype: DType?
  }

  var root = PickleValue.none
  /// Tuples, lists and sets.
  var sequences: [[PickleValue]] = [[]]
  var dictionaries: [Dictionary] = []
  var storages: [Storage] = []
  var tensors: [Tensor] = []
  /// Offset after the last instruction.
  var end = 0
}

/// Reason for refusing a pickle, and the byte offset.
struct PickleFault: Error {
  let position: Int
  let message: String
}
