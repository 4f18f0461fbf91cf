import Checkpoints
import Files
import Foundation
import TestSupport
import Testing

/// Bytes of a `GraphDef`, written by hand.
enum GraphBytes {
  static func varint(_ value: Int) -> [UInt8] {
    var (rest, bytes) = (UInt64(value), [UInt8]())
    repeat {
      bytes.append(UInt8(rest & 0x7F) | (rest > 0x7F ? 0x80 : 0))
      rest >>= 7
    } while rest > 0
    return bytes
  }

  static func field(_ number: Int, _ bytes: [UInt8]) -> [UInt8] {
    varint(number << 3 | 2) + varint(bytes.count) + bytes
  }

  static func number(_ number: Int, _ value: Int) -> [UInt8] { varint(number << 3) + varint(value) }

  static func floats(_ values: [Float]) -> [UInt8] { values.withUnsafeBytes(Array.init) }

  /// A node with the attributes of a constant: its type, which is skipped, and its value.
  static func node(_ name: String, op: String = "Const", tensor: [UInt8]) -> [UInt8] {
    func attribute(_ key: String, _ value: [UInt8]) -> [UInt8] {
      field(5, field(1, Array(key.utf8)) + field(2, value))
    }
    return field(
      1,
      field(1, Array(name.utf8)) + field(2, Array(op.utf8)) + field(4, Array("/cpu:0".utf8))
        + attribute("dtype", number(6, 1)) + attribute("value", field(8, tensor)))
  }

  static func tensor(_ shape: [Int], content: [Float], dtype: Int = 1) -> [UInt8] {
    number(1, dtype) + field(2, shape.flatMap { field(2, number(1, $0)) })
      + field(4, floats(content))
  }

  static func tensor(_ shape: [Int], listed: [Float], isPacked: Bool) -> [UInt8] {
    let values =
      isPacked
      ? field(5, floats(listed)) : listed.flatMap { varint(5 << 3 | 5) + floats([$0]) }
    return number(1, 1) + field(2, shape.flatMap { field(2, number(1, $0)) }) + values
  }

  /// The first convolution of Inception v3 in small: a kernel of 1 x 2 for three inputs and two outputs.
  static let kernel = (0..<12).map { Float($0) }
  static let graph: [UInt8] =
    node("conv/conv2d_params", tensor: tensor([1, 2, 3, 2], content: kernel))
    + node("conv/batchnorm/beta", tensor: tensor([2], listed: [0.5, -1], isPacked: true))
    + node("conv/batchnorm/gamma", tensor: tensor([2], listed: [3], isPacked: false))
    + node("conv/Conv2D", op: "Conv2D", tensor: []) + field(4, number(1, 22))
}

/// Frozen TensorFlow graphs as sources of weights.
@Suite struct FrozenGraphTests {
  @Test func constantsAreReadAndPermuted() throws {
    let scratch = try Scratch()
    let file = try Checkpoint.open(try scratch.put(GraphBytes.graph, "graph.pb"))
    #expect(file.names == ["conv/conv2d_params", "conv/batchnorm/beta", "conv/batchnorm/gamma"])
    #expect(try file.floats("conv/batchnorm/beta") == [0.5, -1])
    // One listed value stands for all.
    #expect(try file.floats("conv/batchnorm/gamma") == [3, 3])
    let graph = try #require(file as? FrozenGraph)
    let view = try graph.aliased([
      "a.conv.weight": .init("conv/conv2d_params", axes: [3, 2, 0, 1]),
      "a.bn.weight": .init("conv/batchnorm/gamma", axes: [0]),
    ])
    #expect(view.names == ["a.bn.weight", "a.conv.weight"])
    #expect(view.entry("a.conv.weight")?.shape == [2, 3, 1, 2])
    // Height, width, inputs, outputs become outputs, inputs, height, width.
    let expected = (0..<2).flatMap { output in
      (0..<3).flatMap { input in (0..<2).map { GraphBytes.kernel[($0 * 3 + input) * 2 + output] } }
    }
    #expect(try view.floats("a.conv.weight") == expected)
    #expect(try view.floats("a.bn.weight") == [3, 3])
  }

  @Test func refusalsNameTheConstant() throws {
    let scratch = try Scratch()
    let path = try scratch.put(GraphBytes.graph, "graph.pb")
    let graph = try #require(try Checkpoint.open(path) as? FrozenGraph)
    for (node, axes, mention) in [
      (
        "conv_1/conv2d_params", [3, 2, 0, 1],
        "'conv_1/conv2d_params' with 4 axes among its 3, found none"
      ),
      ("conv/batchnorm/beta", [1, 0], "'conv/batchnorm/beta' with 2 axes"),
    ] {
      let error = #expect(throws: FileError.self) {
        try graph.aliased(["x": .init(node, axes: axes)])
      }
      #expect(error?.message.hasPrefix(path) == true && error?.message.contains(mention) == true)
      #expect(error?.message.contains("classify_image_graph_def.pb") == true)
    }
    func refusal(_ bytes: [UInt8]) throws -> String {
      let path = try scratch.put(bytes, "bad.pb")
      return #expect(throws: FileError.self) { try Checkpoint.open(path) }?.message ?? ""
    }
    let short = GraphBytes.tensor([2, 3], content: [1, 2])
    #expect(
      try refusal(GraphBytes.node("a", tensor: short)).contains(
        "gives \"a\" of shape [2, 3] 8 bytes, expected 24"))
    let huge = GraphBytes.tensor([1 << 31, 1 << 31, 4], content: [1])
    #expect(try refusal(GraphBytes.node("a", tensor: huge)).contains("\"a\""))
    let repeated = GraphBytes.tensor([1 << 20], listed: [1], isPacked: true)
    #expect(
      try refusal(GraphBytes.node("a", tensor: repeated)).contains("1 values, expected 1048576"))
    let twice = GraphBytes.node("a", tensor: GraphBytes.tensor([1], content: [1]))
    #expect(try refusal(twice + twice).contains("names two constants \"a\""))
    #expect(try refusal(GraphBytes.field(1, [])).contains("holds no constants"))
    #expect(try refusal([0x0A, 0x7F, 1]).contains("ends inside a message"))
    #expect(try refusal([0x0A, 2, 0x0B, 0]).contains("a field of an unknown kind"))
  }

  /// Whatever a byte is changed to, opening ends with constants that fit or with one sentence.
  @Test func damagedGraphsNeverCrash() throws {
    let scratch = try Scratch()
    for place in GraphBytes.graph.indices {
      for other: UInt8 in [0, 1, 0x7F, 0x80, 0xFF] {
        var bytes = GraphBytes.graph
        bytes[place] = other
        let path = try scratch.put(bytes, "graph.pb")
        do throws(FileError) {
          let file = try Checkpoint.open(path)
          for name in file.names { #expect(try file.floats(name).count <= 4096) }
        } catch {
          #expect(!error.message.contains("\n"))
        }
      }
    }
  }
}
