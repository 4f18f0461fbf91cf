import Checkpoints
import Datasets
import Files
import Foundation
import TestSupport
import Testing

/// One data set in every form (`Fixtures/make_latents.py`).
@Suite struct LatentFilesTests {
  private let fixtures = URL(filePath: #filePath).deletingLastPathComponent()
    .appending(path: "Fixtures/latents").path

  private func check(_ files: LatentFiles) {
    #expect(files.shape == [2, 3, 3])
    #expect(files.labels == [3, 2, 1, 0])
    for index in 0..<4 {
      var values = [Float](repeating: .nan, count: 18)
      values.withUnsafeMutableBufferPointer { buffer in
        guard let base = buffer.baseAddress else { return }
        files.read(index, into: base)
      }
      let expected = (0..<18).map { element -> Float in
        let (c, y, x) = (Float(element / 9), Float(element / 3 % 3), Float(element % 3))
        return Float(index) + c / 4 + y / 8 - x / 16
      }
      #expect(values == expected, "sample \(index)")
    }
  }

  @Test(arguments: ["npy", "npz", "safetensors", "tar", "npy/latents.npy", "npz/set.npz"])
  func readsEveryForm(name: String) throws {
    #expect(LatentFiles.isPresent(at: "\(fixtures)/\(name)"))
    let files = try LatentFiles.open("\(fixtures)/\(name)")
    check(files)
    let identity = try files.identity(keptIn: NSTemporaryDirectory())
    #expect(try LatentFiles.open("\(fixtures)/\(name)").identity(keptIn: "/nowhere") == identity)
    #expect(files.files.contains { $0.hasSuffix("labels.npy") } == name.hasPrefix("npy"))
  }

  /// Batches of features and labels in two folders, in the order of their numbers.
  @Test func readsFoldersOfFeatures() throws {
    let scratch = try Scratch()
    for kind in ["features", "labels"] {
      try FileManager.default.createDirectory(
        atPath: scratch.file("set_\(kind)"), withIntermediateDirectories: true)
    }
    for number in [0, 2, 10] {
      let value = Float(number)
      try NumpyWriter<Float>.write(
        to: scratch.file("set_features/\(number).npy"), shape: [2, 1, 1, 1]
      ) { try $0?.add([value, value + 0.5]) }
      try NumpyWriter<Float>.write(to: scratch.file("set_labels/\(number).npy"), shape: [2]) {
        try $0?.add([value, value])
      }
    }
    let files = try LatentFiles.open(scratch.path)
    #expect(files.labels == [0, 0, 2, 2, 10, 10] && files.shape == [1, 1, 1])
    var value: Float = 0
    files.read(5, into: &value)
    #expect(value == 10.5)
    #expect(files.place(of: 5) == "sample 1 in \(scratch.file("set_features/10.npy"))")
  }

  /// A sample with a bad value is named by its file and its place in it.
  @Test func placesAreFilesAndSamples() throws {
    let scratch = try Scratch()
    for (name, count) in [("a.safetensors", 3), ("b.safetensors", 2)] {
      var floats = [Float](repeating: 0, count: count * 8)
      if name == "b.safetensors" { floats[8] = .nan }
      try SafetensorsWriter.write(
        [
          .init(name: "latents", shape: [count, 2, 2, 2], floats: floats),
          .init(name: "labels", shape: [count], floats: [Float](repeating: 0, count: count)),
        ], metadata: [:], to: scratch.file(name))
    }
    let dataset = try LatentDataset(LatentFiles.open(scratch.path), cache: scratch.path)
    let reversed = dataset.subset([4, 3, 2, 1, 0], identity: "")
    let batch = DiffusionBatch(
      latents: reversed.latents([1, 0]), noise: reversed.latents([1, 0]), steps: [0, 0],
      labels: [0, 0], samples: [1, 0])
    #expect(
      reversed.fault(in: batch)?.hasPrefix(
        "sample 1 in \(scratch.file("b.safetensors")) of the training data holds values") == true)
  }

  private func refusal(_ path: String) -> String {
    #expect(throws: FileError.self, "\(path)") { try LatentFiles.open(path) }?.message ?? ""
  }

  @Test func refusesWhatCannotBeReadSampleBySample() throws {
    #expect(refusal("\(fixtures)/compressed").contains("is compressed or not in plain"))
    #expect(refusal("\(fixtures)/npz/absent.npz").contains("no such file"))
    #expect(refusal(fixtures).contains("holds no latents"))
    #expect(!LatentFiles.isPresent(at: fixtures))
  }

  private func write(
    _ scratch: Scratch, _ name: String = "a.safetensors", shape: [Int], labels: [Float],
    labelName: String = "labels"
  ) throws -> String {
    try SafetensorsWriter.write(
      [
        .init(
          name: "latents", shape: shape,
          floats: [Float](repeating: 1, count: shape.reduce(1, *))),
        .init(name: labelName, shape: [labels.count], floats: labels),
      ], metadata: [:], to: scratch.file(name))
    return scratch.file(name)
  }

  @Test func refusesArraysThatDoNotFit() throws {
    let scratch = try Scratch()
    let shape = [2, 1, 2, 2]
    #expect(
      refusal(try write(scratch, shape: [2, 4], labels: [0, 1])).contains("has shape [2, 4]"))
    #expect(
      refusal(try write(scratch, shape: shape, labels: [0])).contains("has 1 labels, expected 2"))
    #expect(refusal(try write(scratch, shape: shape, labels: [0, 0.5])).contains("label 1 in"))
    #expect(refusal(try write(scratch, shape: shape, labels: [0, -1])).contains("label 1 in"))
    #expect(
      refusal(try write(scratch, shape: shape, labels: [0, 1], labelName: "y"))
        .contains("has \"latents\" and neither \"labels\" nor \"prompt_embeds\""))
    #expect(refusal(try write(scratch, shape: [0, 1, 2, 2], labels: [])).contains("no samples"))
    _ = try write(scratch, shape: shape, labels: [0, 1])
    _ = try write(scratch, "b.safetensors", shape: [2, 1, 4, 4], labels: [0, 1])
    #expect(refusal(scratch.path).contains("shape [1, 4, 4], those before it [1, 2, 2]"))
  }

  private func shard() throws -> [UInt8] {
    [UInt8](try Data(contentsOf: URL(filePath: "\(fixtures)/tar/split_000000.tar")))
  }

  @Test func refusesDamagedShards() throws {
    let scratch = try Scratch()
    let whole = try shard()
    // Cut anywhere before the closing blocks, which fill the archive up to 10240 bytes.
    let end = try #require(whole.lastIndex { $0 != 0 })
    for count in stride(from: 1, to: end, by: 997) {
      let text = refusal(try scratch.put(whole[..<count], "cut.tar"))
      #expect(text.contains("cut.tar: "), "\(count): \(text)")
    }
    var bent = whole
    bent[3] ^= 1
    #expect(refusal(try scratch.put(bent, "bent.tar")).contains("wrong checksum stands at byte 0"))
    // A flipped bit in a latent's elements, 1 and 15/16, is caught by the ZIP's own checksum.
    let elements: [UInt8] = [0, 0, 0x80, 0x3F, 0, 0, 0x70, 0x3F]
    let place = try #require(whole.indices.first { whole[$0...].starts(with: elements) })
    var flipped = whole
    flipped[place] ^= 4
    #expect(throws: FileError.self) {
      try LatentFiles.open(try scratch.put(flipped, "flipped.tar"))
    }
  }

  @Test func refusesSamplesWithoutLabelAndLinks() throws {
    let scratch = try Scratch()
    func header(_ name: String, size: Int, kind: UInt8) -> [UInt8] {
      var block = [UInt8](repeating: 0, count: 512)
      block.replaceSubrange(0..<name.utf8.count, with: Array(name.utf8))
      let octal = String(size, radix: 8)
      block.replaceSubrange(
        124..<135, with: Array((String(repeating: "0", count: 11 - octal.count) + octal).utf8))
      block[156] = kind
      let sum = String(block.reduce(8 * 0x20) { $0 + Int($1) }, radix: 8)
      block.replaceSubrange(148..<(148 + sum.utf8.count), with: Array(sum.utf8))
      return block
    }
    let end = [UInt8](repeating: 0, count: 1024)
    let lonely = header("00.latent.pth", size: 0, kind: 0x30) + end
    #expect(refusal(try scratch.put(lonely, "a.tar")).contains("sample \"00\" has no label.pth"))
    let link = header("00.latent.pth", size: 0, kind: 0x32) + end
    #expect(refusal(try scratch.put(link, "b.tar")).contains("is a link or a device"))
    let empty = end
    #expect(refusal(try scratch.put(empty, "c.tar")).contains("holds no samples"))
  }
}
