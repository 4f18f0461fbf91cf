import Files
import Foundation
import Sampling
import TensorCore
import TextEncoders

/// Text encoders (`t5`), tokenizers and caption cleaning (`sentencepiece`).
enum TextCases {
  /// Compares hidden states of every folder that shares the inputs, and the buckets of positions.
  static func encoder(_ check: ParityCheck) throws {
    let fixture = check.fixture
    for name in try fixture.settings.texts("folders") {
      let encoder = try T5Encoder(
        folder: try fixture.path(inFolder: name), precision: check.convolutionPrecision)
      for run in try fixture.settings.texts("runs") where fixture.has("in.ids.\(run)") {
        let shape = try fixture.shape("in.ids.\(run)")
        guard shape.count == 2 else {
          throw FileError(
            "\(fixture.path): tensor 'in.ids.\(run)' has shape \(shape), expected texts by tokens; the file is"
              + " damaged, copy it again")
        }
        try fixture.require("in.mask.\(run)", shape: shape)
        let ids = try fixture.integers("in.ids.\(run)", in: 0..<encoder.config.vocabulary)
        let mask = try fixture.integers("in.mask.\(run)", in: 0..<2)
        func rows(_ values: [Int]) -> [[Int]] {
          (0..<shape[0]).map { Array(values[($0 * shape[1])..<(($0 + 1) * shape[1])]) }
        }
        var first: Tensor?
        let last = try encoder(rows(ids), mask: rows(mask)) { layer, hidden in
          if layer == 0 { first = hidden.copied() }
        }
        try check.forward("out.last.\(run)", last, remark: name)
        if let first, fixture.has("out.block0.\(run)") {
          try check.forward("out.block0.\(run)", first, remark: name)
        }
      }
      if fixture.has("in.offsets") {
        let offsets = try fixture.integers("in.offsets", in: -1_000_000..<1_000_000)
        try check.exact("out.buckets", offsets.map { encoder.config.bucket(offset: $0) })
      }
    }
  }

  private struct Strings: Decodable {
    struct Item: Decodable {
      let text: String
      let ids: [Int]?
      let ids_300: [Int]?
      let length: Int?
    }
    let strings: [Item]
  }

  private struct Captions: Decodable {
    struct Item: Decodable {
      let caption, cleaned, cleaned_once, lower_strip: String
    }
    let captions: [Item]
  }

  /// Compares the ids of all strings, and the cleaned captions, exactly; the error of one is 1 if it differs.
  static func tokenizers(_ name: String, _ folder: String) -> ParityResult {
    func scalars(_ text: String) -> [Unicode.Scalar] { Array(text.unicodeScalars) }
    return ParityResult(name) { comparisons in
      let files = try FileManager.default.contentsOfDirectory(atPath: folder).sorted()
      for file in files where file.hasSuffix("_ids.json") {
        let model = String(file.dropLast("_ids.json".count))
        let tokenizer = try T5Tokenizer(folder: "\(folder)/\(model)")
        let strings: Strings = try Fixture.json("\(folder)/\(file)")
        for (index, item) in strings.strings.enumerated() {
          let label = "\(model) \(index): \(item.text.prefix(30))"
          let found = try tokenizer.encode(item.text)
          if let ids = item.ids { comparisons.compare(label, found, ids) }
          if let length = item.length {
            comparisons.compare("\(label), length", found.count, length)
          }
          if let cut = item.ids_300 {
            let limit = PromptEncoder.mostTokens
            comparisons.compare("\(label), cut", try tokenizer.encode(item.text, limit: limit), cut)
          }
        }
      }
      let captions: Captions = try Fixture.json("\(folder)/captions.json")
      for item in captions.captions {
        let label = String(item.caption.prefix(30))
        comparisons.compare(
          "lowered: \(label)", scalars(CaptionCleaning.lowered(item.caption)),
          scalars(item.lower_strip))
        comparisons.compare(
          "cleaned once: \(label)", scalars(CaptionCleaning.cleaned(item.caption, times: 1)),
          scalars(item.cleaned_once))
        comparisons.compare(
          "cleaned: \(label)", scalars(CaptionCleaning.cleaned(item.caption)), scalars(item.cleaned)
        )
      }
    }
  }
}
