import Checkpoints
import Files
import Foundation
import TestSupport
import Testing

@Suite struct TorchWriterTests {
  private let items = [
    TensorItem(name: "blocks.0.attn.qkv.weight", shape: [2, 3], floats: [0, -1, 2.5, 3, 4, 1e9]),
    TensorItem(name: "scalar", shape: [], dtype: .f16, floats: [0.5]),
    TensorItem(name: "empty", shape: [0, 4], floats: []),
    TensorItem(name: "brain", shape: [3], dtype: .bf16, floats: [1, -2, 0.10009765625]),
  ]

  @Test(arguments: [0xFFFF_FFFF, 60, 1])
  func whatIsWrittenIsRead(zip64Limit: Int) throws {
    let scratch = try Scratch()
    let path = scratch.file("model.v1.pt")
    try TorchWriter.write(items, to: path, zip64Limit: zip64Limit)
    let file = try Checkpoint.open(path)
    #expect(file.names == items.map(\.name))
    for (item, values) in zip(
      items, [[0, -1, 2.5, 3, 4, 1e9], [0.5], [], [1, -2, 0.10009765625]] as [[Float]])
    {
      let entry = try #require(file.entry(item.name))
      #expect(entry.shape == item.shape && entry.dtype == item.dtype)
      #expect(try file.floats(item.name) == values)
    }
    #expect(try scratch.listing() == ["model.v1.pt"])
  }

  /// A state dict may stand under an entry, as in training checkpoints.
  @Test func entriesAreNested() throws {
    let scratch = try Scratch()
    let path = scratch.file("model.pt")
    try TorchWriter.write(items, entry: "ema", to: path)
    let file = try Checkpoint.open(path)
    #expect(file.names == items.map { "ema.\($0.name)" })
    let dict = try StateDict(file)
    #expect(dict.container == "ema" && dict.names == items.map(\.name))
  }

  /// Data start at multiples of 64 bytes, so that PyTorch can map them.
  @Test func dataAreAligned() throws {
    let scratch = try Scratch()
    let path = scratch.file("a.pt")
    let marks = (0..<5).map { Float(1000 + $0) }
    try TorchWriter.write(
      marks.enumerated().map { index, mark in
        TensorItem(
          name: "t\(index)", shape: [index + 1],
          floats: [mark] + [Float](repeating: 0, count: index))
      }, to: path)
    let bytes = [UInt8](try Data(contentsOf: URL(filePath: path)))
    for mark in marks {
      let pattern = withUnsafeBytes(of: mark.bitPattern.littleEndian) { Array($0) }
      let places = stride(from: 0, to: bytes.count - 4, by: 64).filter {
        Array(bytes[$0..<$0 + 4]) == pattern
      }
      #expect(places.count == 1)
    }
  }

  @Test func aFailureLeavesNothing() throws {
    let scratch = try Scratch()
    let bad = TensorItem(name: "b", shape: [1]) { () throws(FileError) in
      throw FileError("x: gone; look")
    }
    #expect(throws: FileError.self) {
      try TorchWriter.write(items + [bad], to: scratch.file("a.pt"))
    }
    #expect(try scratch.listing().isEmpty)
  }
}
