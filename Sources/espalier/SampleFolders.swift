import Checkpoints
import Datasets
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

/// Images of GenEval's prompts in the layout that its evaluator reads: `00000/metadata.jsonl` with the line of the
/// prompt, and `00000/samples/0000.png` and so on.
struct GenEvalFolder {
  private let entries: [(line: String, prompt: String)]
  private let images: Int

  /// Reads the list of prompts.
  ///
  /// - Parameters:
  ///   - path: `evaluation_metadata.jsonl`, an object with `prompt` in every line.
  ///   - images: Number of images per prompt.
  /// - Throws: `FileError` for a line without a prompt.
  init(metadata path: String, images: Int) throws(FileError) {
    let text = String(decoding: try AtomicFile.read(path, limit: 256 << 20), as: UTF8.self)
    var entries: [(String, String)] = []
    for (index, part) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated()
    {
      let line = part.hasSuffix("\r") ? String(part.dropLast()) : String(part)
      if line.allSatisfy(\.isWhitespace) { continue }
      let table = try? JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any]
      guard let prompt = table?["prompt"] as? String else {
        throw FileError(
          "\(path): line \(index + 1) is no JSON object with \"prompt\"; use GenEval's"
            + " evaluation_metadata.jsonl")
      }
      entries.append((line, prompt))
    }
    guard !entries.isEmpty else {
      throw FileError("\(path): holds no prompts; use GenEval's evaluation_metadata.jsonl")
    }
    (self.entries, self.images) = (entries, images)
  }

  /// The relative path of an image.
  private func image(_ entry: Int, _ index: Int) -> String {
    String(format: "%05d/samples/%04d.png", entry, index)
  }

  /// Draws the images that are missing.
  ///
  /// - Parameters:
  ///   - folder: The folder.
  ///   - drawing: Makes the drawing of the prompts with a number of images each.
  /// - Throws: `FileError` for a folder of another list, and errors of the drawing.
  func write(to folder: String, drawing: ([String], Int) throws -> Drawing) throws {
    var missing: [(entry: Int, index: Int)] = []
    for (number, entry) in entries.enumerated() {
      let own = folder + String(format: "/%05d", number)
      let path = "\(own)/metadata.jsonl"
      if let found = try? AtomicFile.read(path, limit: 1 << 20) {
        guard found == Array(entry.line.utf8) else {
          throw FileError(
            "\(path): is of another list of prompts; name another folder, or remove it")
        }
      }
      missing += (0..<images).map { (number, $0) }
        .filter { !FileManager.default.fileExists(atPath: "\(folder)/\(image($0.0, $0.1))") }
      try AtomicFile.makeDirectory("\(own)/samples")
      // No newline at the end: the evaluator reads the file as one object.
      try AtomicFile.write(Data(entry.line.utf8), to: path)
    }
    if !missing.isEmpty {
      let console = ProgressLine()
      defer { console.finish() }
      let job = try drawing(entries.map(\.prompt), images)
      for (done, (entry, index)) in missing.enumerated() {
        let number = entry * images + index
        let pictures = try job.pictures(number..<(number + 1)) { step, steps, _ in
          console.update("image \(done) of \(missing.count), step \(step)/\(steps)")
        }
        for picture in pictures { try picture.write(to: "\(folder)/\(image(entry, index))") }
      }
    }
    print("\(folder): \(entries.count) prompts, \(images) images each, \(missing.count) drawn now")
  }
}
