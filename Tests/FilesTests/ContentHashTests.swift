import Files
import Foundation
import TestSupport
import Testing

/// Vectors of FIPS 180-4's examples, and lengths around the padding's edges.
@Suite struct ContentHashTests {
  @Test(arguments: [
    ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    (
      "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
    ),
    (
      "abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmno"
        + "ijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
      "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"
    ),
  ])
  func standardVectors(text: String, digest: String) throws {
    #expect(ContentHash.sha256(Data(text.utf8)) == digest)
    let scratch = try Scratch()
    #expect(try ContentHash.sha256(path: try scratch.put(text.utf8)) == digest)
  }

  /// Digests of runs of the letter a, from coreutils' sha256sum.
  @Test(arguments: [
    (55, "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318"),
    (56, "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a"),
    (63, "7d3e74a05d7db15bce4ad9ec0658ea98e3f06eeecf16b4c6fff2da457ddc2f34"),
    (64, "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb"),
    (65, "635361c48bb9eab14198e76ea8ab7f1a41685d6ad62aa9146d301d4f17eb0ae0"),
    (1_000_000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
  ])
  func paddingEdges(count: Int, digest: String) {
    #expect(ContentHash.sha256(Data(repeating: 0x61, count: count)) == digest)
  }

  /// A file longer than one read, so that pieces are joined.
  @Test func filesInPieces() throws {
    let scratch = try Scratch()
    let data = Data((0..<1_100_003).map { UInt8(truncatingIfNeeded: $0 &* 31) })
    let path = try scratch.put(data)
    #expect(try ContentHash.sha256(path: path) == ContentHash.sha256(data))
    #expect(throws: FileError.self) { try ContentHash.sha256(path: scratch.path) }
  }
}
