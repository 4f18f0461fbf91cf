import ArgumentParser
import Files
import Foundation
import Jobs
import Models
import Plans
import Runs

/// Options of text-conditional models: prompts or their embeddings, and the size of the images.
struct PromptOptions: ParsableArguments {
  @Option(help: "A prompt of a text-conditional model; repeatable.") var prompt: [String] = []
  @Option(help: "A file with a prompt in every line.") var prompts: String?
  @Option(help: "What guidance leads away from (default: the empty text).") var negative: String?
  @Flag(
    help: "Put prompts in lower case alone instead of cleaning them as diffusers' pipeline does.")
  var noCleaning = false
  @Option(
    help: "Folder of 'tokenizer' and 'text_encoder' (default: those of the model's folder).")
  var textEncoder: String?

  @Option(
    help:
      "Text embeddings in place of prompts: .npy, or safetensors with prompt_embeds, prompt_attention_mask."
  )
  var captions: String?
  @Option(help: "Embedding of the empty caption (default: the one in the model's file, if any).")
  var nullCaption: String?

  @Option(help: "The model's autoencoder, a file or a folder (default: the one beside it).")
  var autoencoder: String?
  @Option(help: "Height of a text-conditional model's images in pixels (default: its own).")
  var height: Int?
  @Option(help: "Width of a text-conditional model's images in pixels (default: its own).")
  var width: Int?
  @Flag(
    help: .init(
      "Draw at the size that is asked for instead of at the nearest one of the model's training, which is then scaled"
        + " and cut."))
  var noBinning = false

  /// Throws if an option for text-conditional models is given.
  func requireNone(_ family: ModelFamily) throws {
    let given = [
      ("--prompt", !prompt.isEmpty), ("--prompts", prompts != nil), ("--negative", negative != nil),
      ("--text-encoder", textEncoder != nil), ("--captions", captions != nil),
      ("--null-caption", nullCaption != nil), ("--height", height != nil),
      ("--width", width != nil), ("--no-binning", noBinning), ("--no-cleaning", noCleaning),
    ]
    if let (name, _) = given.first(where: \.1) {
      throw ValidationError(
        "\(name) belongs to a text-conditional model, and this one is a \(family.title)")
    }
  }

  /// The prompts of the options, in order.
  func texts() throws -> [String] {
    guard let prompts else { return prompt }
    guard prompt.isEmpty else { throw ValidationError("give --prompt or --prompts, not both") }
    let bytes = try AtomicFile.read(prompts, limit: 256 << 20)
    let lines = String(decoding: bytes, as: UTF8.self).split(whereSeparator: \.isNewline)
      .map { $0.trimmingCharacters(in: .whitespaces) }.filter { !$0.isEmpty }
    guard !lines.isEmpty else {
      throw FileError("\(prompts): holds no prompts, expected one in every line; add some")
    }
    return lines
  }

  /// What the options ask a text-conditional model for.
  ///
  /// - Throws: `ValidationError` without prompts and embeddings, or with both.
  func settings(_ files: ModelFiles, _ texts: [String]) throws -> PromptSettings {
    var settings = PromptSettings()
    guard texts.isEmpty || captions == nil else {
      throw ValidationError("give prompts or --captions, not both")
    }
    guard !texts.isEmpty || captions != nil else {
      throw ValidationError(
        "a \(files.model.shape.family.title) needs --prompt TEXT, --prompts FILE or --captions FILE"
      )
    }
    guard negative == nil || captions == nil else {
      throw ValidationError(
        "--negative belongs to --prompt and --prompts; give its embedding with --null-caption")
    }
    try require("--height", height, in: 1...8192)
    try require("--width", width, in: 1...8192)
    (settings.texts, settings.negative, settings.cleans) = (texts, negative, !noCleaning)
    settings.textEncoder = textEncoder.map { AtomicFile.absolute($0) }
    settings.captions = captions.map { AtomicFile.absolute($0) }
    settings.nullCaption = nullCaption.map { AtomicFile.absolute($0) }
    (settings.height, settings.width, settings.isBinned) = (height, width, !noBinning)
    _ = try settings.promptCount(of: files)
    return settings
  }
}
