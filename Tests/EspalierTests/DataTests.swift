import Checkpoints
import Files
import Foundation
import Pictures
import Runs
import Testing

/// Distillation on data that people have, through the built program.
@Suite struct DataTests {
  private func image(_ seed: Int, side: Int = 70) -> RGBImage {
    RGBImage(
      width: side, height: side + seed,
      pixels: (0..<(3 * side * (side + seed))).map { UInt8(truncatingIfNeeded: $0 &* seed >> 3) })
  }

  /// A folder of images in the model's classes, some of them damaged.
  private func images(_ scratch: Scratch, classes: [String], damaged: Int = 0) throws -> String {
    let folder = "\(scratch.path)/images"
    for (label, name) in classes.enumerated() {
      try FileManager.default.createDirectory(
        atPath: "\(folder)/\(name)", withIntermediateDirectories: true)
      for index in 0..<3 {
        try image(3 * label + index + 1).write(to: "\(folder)/\(name)/\(index).png")
      }
    }
    for index in 0..<damaged {
      try Data("no picture".utf8).write(
        to: URL(fileURLWithPath: "\(folder)/\(classes[0])/bad\(index).jpg"))
    }
    return "images"
  }

  private func messages(_ run: RunDirectory) -> [String] {
    var follower = RunFollower(run, keepsCurves: true)
    _ = follower.poll()
    return follower.history.messages
  }

  @Test func distilsOnAFolderOfImages() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan(steps: 2)
    let data = try images(scratch, classes: ["0", "3", "9"], damaged: 2)
    for stray in ["0/x.webp", "outside.png"] {
      try scratch.put("x", "\(data)/\(stray)")
    }
    func distil() throws -> (RunDirectory, [UInt8]) {
      let outcome = try scratch.espalier("distill", "plan.json", "--data", data, "--json")
      try #require(outcome.code == 0, "\(outcome.complaint)")
      let run = try RunDirectory.open((try outcome.json() as RunSummary).run)
      let operators = try Data(
        contentsOf: URL(fileURLWithPath: run.checkpointsPath + "/operators.safetensors"))
      return (run, [UInt8](operators))
    }
    let (run, operators) = try distil()
    #expect(
      messages(run).contains("4 files cannot be used as images and are left out, see skipped.txt"))
    let list = try String(contentsOfFile: "\(run.path)/skipped.txt", encoding: .utf8)
    let lines = list.split(separator: "\n")
    #expect(lines.prefix(2).allSatisfy { $0.contains("is neither a PNG nor a JPEG") })
    #expect(
      lines.dropFirst(2) == [
        "\(scratch.path)/images/0/x.webp: its ending is not that of a PNG or JPEG file",
        "\(scratch.path)/images/outside.png: lies in no class folder",
      ])

    // Again from the cache, which tells of the damaged ones all the same.
    let cache = "\(scratch.path)/cache/espalier"
    func shards() throws -> [String] {
      try FileManager.default.subpathsOfDirectory(atPath: cache).filter {
        $0.hasPrefix("images-") && $0.hasSuffix(".safetensors")
      }
    }
    let before = try shards()
    let path = "\(cache)/\(try #require(before.first))"
    let stamp = try AtomicFile.stamp(of: path)
    let (again, same) = try distil()
    #expect(same == operators && messages(again) == messages(run))
    #expect(try shards() == before && AtomicFile.stamp(of: path) == stamp)

    // A damaged cache is made anew, a changed folder has one of its own.
    try Data("x".utf8).write(to: URL(fileURLWithPath: path))
    #expect(try distil().1 == operators)
    try FileManager.default.removeItem(atPath: "\(scratch.path)/images/3/0.png")
    #expect(try distil().1 != operators)
    #expect(try shards().count == before.count + 1)
  }

  /// Writes latents for the tiny model and gives their file's name.
  private func latents(
    _ scratch: Scratch, _ name: String = "latents.safetensors", side: Int = 16,
    labels: [Float] = (0..<20).map { Float($0 % 10) }
  ) throws -> String {
    let shape = [labels.count, 4, side, side]
    let count = shape.reduce(1, *)
    try SafetensorsWriter.write(
      [
        .init(
          name: "latents", shape: shape, floats: (0..<count).map { Float($0 * 31 % 17) / 9 - 1 }),
        .init(name: "labels", shape: [labels.count], floats: labels),
      ], metadata: [:], to: "\(scratch.path)/\(name)")
    return name
  }

  @Test func distilsOnLatentsOfAnyModel() throws {
    let scratch = try Scratch()
    // Not the procedural classes: a model of somebody's own.
    let model = try scratch.tinyModel("own.safetensors", classNames: (0..<10).map { "c\($0)" })
    #expect(try scratch.espalier("plan", "new", "p.json", "--model", model).code == 0)
    let set = try scratch.espalier(
      "plan", "set", "p.json", "--blocks", "0", "--operator", "hyena_x", "--steps", "2",
      "--batch", "2", "--data", try latents(scratch))
    #expect(set.code == 0, "\(set.complaint)")
    #expect(try scratch.text("p.json").contains("latents.safetensors\", \"flip\": true}"))
    let outcome = try scratch.espalier("distill", "p.json", "--json")
    #expect(outcome.code == 0, "\(outcome.complaint)")
    // Relative paths count from the plan's folder, wherever the command runs.
    let text = try scratch.text("p.json").replacing(
      "\"\(scratch.path)/latents", with: "\"latents")
    try scratch.put(text, "relative.json")
    let other = try scratch.espalier(
      "distill", "\(scratch.path)/relative.json", "--json", prefix: "cd /;")
    #expect(other.code == 0, "\(other.complaint)")
    let plan = try scratch.text(
      String((try other.json() as RunSummary).run.dropFirst(scratch.path.count + 1)) + "/plan.json")
    #expect(plan.contains("\"\(scratch.path)/latents.safetensors\""))
  }

  @Test func saysWhatIsWrongWithTheData() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan(steps: 2)
    func complaint(_ data: String) throws -> String {
      let outcome = try scratch.espalier("distill", "plan.json", "--data", data)
      #expect(outcome.code == 1 && outcome.complaint.contains(";"), "\(outcome.complaint)")
      return outcome.complaint
    }
    #expect(try complaint("absent").contains("absent: no such file"))
    #expect(try complaint("home").contains("holds no images in class folders"))
    #expect(
      try complaint(try latents(scratch, "small.safetensors", side: 8))
        .contains("its latents are 4 x 8 x 8, the model takes 4 x 16 x 16"))
    #expect(
      try complaint(try latents(scratch, "labels.safetensors", labels: [1, 10, 2]))
        .contains("sample 1 has label 10, the model has classes 0 to 9"))
    #expect(
      try complaint(try latents(scratch, "one.safetensors", labels: [1]))
        .contains("holds a single sample"))
    let folder = "\(scratch.path)/bad"
    try FileManager.default.createDirectory(
      atPath: "\(folder)/4", withIntermediateDirectories: true)
    try Data("x".utf8).write(to: URL(fileURLWithPath: "\(folder)/4/a.png"))
    #expect(try complaint("bad").contains("none of its 1 images can be read"))
  }

  @Test func aChangedDataSetIsNoticedAtResume() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan(steps: 5_000_000, batch: 2)
    let name = try latents(scratch)
    let outcome = try scratch.espalier("distill", "plan.json", "--data", name, "--detach")
    let run = try RunDirectory.open(outcome.output.trimmingCharacters(in: .whitespacesAndNewlines))
    try wait(for: "a checkpoint") {
      FileManager.default.fileExists(atPath: run.checkpointsPath + "/latest.safetensors")
    }
    #expect(try scratch.espalier("runs", "cancel", run.id).code == 0)
    try wait(for: "the end") { run.summary().state == .cancelled }
    _ = try latents(scratch, labels: (0..<20).map { Float($0 % 7) })
    _ = try scratch.espalier("runs", "resume", run.id)
    let end = try scratch.espalier("runs", "follow", run.id)
    #expect(end.code == 1 && end.complaint.contains("the training data have changed"))
  }
}
