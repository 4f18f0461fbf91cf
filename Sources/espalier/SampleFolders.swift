import Checkpoints
import Datasets
import Evaluation
import Files
import Foundation
import Models
import Pictures
import Sampling
import TensorCore

extension Drawing {
  /// Images per file of a data set, the unit of going on after an interruption.
  private static let imagesPerFile = 32

  /// Writes latents with the embeddings of their captions as safetensors files, and the prompts as
  /// `prompts.jsonl`; complete files of the same content are kept.
  ///
  /// - Parameters:
  ///   - folder: The folder.
  ///   - texts: The prompts; empty if embeddings were given.
  ///   - identity: Digest of all that the content depends on.
  /// - Throws: `FileError` for a file of other content or that cannot be written, and errors of sampling.
  func writeDataset(to folder: String, texts: [String], identity: String) throws {
    guard let captions else { preconditionFailure("data set: no captions") }
    try AtomicFile.makeDirectory(folder)
    let console = ProgressLine()
    defer { console.finish() }
    let key = "espalier_dataset"
    for first in stride(from: 0, to: count, by: Self.imagesPerFile) {
      let range = first..<min(count, first + Self.imagesPerFile)
      let path = folder + String(format: "/%06d.safetensors", first)
      let isDone = FileManager.default.fileExists(atPath: path)
      if isDone {
        let found = try SafetensorsFile(path: path).metadata[key]
        guard found == identity else {
          throw FileError(
            "\(path): is there already and holds other data; name another folder, or remove it")
        }
        continue
      }
      var samples: [Tensor] = []
      for image in range {
        samples.append(
          try latents(image..<(image + 1), nil) { step, steps, _ in
            console.update("image \(image) of \(count), step \(step)/\(steps)")
          })
      }
      let all = Tensor([range.count] + latentShape)
      for (row, sample) in samples.enumerated() { all.rows(row..<(row + 1)).assign(sample) }
      try SafetensorsWriter.write(
        LatentDataset.items(latents: all, captions: captions(range).trimmed()),
        metadata: [key: identity], to: path)
    }
    let lines = try (texts.isEmpty ? 0..<0 : 0..<count).map { index in
      let line: [String: Any] = ["index": index, "text": texts[index % texts.count]]
      return String(
        decoding: try JSONSerialization.data(withJSONObject: line, options: [.sortedKeys]),
        as: UTF8.self)
    }
    if !lines.isEmpty {
      try AtomicFile.write(
        Data((lines.joined(separator: "\n") + "\n").utf8), to: "\(folder)/prompts.jsonl")
    }
    console.finish()
    print("\(folder): \(count) latents with captions")
  }
}

extension GenEval {
  /// Draws the images that are missing in the folders that GenEval's evaluator reads.
  ///
  /// - Parameters:
  ///   - folder: The folder of all prompts; how its images are drawn is kept in a file beside it.
  ///   - images: Number of images per prompt.
  ///   - description: How they are drawn.
  ///   - drawing: Makes the drawing of all images, prompt by prompt.
  /// - Throws: `FileError` for a folder of another list or of other images, and errors of the drawing.
  func write(
    to folder: String, images: Int, drawnWith description: [String: String],
    drawing: () throws -> Drawing
  ) throws {
    func image(_ prompt: Int, _ index: Int) -> String {
      "\(folder)/\(Self.folder(prompt))/\(Self.image(index))"
    }
    for prompt in prompts.indices {
      let (name, text) = self.description(of: prompt)
      let path = "\(folder)/\(Self.folder(prompt))/\(name)"
      guard let found = try? AtomicFile.read(path, limit: 1 << 20) else { continue }
      guard found == Array(text.utf8) else {
        throw FileError("\(path): is of another list of prompts; name another folder, or remove it")
      }
    }
    try SetDescription.claim(description, beside: folder)
    for prompt in prompts.indices {
      let own = "\(folder)/\(Self.folder(prompt))"
      try AtomicFile.makeDirectory("\(own)/samples")
      // No newline at the end: the evaluator reads the file as one object.
      let (name, text) = self.description(of: prompt)
      try AtomicFile.write(Data(text.utf8), to: "\(own)/\(name)")
    }
    let missing = prompts.indices.flatMap { prompt in (0..<images).map { (prompt, $0) } }
      .filter { !FileManager.default.fileExists(atPath: image($0.0, $0.1)) }
    if !missing.isEmpty {
      let console = ProgressLine()
      defer { console.finish() }
      let job = try drawing()
      for (done, (prompt, index)) in missing.enumerated() {
        let number = prompt * images + index
        let pictures = try job.pictures(number..<(number + 1)) { step, steps, _ in
          console.update("image \(done) of \(missing.count), step \(step)/\(steps)")
        }
        for picture in pictures { try picture.write(to: image(prompt, index)) }
      }
    }
    print("\(folder): \(prompts.count) prompts, \(images) images each, \(missing.count) drawn now")
  }
}
