import Foundation
import TestSupport
import Testing

/// What a text-conditional model makes of lists of prompts: data for training, and GenEval's folders.
@Suite("Lists of prompts", .enabled(if: Goldens.areAvailable))
struct PromptDataTests {
  private let model = "\(Goldens.directory)/pixart_pipeline/model"

  private func bytes(_ scratch: Scratch, _ name: String) throws -> Data {
    try Data(contentsOf: URL(filePath: "\(scratch.path)/\(name)"))
  }

  /// Pairs that the model makes itself are data of a plan; a second run keeps them, other prompts are refused.
  @Test func selfMadeData() throws {
    let scratch = try Scratch()
    let prompts = (0..<6).map { "prompt number \($0)" }
    try Data((prompts.joined(separator: "\n") + "\n\n").utf8).write(
      to: URL(filePath: "\(scratch.path)/prompts.txt"))
    func make(_ options: String...) throws -> Outcome {
      try scratch.run(
        [
          "sample", model, "--prompts", "prompts.txt", "--steps", "2", "--guidance", "1",
          "--dataset", "pairs",
        ]
          + options)
    }
    let first = try make()
    #expect(first.code == 0, "\(first.complaint)")
    let written = try bytes(scratch, "pairs/000000.safetensors")
    let lines = try String(decoding: bytes(scratch, "pairs/prompts.jsonl"), as: UTF8.self)
    #expect(lines.split(separator: "\n").count == 6 && lines.contains(#""text":"prompt number 5""#))
    #expect(try make().code == 0)
    #expect(try bytes(scratch, "pairs/000000.safetensors") == written)

    #expect(try scratch.espalier("plan", "new", "plan.json", "--model", model).code == 0)
    #expect(
      try scratch.espalier(
        "plan", "set", "plan.json", "--operator", "hyena_x", "--blocks", "1", "--data", "pairs",
        "stage1.steps=2", "stage1.batch_size=2", "stage1.warmup_steps=0", "stage2.steps=1",
        "stage2.batch_size=2", "stage2.warmup_steps=0"
      ).code == 0)
    for stage in ["distill", "finetune"] {
      let done = try scratch.espalier(stage, "plan.json")
      #expect(done.code == 0, "\(done.complaint)")
    }

    let led = try make("--negative", "blurry")
    #expect(led.code == 1 && led.complaint.contains("holds other data"))
    try Data("another\n".utf8).write(to: URL(filePath: "\(scratch.path)/prompts.txt"))
    let other = try make()
    #expect(other.code == 1 && other.complaint.contains("holds other data"))
  }

  /// Only what is missing is drawn again, and as before.
  @Test func genEvalGoesOn() throws {
    let scratch = try Scratch()
    let all = try String(
      contentsOfFile: "\(Goldens.directory)/geneval/evaluation_metadata.jsonl", encoding: .utf8)
    let lines = all.split(separator: "\n").prefix(2)
    try Data((lines.joined(separator: "\n") + "\n").utf8).write(
      to: URL(filePath: "\(scratch.path)/list.jsonl"))
    func draw(seed: Int = 0) throws -> Outcome {
      try scratch.espalier(
        "sample", model, "--geneval", "list.jsonl", "--count", "2", "--steps", "1", "--guidance",
        "1", "--seed", "\(seed)", "--output", "images")
    }
    let first = try draw()
    #expect(first.code == 0 && first.output.contains("4 drawn now"), "\(first.complaint)")
    for (index, line) in lines.enumerated() {
      #expect(try bytes(scratch, "images/0000\(index)/metadata.jsonl") == Data(line.utf8))
    }
    let image = "images/00001/samples/0000.png"
    let before = try bytes(scratch, image)
    #expect(try before != bytes(scratch, "images/00001/samples/0001.png"))
    try FileManager.default.removeItem(atPath: "\(scratch.path)/\(image)")
    let second = try draw()
    #expect(second.output.contains("1 drawn now"), "\(second.complaint)")
    #expect(try bytes(scratch, image) == before)
    #expect(try draw().output.contains("0 drawn now"))
    // Images of another seed, model or prompt are not mixed with those that are there.
    let mixed = try draw(seed: 1)
    #expect(mixed.code == 1 && mixed.complaint.contains("another seed"), "\(mixed.complaint)")
    #expect(
      try Set(FileManager.default.contentsOfDirectory(atPath: "\(scratch.path)/images")) == [
        "00000", "00001",
      ])
    let line =
      #"{"tag": "counting", "include": [{"class": "cup", "count": 3}], "prompt": "another"}"#
    try Data(line.utf8).write(
      to: URL(filePath: "\(scratch.path)/list.jsonl"))
    let other = try draw()
    #expect(other.code == 1 && other.complaint.contains("another list of prompts"))
  }
}
