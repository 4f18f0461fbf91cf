import Checkpoints
import Files
import Foundation
import TestSupport
import Testing

/// Pickles as others write them and as nobody should: foreign objects, and more values than a checkpoint has.
@Suite struct PickleTests {
  private let scratch = Scratch.kept

  /// Opens an archive of `torch.save` with this pickle and one storage of four float32 elements.
  private func open(_ pickle: [UInt8]) throws -> any TensorFile {
    let path = scratch.file("\(UUID().uuidString).pt")
    let members = [("data.pkl", [0x80, 2] + pickle), ("data/0", [UInt8](repeating: 0, count: 16))]
    try AtomicFile.stream(to: path) { sink throws(FileError) in
      var archive = ZipWriter(sink)
      for (name, bytes) in members {
        try archive.member("archive/\(name)", size: bytes.count) { append throws(FileError) in
          try bytes.withUnsafeBytes { bytes in
            Result { () throws(FileError) in try append(bytes) }
          }.get()
        }
      }
      try archive.finish()
    }
    return try Checkpoint.open(path)
  }

  private func text(_ text: String) -> [UInt8] {
    [0x58] + withUnsafeBytes(of: UInt32(text.utf8.count).littleEndian, Array.init)
      + Array(text.utf8)
  }

  private func global(_ module: String, _ name: String) -> [UInt8] {
    Array("c\(module)\n\(name)\n".utf8)
  }

  /// A tensor of four elements.
  private var tensor: [UInt8] {
    let id =
      text("storage") + global("torch", "FloatStorage") + text("0") + text("cpu") + [0x4B, 4]
    return global("torch._utils", "_rebuild_tensor_v2") + Array("((".utf8) + id
      + [0x74, 0x51, 0x4B, 0, 0x4B, 4, 0x85, 0x4B, 1, 0x85, 0x89]
      + global("collections", "OrderedDict") + [0x29, 0x52, 0x74, 0x52]
  }

  private func dictionary(_ entries: [(String, [UInt8])]) -> [UInt8] {
    Array("}(".utf8) + entries.flatMap { text($0) + $1 } + Array("u.".utf8)
  }

  /// A counter, a NumPy number, a path, an object with a state and one with items.
  @Test func foreignObjectsAreKnownByName() throws {
    let number =
      global("numpy._core.multiarray", "scalar") + global("numpy", "dtype")
      + Array("(".utf8) + text("f8") + [0x89, 0x88, 0x74, 0x52]
      + Array("(K\u{3}".utf8) + text("<") + Array("NNNJ".utf8) + [0xFF, 0xFF, 0xFF, 0xFF]
      + Array("K\u{0}tb".utf8) + global("_codecs", "encode") + text("12345678") + text("latin1")
      + [0x86, 0x52, 0x86, 0x52]
    let file = try open(
      dictionary([
        (
          "counter",
          global("collections", "Counter") + Array("}(K\u{1}K\u{2}u".utf8) + [0x85, 0x52]
        ),
        ("number", number),
        ("path", global("pathlib", "PosixPath") + text("/") + text("data") + [0x86, 0x52]),
        (
          "config",
          global("omegaconf.dictconfig", "DictConfig") + [0x29, 0x81]
            + Array("}".utf8) + text("lr") + Array("K\u{1}sb".utf8)
        ),
        (
          "factory",
          global("collections", "defaultdict") + [0x29, 0x52] + text("a") + [0x4B, 1, 0x73]
        ),
        ("bytes", [0x43, 3, 1, 2, 3]),
        ("weight", tensor),
      ]))
    #expect(file.names == ["weight"] && file.entry("weight")?.shape == [4])
    #expect(
      file.values == [
        "counter": .object("collections.Counter"), "path": .object("pathlib.PosixPath"),
        "number": .object("numpy._core.multiarray.scalar"), "bytes": .object("bytes"),
        "config": .object("omegaconf.dictconfig.DictConfig"),
        "factory": .object("collections.defaultdict"),
      ])
  }

  /// Keys that are no text, sets of protocol 4, ranges, wide numbers and tensors of other kinds beside the weights.
  @Test func keysAndValuesOfOtherTypes() throws {
    func wide(_ count: UInt8) -> [UInt8] {
      [0x8A, count] + [UInt8](repeating: 1, count: Int(count))
    }
    let file = try open(
      dictionary([
        (
          "keys",
          Array("}(".utf8) + text("a") + [0x4B, 1, 0x86, 0x4B, 3] + [0x88, 0x4B, 4]
            + global("torch", "float16") + [0x4B, 5, 0x4E, 0x4B, 6]
            + global("enum", "Color") + [0x4B, 1, 0x85, 0x52, 0x4B, 7] + Array("u".utf8)
        ),
        ("frozen", Array("(K\u{1}".utf8) + [0x91]),
        ("range", global("__builtin__", "xrange") + [0x4B, 1, 0x85, 0x52]),
        ("ellipsis", global("builtins", "Ellipsis")), ("wide", wide(9)),
        (
          "sparse",
          global("torch._utils", "_rebuild_sparse_tensor") + global("torch", "sparse_coo")
            + [0x29, 0x86, 0x52]
        ),
        ("array", [0x96, 2, 0, 0, 0, 0, 0, 0, 0, 7, 7]), ("weight", tensor),
      ]))
    #expect(file.names == ["weight"])
    #expect(
      file.values.filter { !$0.key.hasPrefix("keys.enum.Color at") } == [
        "keys.('a', 1)": .integer(3), "keys.True": .integer(4), "keys.torch.float16": .integer(5),
        "keys.None": .integer(6), "frozen.0": .integer(1), "range": .object("xrange"),
        "ellipsis": .text("Ellipsis"), "wide": .text("a whole number of 9 bytes"),
        "sparse": .object("torch._rebuild_sparse_tensor"), "array": .object("bytes"),
      ])
    #expect(file.values.values.contains(.integer(7)))
  }

  /// Types without a storage class of their own, over bytes, and tensors that are parameters or of a subclass; what
  /// cannot be read as numbers beside the weights is known by name.
  @Test func tensorsOfOtherMakers() throws {
    func id(_ storage: [UInt8], _ count: UInt8) -> [UInt8] {
      Array("(".utf8) + text("storage") + storage + text("0") + text("cpu") + [
        0x4B, count, 0x74, 0x51,
      ]
    }
    func arguments(_ id: [UInt8], _ count: UInt8, _ more: [UInt8] = []) -> [UInt8] {
      Array("(".utf8) + id + [0x4B, 0, 0x4B, count, 0x85, 0x4B, 1, 0x85, 0x89]
        + global("collections", "OrderedDict") + [0x29, 0x52] + more + [0x74]
    }
    let bytes = id(global("torch.storage", "UntypedStorage"), 16)
    func typed(_ name: String, _ count: UInt8) -> [UInt8] {
      global("torch._utils", "_rebuild_tensor_v3")
        + arguments(bytes, count, global("torch", name)) + [0x52]
    }
    let subclass =
      global("torch._tensor", "_rebuild_from_type_v2") + Array("(".utf8)
      + global("torch._utils", "_rebuild_tensor_v2") + global("models", "Named")
      + arguments(id(global("torch", "FloatStorage"), 4), 4) + [0x7D, 0x74, 0x52]
    let parameter =
      global("torch._utils", "_rebuild_parameter_with_state") + Array("(".utf8) + tensor
      + [0x88] + global("collections", "OrderedDict") + [0x29, 0x52, 0x7D, 0x74, 0x52]
    let complex =
      global("torch._utils", "_rebuild_tensor_v2")
      + arguments(id(global("torch", "ComplexFloatStorage"), 2), 2) + [0x52]
    let file = try open(
      dictionary([
        ("f8", typed("float8_e4m3fn", 16)), ("u16", typed("uint16", 8)), ("named", subclass),
        ("parameter", parameter), ("complex", complex), ("other", typed("float4_e2m1fn_x2", 16)),
        ("quantised", global("torch._utils", "_rebuild_qtensor") + [0x29, 0x52]),
      ]))
    #expect(file.names == ["f8", "u16", "named", "parameter"])
    #expect(file.entry("f8")?.dtype == .f8e4m3 && file.entry("f8")?.shape == [16])
    #expect(file.entry("u16")?.dtype == .u16 && file.entry("named")?.dtype == .f32)
    #expect(try file.floats("named") == file.floats("parameter"))
    #expect(
      file.values == [
        "complex": .object("a tensor of torch.ComplexFloatStorage"),
        "other": .object("a tensor of another type"),
        "quantised": .object("torch._rebuild_qtensor"),
      ])
    let beyond = #expect(throws: FileError.self) {
      try open(dictionary([("u16", typed("uint16", 9))]))
    }
    #expect(beyond?.message.contains("reaches beyond the 8 elements") == true)
  }

  /// Weights of a model that are no dense tensors, or have no names, are refused where they are needed alone.
  @Test func weightsThatAreNoTensors() throws {
    let array = global("numpy._core.multiarray", "_reconstruct") + [0x29, 0x52]
    let anchors = ["a.weight"]
    func refusal(_ entries: [(String, [UInt8])]) throws -> String? {
      let file = try open(dictionary(entries))
      return #expect(throws: FileError.self) { try StateDict(file, anchors: anchors) }?.message
    }
    #expect(
      try refusal([("model.a.weight", array), ("step", [0x4B, 1])])?.contains(
        "'model.a.weight' is numpy._core.multiarray._reconstruct, expected a dense tensor") == true)
    #expect(
      try refusal([("net.a.weight", tensor), ("net.a.bias", array)])?.contains("'net.a.bias' is")
        == true)
    let list = Array("](".utf8) + tensor + Array("e".utf8)
    #expect(
      try refusal([("shadow_params", list)])?.contains("averages without names") == true)
    let beside = try open(
      dictionary([("net.a.weight", tensor), ("opt.a.bias", array), ("net.seed", array)]))
    #expect(try StateDict(beside, anchors: anchors).names == ["a.weight"])
  }

  /// Weights that are an object are not passed over in silence for others.
  @Test func anObjectInPlaceOfWeightsIsNamed() throws {
    let module = global("models", "DiT") + [0x29, 0x81, 0x7D, 0x62]
    let weights = Array("}".utf8) + text("w") + tensor + [0x73]
    let file = try open(dictionary([("model", weights), ("ema", module)]))
    let error = #expect(throws: FileError.self) { try StateDict(file) }
    #expect(error?.message.contains("'ema' is an object of class models.DiT") == true)
    #expect(try StateDict(file, container: "model").names == ["w"])
    let whole = #expect(throws: FileError.self) { try open(module + [0x2E]) }
    #expect(whole?.message.contains("an object of class 'models.DiT'") == true)
  }

  @Test(arguments: [
    ("os", "system"), ("subprocess", "Popen"), ("builtins", "exec"), ("torch", "OddStorage"),
    ("torch.package", "_rebuild_module"),
  ])
  func dangerousNamesAreRefused(module: String, name: String) throws {
    let error = #expect(throws: FileError.self) {
      try open(dictionary([("a", global(module, name))]))
    }
    #expect(error?.message.contains("refers to '\(module).\(name)'") == true)
  }

  /// Each would take gigabytes or minutes if it were read to its end.
  @Test(arguments: [
    "containers", "instructions", "memo", "keys", "visits", "names", "size",
  ])
  func excessIsRefused(kind: String) throws {
    let pickle: [UInt8]
    switch kind {
    case "containers": pickle = [0x7D, 0x28] + [UInt8](repeating: 0x5D, count: 1 << 19)
    case "instructions": pickle = [UInt8](repeating: 0x28, count: 5 << 20)
    case "memo":
      pickle =
        [0x7D]
        + (0..<UInt32(1 << 20)).flatMap { number in
          [0x72] + withUnsafeBytes(of: number.littleEndian, Array.init)
        }
    case "keys":
      // Tuples of eight references to the one before; the last is the key of ten thousand entries.
      var nested: [UInt8] = Array("(".utf8) + text("a text") + [0x71, 0]
      for level: UInt8 in 1...5 {
        nested.append(0x28)
        for _ in 0..<8 { nested += [0x68, level - 1] }
        nested += [0x74, 0x71, level]
      }
      nested += Array("t}(".utf8)
      for _ in 0..<10_000 { nested += [0x68, 4, 0x4E] }
      pickle = nested + Array("u.".utf8)
    case "visits", "names":
      // A list of a thousand numbers, shared a thousand times.
      let inner = Array("(]q\u{1}(".utf8) + [UInt8](repeating: 0x4E, count: 1000) + [0x65]
      let outer = (0..<1000).flatMap { _ in Array("h\u{1}".utf8) }
      let key = kind == "names" ? String(repeating: "k", count: 900) : "k"
      pickle =
        Array("}(".utf8) + text(key) + [0x5D] + inner.dropFirst() + [0x61]
        + Array("(".utf8) + outer + Array("eu.".utf8)
    default: pickle = [UInt8](repeating: 0x4E, count: (16 << 20) + 1)
    }
    let error = #expect(throws: FileError.self) { try open(pickle) }
    let reason =
      kind == "size"
      ? "its pickle has"
      : kind == "visits" || kind == "names"
        ? "more entries or longer names" : "more values than any checkpoint"
    #expect(error?.message.contains(reason) == true, "\(error?.message ?? "opened")")
  }
}
