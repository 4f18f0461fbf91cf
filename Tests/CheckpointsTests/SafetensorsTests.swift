import Checkpoints
import Files
import Foundation
import TestSupport
import Testing

@Suite struct SafetensorsTests {
  let scratch: Scratch

  init() throws { scratch = try Scratch() }

  private func refusal(_ bytes: [UInt8]) throws -> String? {
    let path = try scratch.put(bytes, "bad.safetensors")
    do {
      _ = try SafetensorsFile(path: path)
      return nil
    } catch {
      #expect(error.message.hasPrefix(path))
      #expect(!error.message.contains("\n"))
      return error.message
    }
  }

  @Test func roundTrip() throws {
    let path = scratch.file("model.safetensors")
    let values: [Float] = [1, -2.5, .greatestFiniteMagnitude, .leastNonzeroMagnitude, 0, 7]
    try SafetensorsWriter.write(
      [
        .init(name: "b", shape: [2, 3], floats: values),
        .init(name: "a", shape: [], floats: [0.1]),
        .init(name: "half", shape: [3], dtype: .f16, floats: [1, 65504, 0.1]),
        .init(name: "brain", shape: [4], dtype: .bf16, floats: [1, 3.0e38, 0.1, .nan]),
        .init(name: "nothing", shape: [0, 5], floats: []),
      ], metadata: ["plan": "{\"a\":\n\"ä\u{1}\"}", "format": "pt"], to: path)
    let file = try SafetensorsFile(path: path)
    #expect(file.names == ["a", "b", "nothing", "brain", "half"])
    #expect(file.metadata == ["plan": "{\"a\":\n\"ä\u{1}\"}", "format": "pt"])
    #expect(try file.floats("b") == values)
    #expect(try file.floats("a") == [0.1])
    #expect(try file.doubles("a") == [Double(Float(0.1))])
    #expect(try file.floats("half") == [1, 65504, Float(Float16(0.1))])
    let brain = try file.floats("brain")
    #expect(brain[0] == 1 && brain[2] == 0.10009765625 && brain[3].isNaN)
    #expect(file.entry("nothing")?.shape == [0, 5])
    #expect(file.entry("b")?.byteCount == 24)
    #expect(try scratch.listing() == ["model.safetensors"])
  }

  /// The two files whose bytes the format's own documentation and tests fix.
  @Test func knownBytes() throws {
    let path = scratch.file("x")
    try SafetensorsWriter.write([], metadata: [:], to: path)
    #expect(
      try Data(contentsOf: URL(fileURLWithPath: path)) == Data([8, 0, 0, 0, 0, 0, 0, 0])
        + Data("{}      ".utf8))
    let attention = SafetensorsWriter.Item(
      name: "attn0", shape: [1, 1, 2, 3], floats: [0, 1, 2, 3, 4, 5])
    try SafetensorsWriter.write([attention], metadata: [:], to: path)
    let bytes = try Data(contentsOf: URL(fileURLWithPath: path))
    #expect(bytes.prefix(8) == Data([72, 0, 0, 0, 0, 0, 0, 0]))
    #expect(bytes.count == 8 + 72 + 24)
  }

  @Test func everyElementType() throws {
    let header =
      #"{"u64":{"dtype":"U64","shape":[1],"data_offsets":[0,8]},"#
      + #""i8":{"dtype":"I8","shape":[2],"data_offsets":[8,10]},"#
      + #""i16":{"dtype":"I16","shape":[1],"data_offsets":[10,12]},"#
      + #""e4":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[12,16]},"#
      + #""e5":{"dtype":"F8_E5M2","shape":[2],"data_offsets":[16,18]}}"#
    var bytes = safetensors(header, data: 0)
    bytes += [255, 255, 255, 255, 255, 255, 255, 255]  // u64, larger than Int
    bytes += [0xFF, 0x7F, 0xFE, 0xFF]  // i8: -1, 127; i16: -2
    bytes += [0x38, 0x7E, 0x01, 0x80]  // e4m3: 1, 448, 2^-9, -0
    bytes += [0x3C, 0xC0]  // e5m2: 1, -2
    let file = try SafetensorsFile(path: try scratch.put(bytes))
    #expect(throws: FileError.self) { try file.integers("u64") }
    #expect(try file.doubles("u64") == [0x1p64])
    #expect(try file.integers("i8") == [-1, 127])
    #expect(try file.floats("i8") == [-1, 127])
    #expect(try file.integers("i16") == [-2])
    #expect(try file.floats("e4") == [1, 448, 1.0 / 512, 0])
    #expect(try file.floats("e5") == [1, -2])
    #expect(throws: FileError.self) { try file.integers("e5") }
    #expect(throws: FileError.self) { try file.floats("absent") }
  }

  @Test(arguments: [
    (#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}} x"#, 8, "text follows"),
    (#"[]"#, 0, "must start"),
    (#" {}"#, 0, "must start"),
    (#"{"x":{"dtype":"F32","shape":[2]}}"#, 8, "needs dtype"),
    (#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1}}"#, 8, "unknown field"),
    (#"{"x":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8, "two fields"),
    (#"{"x":{"dtype":"F32","shape":[02],"data_offsets":[0,8]}}"#, 8, "as a number"),
    (#"{"x":{"dtype":"F32","shape":[2e0],"data_offsets":[0,8]}}"#, 8, "whole numbers"),
    (#"{"x":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,8]}}"#, 8, "63 bits"),
    (#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4,8]}}"#, 8, "more than 2"),
    (#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#, 8, "`,` or `}`"),
    (#"{"__metadata__":{"a":1}}"#, 0, "as a string"),
    (#"{"__metadata__":{"a":"1","a":"2"}}"#, 0, "appears twice"),
    (#"{"\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8, "surrogate"),
    (#"{"\u12g4":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8, "escape"),
  ])
  func badHeader(header: String, data: Int, says: String) throws {
    let message = try refusal(safetensors(header, data: data))
    #expect(message?.contains(says) == true, "\(message ?? "accepted")")
  }

  @Test func escapesInNames() throws {
    let header = #"{"\u00e9\ud83d\ude00\n\/":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#
    let file = try SafetensorsFile(path: try scratch.put(safetensors(header, data: 1)))
    #expect(file.names == ["é😀\n/"])
  }

  private func sample() throws -> [UInt8] {
    let path = scratch.file("sample")
    try SafetensorsWriter.write(
      [
        .init(name: "w", shape: [2, 2], floats: [1, 2, 3, 4]),
        .init(name: "b", shape: [2], dtype: .bf16, floats: [5, 6]),
      ], metadata: ["k": "v"], to: path)
    return Array(try Data(contentsOf: URL(fileURLWithPath: path)))
  }

  @Test func everyTruncationIsRefused() throws {
    let whole = try sample()
    for count in 0..<whole.count {
      #expect(try refusal(Array(whole[..<count])) != nil, "accepted \(count) bytes")
    }
    #expect(try refusal(whole) == nil)
  }

  /// Whatever one byte becomes, the file is either refused or fully readable.
  @Test func everySingleByteCorruptionIsHandled() throws {
    let whole = try sample()
    let headerEnd = whole.count - 20
    let path = try scratch.put(whole, "corrupt")
    let descriptor = open(path, O_WRONLY | O_CLOEXEC)
    defer { close(descriptor) }
    var refused = 0
    var accepted = 0
    for index in whole.indices {
      for value in stride(from: UInt8(0), through: 255, by: index < headerEnd ? 1 : 51) {
        var byte = value
        try #require(pwrite(descriptor, &byte, 1, off_t(index)) == 1)
        do {
          let file = try SafetensorsFile(path: path)
          for name in file.names { _ = try file.floats(name) }
          accepted += 1
        } catch {
          refused += 1
          if index >= headerEnd { Issue.record("data byte \(index) must not matter: \(error)") }
        }
      }
      var original = whole[index]
      try #require(pwrite(descriptor, &original, 1, off_t(index)) == 1)
    }
    #expect(refused > headerEnd * 100)
    #expect(accepted >= whole.count)
  }

  @Test func unreadablePaths() throws {
    let missing = scratch.file("missing")
    let absent = #expect(throws: FileError.self) { try SafetensorsFile(path: missing) }
    #expect(absent?.message == "\(missing): no such file; check the path")
    let folder = #expect(throws: FileError.self) { try SafetensorsFile(path: scratch.path) }
    #expect(folder?.message.contains("is a directory") == true)
    let device = #expect(throws: FileError.self) { try SafetensorsFile(path: "/dev/null") }
    #expect(device?.message.contains("not a regular file") == true)
  }
}
