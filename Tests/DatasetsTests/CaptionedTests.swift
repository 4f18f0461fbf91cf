import Checkpoints
import Datasets
import Files
import Foundation
import Models
import Pictures
import Sampling
import TensorCore
import TestSupport
import Testing

/// Images with captions in every form that is read, and what they become.
@MainActor @Suite("Captioned data")
struct CaptionedTests {
  private static let texts = [
    "a": "A red Square", "b/c": "two dogs", "d": "a small house by a lake",
  ]

  private func picture(_ shade: UInt8) -> RGBImage {
    var image = RGBImage(width: 20, height: 16)
    for index in image.pixels.indices {
      image.pixels[index] = UInt8(truncatingIfNeeded: Int(shade) + 3 * index)
    }
    return image
  }

  /// A tar of members in ustar's format.
  private func tar(_ members: [(String, [UInt8])]) -> [UInt8] {
    members.flatMap { name, content -> [UInt8] in
      var header = [UInt8](repeating: 0, count: 512)
      func put(_ text: String, _ place: Int) {
        for (index, byte) in text.utf8.enumerated() { header[place + index] = byte }
      }
      put(name, 0)
      put("0000644", 100)
      put(String(format: "%011o", content.count), 124)
      put("        ", 148)
      put("0", 156)
      put("ustar", 257)
      put(String(format: "%06o", header.reduce(0) { $0 + Int($1) }), 148)
      return header + content + [UInt8](repeating: 0, count: (512 - content.count % 512) % 512)
    } + [UInt8](repeating: 0, count: 1024)
  }

  private func item(_ name: String, _ tensor: Tensor) -> TensorItem {
    TensorItem(name: name, shape: tensor.shape, floats: tensor.values)
  }

  private enum Form: String, CaseIterable {
    case folder, lines, array, list, shards
  }

  /// Writes the images and captions in a form; the path to open.
  private func make(_ form: Form, in scratch: Scratch) throws -> String {
    let manager = FileManager.default
    let root = scratch.file(form.rawValue)
    try manager.createDirectory(atPath: root + "/b", withIntermediateDirectories: true)
    let names = Self.texts.keys.sorted()
    for (index, name) in names.enumerated() {
      try picture(UInt8(40 * index)).write(to: "\(root)/\(name).png")
    }
    func lines(_ key: String, _ text: String) throws -> [String] {
      try names.map { name in
        String(
          decoding: try JSONSerialization.data(withJSONObject: [
            key: "\(name).png", text: Self.texts[name] ?? "",
          ]), as: UTF8.self)
      }
    }
    switch form {
    case .folder:
      for name in names {
        try Data("  \(Self.texts[name] ?? "")\n".utf8).write(
          to: URL(filePath: "\(root)/\(name).txt"))
      }
      // An image without a caption is left out.
      try picture(9).write(to: "\(root)/z.png")
      return root
    case .lines:
      let text = try lines("file_name", "text").joined(separator: "\n\n") + "\n"
      try Data(text.utf8).write(to: URL(filePath: "\(root)/metadata.jsonl"))
      return root
    case .list:
      let text = try lines("path", "prompt").joined(separator: "\n")
      try Data(text.utf8).write(to: URL(filePath: "\(root)/captions.jsonl"))
      return "\(root)/captions.jsonl"
    case .array:
      let text = try "[" + lines("image", "caption").joined(separator: ",") + "]"
      try Data(text.utf8).write(to: URL(filePath: "\(root)/list.json"))
      return "\(root)/list.json"
    case .shards:
      var members: [(String, [UInt8])] = []
      for (index, name) in names.enumerated() {
        let bytes = try AtomicFile.read("\(root)/\(name).png", limit: 1 << 20)
        let text = Self.texts[name] ?? ""
        members.append(("\(name).png", bytes))
        // Captions as text and as JSON, before or behind their image.
        members.append(
          index == 0
            ? ("\(name).txt", Array(text.utf8))
            : ("\(name).json", Array(#"{"caption": "\#(text)"}"#.utf8)))
      }
      members.append(("lonely.png", members[0].1))
      try Data(tar(Array(members[..<4]))).write(to: URL(filePath: "\(root)/00.tar"))
      try Data(tar(Array(members[4...]))).write(to: URL(filePath: "\(root)/01.tar"))
      for name in names { try manager.removeItem(atPath: "\(root)/\(name).png") }
      return root
    }
  }

  @Test func everyFormIsRead() throws {
    let scratch = try Scratch()
    for form in Form.allCases {
      let path = try make(form, in: scratch)
      #expect(CaptionedImages.isPresent(at: path), "\(form)")
      let images = try CaptionedImages(path: path)
      #expect(
        Dictionary(uniqueKeysWithValues: images.items.map { ($0.name, $0.text) })
          == Dictionary(uniqueKeysWithValues: Self.texts.map { ("\($0.key).png", $0.value) }),
        "\(form)")
      for item in images.items {
        let image = try images.image(item, size: 8)
        #expect(image.width == 8 && image.height == 8)
      }
      let left = images.ignored.map { $0.split(separator: "/").last ?? "" }
      switch form {
      case .folder: #expect(left == ["z.png: has no caption 'z.txt'"])
      case .shards: #expect(left == ["lonely.png: has no caption 'lonely.txt'"])
      default: #expect(left.isEmpty)
      }
      // The digest follows captions and images.
      let identity = try images.identity(keptIn: scratch.path)
      #expect(try images.identity(keptIn: scratch.path) == identity)
    }
  }

  @Test func whatIsWrongIsNamed() throws {
    let scratch = try Scratch()
    func error(_ path: String) -> String {
      (#expect(throws: FileError.self) { try CaptionedImages(path: path) })?.description ?? ""
    }
    let list = try scratch.put(Array(#"{"file_name": "a.png"}"#.utf8), "x.jsonl")
    #expect(error(list).contains("line 1 names no image and caption"))
    let broken = try scratch.put(
      Array("{\"file_name\": \"a.png\", \"text\": \"b\"}\n{".utf8), "y.jsonl")
    #expect(error(broken).contains("line 2 is no JSON object"))
    let array = try scratch.put(Array("[1]".utf8), "z.json")
    #expect(error(array).contains("entry 0 names no image and caption"))
    try FileManager.default.createDirectory(
      atPath: scratch.file("empty"), withIntermediateDirectories: true)
    #expect(error(scratch.file("empty")).contains("holds no images with captions"))
    let tar = try scratch.put(tar([("a.png", [1, 2, 3])]), "t.tar")
    #expect(error(tar).contains("holds no images with captions"))
  }

  /// Images in any form and their embeddings become the same latents and captions.
  @Test(.enabled(if: Goldens.areAvailable))
  func everyFormIsEncoded() throws {
    let scratch = try Scratch()
    let files = try ModelFiles("\(Goldens.directory)/pixart_pipeline/model")
    let prompts = try files.promptEmbeddings(.float32)
    let autoencoder = try files.autoencoder(.float32)
    func encoded(_ form: Form) throws -> LatentDataset {
      let images = try CaptionedImages(path: make(form, in: scratch))
      return try LatentDataset.encoding(
        images, size: 32, flip: false, autoencoder: (autoencoder, "x"), prompts: prompts,
        cache: scratch.path
      ).dataset
    }
    let one = try encoded(.folder)
    #expect(
      one.count == 3
        && one.shape == [
          4, 32 / autoencoder.config.spatialFactor, 32 / autoencoder.config.spatialFactor,
        ])
    let expected = try prompts.captions(["A red Square", "two dogs", "a small house by a lake"])
    let texts = try #require(one.texts).captions([0, 1, 2])
    #expect(texts.mask.values == expected.selecting([0, 1, 2], length: texts.length).mask.values)
    let shown = expected.selecting([0, 1, 2], length: texts.length).embeddings
    #expect(relativeError(texts.embeddings.values, shown.values) < 5e-3)
    let latents = one.latents([0, 1, 2])
    #expect(latents.isFinite && Set(latents.values).count > 10)
    for form in Form.allCases where form != .folder {
      let other = try encoded(form)
      #expect(other.count == 3, "\(form)")
      #expect(other.latents([0, 1, 2]).shape == latents.shape)
      #expect(
        other.texts?.captions([0, 1, 2]).embeddings.values == texts.embeddings.values, "\(form)")
    }
  }

  /// Embeddings are kept by text, encoder and precision; kept ones need no encoder.
  @Test(.enabled(if: Goldens.areAvailable))
  func embeddingsAreKept() throws {
    let scratch = try Scratch()
    let copy = scratch.file("model")
    try FileManager.default.copyItem(
      atPath: "\(Goldens.directory)/pixart_pipeline/model", toPath: copy)
    let files = try ModelFiles(copy)
    let words = "kept \(UUID().uuidString)"
    func embeddings() throws -> PromptEmbeddings { try files.promptEmbeddings(.float32) }
    var layers = 0
    let first = try embeddings().captions([words, "another \(words)"]) { _, _, _ in layers += 1 }
    #expect(layers > 0)
    layers = 0
    let again = try embeddings().captions(["another \(words)", words, "  ANOTHER \(words)  "]) {
      _, _, _ in
      layers += 1
    }
    #expect(layers == 0)
    #expect(
      again.selecting([1, 0], length: first.length).embeddings.values == first.embeddings.values)
    #expect(
      again.selecting([2], length: first.length).embeddings.values
        == first.selecting([1], length: first.length).embeddings.values)
    // Another encoder has embeddings of its own.
    let identity = try embeddings().identity
    let config = "\(copy)/text_encoder/config.json"
    try FileManager.default.setAttributes([.posixPermissions: 0o644], ofItemAtPath: config)
    var text = try String(contentsOfFile: config, encoding: .utf8)
    text += "\n"
    try Data(text.utf8).write(to: URL(filePath: config))
    #expect(try embeddings().identity != identity)
    #expect(try files.promptEmbeddings(.bfloat16).identity != embeddings().identity)
  }

  /// Latents with text embeddings: padding by the mask, widths and masks that do not fit are named.
  @Test func latentsWithEmbeddings() throws {
    let scratch = try Scratch()
    func write(_ name: String, tokens: Int, channels: Int = 3, mask: [Float]?) throws -> String {
      let path = scratch.file(name)
      var items = [
        item("latents", RandomStream(seed: 1, "l").normal([2, 4, 2, 2])),
        item("prompt_embeds", RandomStream(seed: 2, "p").normal([2, tokens, channels])),
      ]
      if let mask {
        items.append(TensorItem(name: "prompt_attention_mask", shape: [2, tokens], floats: mask))
      }
      try SafetensorsWriter.write(items, metadata: [:], to: path)
      return path
    }
    let files = try LatentFiles(
      files: [
        write("0.safetensors", tokens: 2, mask: [1, 0, 1, 1]),
        write("1.safetensors", tokens: 4, mask: nil),
      ], path: scratch.path)
    let texts = try #require(files.texts)
    #expect(texts.length == 4 && texts.channels == 3 && files.labels == [0, 0, 0, 0])
    let captions = texts.captions([0, 1, 3])
    #expect((0..<3).map(captions.tokens) == [1, 2, 4])
    for (mask, reason) in [([1, 2, 1, 1] as [Float], "no mask"), ([1, 1], "no mask")] {
      let path = scratch.file("bad.safetensors")
      try SafetensorsWriter.write(
        [
          item("latents", RandomStream(seed: 1, "l").normal([2, 4, 2, 2])),
          item("prompt_embeds", RandomStream(seed: 2, "p").normal([2, 2, 3])),
          TensorItem(name: "prompt_attention_mask", shape: [2, mask.count / 2], floats: mask),
        ], metadata: [:], to: path)
      let error = #expect(throws: FileError.self) { try LatentFiles.open(path) }
      #expect(error?.description.contains(reason) == true)
    }
    let other = try write("2.safetensors", tokens: 2, channels: 5, mask: nil)
    let error = #expect(throws: FileError.self) {
      try LatentFiles(files: [scratch.file("0.safetensors"), other], path: scratch.path)
    }
    #expect(error?.description.contains("5 wide") == true)
  }

  /// Raw latents beside `latents_stats.pt` are normalised by channel, and the statistics count in the digest.
  @Test func latentsWithStatistics() throws {
    let scratch = try Scratch()
    let raw = RandomStream(seed: 1, "l").normal([3, 2, 2, 2])
    try SafetensorsWriter.write(
      [
        item("latents", raw), item("latents_flip", raw),
        TensorItem(name: "labels", shape: [3], floats: [0, 1, 2]),
      ], metadata: [:], to: scratch.file("latents_rank00_shard000.safetensors"))
    let plain = try LatentFiles.open(scratch.path).identity(keptIn: scratch.path)
    func state(_ deviation: [Float]) throws {
      try TorchWriter.write(
        [
          TensorItem(name: "mean", shape: [1, 2, 1, 1], floats: [1, -1]),
          TensorItem(name: "std", shape: [1, deviation.count, 1, 1], floats: deviation),
        ], entry: nil, to: scratch.file("latents_stats.pt"))
    }
    try state([2, 4])
    let files = try LatentFiles.open(scratch.path)
    #expect(files.statistics?.deviation == [2, 4])
    #expect(try files.identity(keptIn: scratch.path) != plain)
    let values = Tensor([8])
    files.read(1, into: values.pointer)
    let expected = (0..<8).map { index -> Float in
      index < 4 ? (raw[8 + index] - 1) / 2 : (raw[8 + index] + 1) / 4
    }
    #expect(values.values == expected)
    try state([2, 4, 5])
    #expect(throws: FileError.self) { try LatentFiles.open(scratch.path) }
  }
}
