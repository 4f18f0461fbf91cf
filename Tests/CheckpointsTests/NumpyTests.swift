import Checkpoints
import Files
import Foundation
import TestSupport
import Testing

/// Arrays as NumPy writes them, made by hand.
struct NumpySample: Sendable, CustomStringConvertible {
  let name: String
  let bytes: [UInt8]
  var description: String { name }

  /// A `.npy` file around data bytes.
  static func array(
    _ descr: String, _ shape: String, fortran: Bool = false, version: UInt8 = 1, data: [UInt8]
  ) -> [UInt8] {
    var header =
      "{'descr': '\(descr)', 'fortran_order': \(fortran ? "True" : "False"), 'shape': \(shape), }"
    let prefix = version == 1 ? 10 : 12
    while (prefix + header.utf8.count + 1) % 64 != 0 { header += " " }
    header += "\n"
    var bytes: [UInt8] = [0x93] + Array("NUMPY".utf8) + [version, 0]
    let count = header.utf8.count
    bytes += [UInt8(count & 255), UInt8(count >> 8)] + (version == 1 ? [] : [0, 0])
    return bytes + Array(header.utf8) + data
  }

  /// Archives of numpy 2.4 with arrays `a` = [[0, 1, 2], [3, 4, 5]] float32 and `b` = [7, -1] int64:
  /// np.savez and np.savez_compressed.
  static let stored = Data(base64Encoded: storedText).map { [UInt8]($0) } ?? []
  static let deflated = Data(base64Encoded: deflatedText).map { [UInt8]($0) } ?? []

  static let all = [
    NumpySample(
      name: "matrix.npy",
      bytes: array("<f4", "(2, 3)", data: floats([0, 1, 2, 3, 4, 5]))),
    NumpySample(
      name: "fortran.npy",
      bytes: array(">f2", "(2, 3)", fortran: true, version: 2, data: (0..<12).map { $0 })),
    NumpySample(name: "stored.npz", bytes: stored),
    NumpySample(name: "deflated.npz", bytes: deflated),
  ]

  static func floats(_ values: [Float]) -> [UInt8] {
    values.flatMap { withUnsafeBytes(of: $0.bitPattern.littleEndian) { Array($0) } }
  }
}

@Suite struct NumpyTests {
  private func open(_ bytes: [UInt8], _ name: String = "x.npy") throws -> any TensorFile {
    try Checkpoint.open(try Scratch.kept.put(bytes, UUID().uuidString + name))
  }

  @Test func arraysOfEveryVersionAndOrder() throws {
    for version: UInt8 in 1...3 {
      let file = try open(
        NumpySample.array(
          "<f4", "(2, 3)", version: version, data: NumpySample.floats([0, 1, 2, 3, 4, 5])))
      let name = try #require(file.names.first)
      #expect(file.entry(name)?.shape == [2, 3] && file.entry(name)?.dtype == .f32)
      #expect(try file.floats(name) == [0, 1, 2, 3, 4, 5])
    }
    let fortran = try open(
      NumpySample.array(
        "<f4", "(2, 3)", fortran: true, data: NumpySample.floats([0, 3, 1, 4, 2, 5])))
    #expect(try fortran.floats(fortran.names[0]) == [0, 1, 2, 3, 4, 5])
  }

  @Test(
    arguments: [
      (">i2", "(2,)", [0x01, 0x02, 0xFF, 0xFF], [258, -1]),
      ("<i2", "(2,)", [0x01, 0x02, 0xFF, 0xFF], [513, -1]),
      (">u4", "()", [0, 0, 1, 0], [256]), ("|u1", "(3,)", [1, 2, 255], [1, 2, 255]),
      ("|b1", "(2,)", [1, 0], [1, 0]), ("|i1", "(1L, 2L)", [128, 127], [-128, 127]),
      (">i8", "(1,)", [0, 0, 0, 0, 0, 0, 1, 1], [257]),
    ] as [(String, String, [UInt8], [Int])])
  func integersOfBothByteOrders(descr: String, shape: String, data: [UInt8], values: [Int]) throws {
    let file = try open(NumpySample.array(descr, shape, data: data))
    #expect(try file.integers(file.names[0]) == values)
  }

  @Test func floatsOfBothByteOrders() throws {
    for (descr, data) in [
      ("<f2", [0x00, 0x3C]), (">f2", [0x3C, 0x00]), (">f4", [0x3F, 0x80, 0, 0]),
      ("<f8", [0, 0, 0, 0, 0, 0, 0xF0, 0x3F]), (">f8", [0x3F, 0xF0, 0, 0, 0, 0, 0, 0]),
    ] as [(String, [UInt8])] {
      let file = try open(NumpySample.array(descr, "(1,)", data: data))
      #expect(try file.doubles(file.names[0]) == [1], "\(descr)")
    }
  }

  @Test func archivesStoredAndDeflated() throws {
    for bytes in [NumpySample.stored, NumpySample.deflated] {
      let file = try open(bytes, "x.npz")
      #expect(file.names == ["a", "b"])
      #expect(try file.floats("a") == [0, 1, 2, 3, 4, 5] && file.integers("b") == [7, -1])
      #expect(file.entry("a")?.shape == [2, 3])
    }
  }

  @Test func strangeArraysAreRefused() throws {
    let cases: [(String, String, Int)] = [
      ("|O", "(1,)", 8), ("<c8", "(1,)", 8), ("|f4", "(1,)", 4), ("<f4", "(-1,)", 4),
      ("<f4", "(2,)", 4), ("<f4", "(1,)", 5), ("<f4", "(4611686018427387904, 4)", 0),
    ]
    for (descr, shape, count) in cases {
      let bytes = NumpySample.array(descr, shape, data: [UInt8](repeating: 0, count: count))
      let error = #expect(throws: FileError.self, "\(descr) \(shape)") { try open(bytes) }
      #expect(error?.message.contains(";") ?? false)
    }
  }

  @Test(arguments: [[3, 1, 2, 3], [7], [], [0, 4]])
  func whatIsWrittenIsRead(shape: [Int]) throws {
    let scratch = try Scratch()
    let floats = (0..<shape.reduce(1, *)).map { Float($0) * 0.3 - 1 }
    let bytes = floats.indices.map { UInt8(10 + $0) }
    for isArchive in [false, true] {
      let path = scratch.file("a.npy")
      try NumpyWriter<Float>.write(to: path, shape: shape, isArchive: isArchive) { writer in
        for element in floats { try writer?.add([element]) }
      }
      let file = try Checkpoint.open(path)
      let name = try #require(file.names.first)
      #expect(file.names == [isArchive ? "arr_0" : "a"])
      #expect(file.entry(name)?.shape == shape && file.entry(name)?.dtype == .f32)
      #expect(try file.floats(name) == floats)
      try NumpyWriter<UInt8>.write(to: path, shape: shape, isArchive: isArchive) { writer in
        try writer?.add(bytes)
      }
      let changed = try Checkpoint.open(path)
      #expect(changed.entry(name)?.dtype == .u8)
      #expect(try changed.integers(name) == bytes.map(Int.init))
    }
  }

  @Test(arguments: [false, true])
  func aFailureWhileWritingLeavesNothing(isArchive: Bool) throws {
    struct Interruption: Error {}
    let scratch = try Scratch()
    #expect(throws: Interruption.self) {
      try NumpyWriter<Float>.write(to: scratch.file("a"), shape: [2], isArchive: isArchive) {
        try $0?.add([1])
        throw Interruption()
      }
    }
    #expect(try scratch.listing().isEmpty)
    var hadWriter = true
    try NumpyWriter<Float>.write(to: nil, shape: [2]) { hadWriter = $0 != nil }
    #expect(!hadWriter)
  }
}

private let storedText =
  "UEsDBC0AAAAAAAAAIQBP6QAq//////////8FABQAYS5ucHkBABAAmAAAAAAAAACYAAAAAAAAAJNOVU1QWQEAdgB7"
  + "J2Rlc2NyJzogJzxmNCcsICdmb3J0cmFuX29yZGVyJzogRmFsc2UsICdzaGFwZSc6ICgyLCAzKSwgfSAgICAgICAg"
  + "ICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAKAAAAAAAAgD8AAABAAABA"
  + "QAAAgEAAAKBAUEsDBC0AAAAAAAAAIQDgks68//////////8FABQAYi5ucHkBABAAkAAAAAAAAACQAAAAAAAAAJNO"
  + "VU1QWQEAdgB7J2Rlc2NyJzogJzxpOCcsICdmb3J0cmFuX29yZGVyJzogRmFsc2UsICdzaGFwZSc6ICgyLCksIH0g"
  + "ICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAKBwAAAAAA"
  + "AAD//////////1BLAQItAy0AAAAAAAAAIQBP6QAqmAAAAJgAAAAFAAAAAAAAAAAAAACAAQAAAABhLm5weVBLAQIt"
  + "Ay0AAAAAAAAAIQDgks68kAAAAJAAAAAFAAAAAAAAAAAAAACAAc8AAABiLm5weVBLBQYAAAAAAgACAGYAAACWAQAA"
  + "AAA="

private let deflatedText =
  "UEsDBC0AAAAIAAAAIQBP6QAq//////////8FABQAYS5ucHkBABAAmAAAAAAAAABVAAAAAAAAAJvsF+obEMnIUMZQ"
  + "rZ6SWpxcpG6loG6TZqKuo6Cell9UUpSYF59flJIKEndLzClOBYoXZyQWpAL5GkY6CsaaOgq1CmQDLgYwaLAHEg5A"
  + "BMQNQLzAAQBQSwMELQAAAAgAAAAhAOCSzrz//////////wUAFABiLm5weQEAEACQAAAAAAAAAEoAAAAAAAAAm+wX"
  + "6hsQychQxlCtnpJanFykbqWgbpNpoa6joJ6WX1RSlJgXn1+UkgoSd0vMKU4FihdnJBakAvkaRjqaOgq1ChQALnYG"
  + "CPgPBQBQSwECLQMtAAAACAAAACEAT+kAKlUAAACYAAAABQAAAAAAAAAAAAAAgAEAAAAAYS5ucHlQSwECLQMtAAAA"
  + "CAAAACEA4JLOvEoAAACQAAAABQAAAAAAAAAAAAAAgAGMAAAAYi5ucHlQSwUGAAAAAAIAAgBmAAAADQEAAAAA"
