import Foundation
import Pictures
import Plans
import Runs
import TestSupport
import Testing

/// What the worker of a preview writes, with a real model.
@Suite struct PreviewWorkerTests {
  private func sample(
    _ scratch: Scratch, _ change: (inout PreviewRequest) -> Void
  ) throws -> RunDirectory {
    let plan = try GraftPlan.load(path: scratch.path + "/plan.json")
    var request = PreviewRequest(
      modelPath: plan.model.path, planPath: "plan.json", classLabel: 8, seed: 5, steps: 4)
    change(&request)
    let run = try RunDirectory.create(
      root: scratch.runs,
      job: JobRequest(
        job: .preview(request), name: "preview", codeVersion: "test",
        modelHash: plan.model.contentHash, precision: "fp32"), plan: plan)
    let outcome = try scratch.espalier("worker", run.path)
    #expect(outcome.code == 0, "\(outcome.complaint) \(run.logTail())")
    return run
  }

  private func read(_ run: RunDirectory, _ name: String) throws -> RGBImage {
    try RGBImage.read(path: "\(run.samplesPath)/\(name).png")
  }

  /// Classes are rows, seeds are columns, and each cell is the picture that it is alone.
  @Test func gridsHaveClassesAndSeeds() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan(steps: 1)
    let grid = try sample(scratch) { ($0.classes, $0.seeds, $0.isBackground) = (3, 2, true) }
    let alone = try sample(scratch) { ($0.classLabel, $0.seed) = (0, 6) }
    for role in ["teacher", "graft", "difference"] {
      let (sheet, picture) = (try read(grid, role), try read(alone, role))
      let (width, height) = (picture.width, picture.height)
      #expect(sheet.width == 2 * width + 2 && sheet.height == 3 * height + 4)
      // Class 8, then 9, then 0 of the ten; seed 5, then 6.
      var worst = 0
      for row in 0..<height {
        for column in 0..<width {
          let found = sheet.at(width + 2 + column, 2 * (height + 2) + row)
          let expected = picture.at(column, row)
          for (a, b) in [
            (found.0, expected.0), (found.1, expected.1), (found.2, expected.2),
          ] { worst = max(worst, abs(Int(a) - Int(b))) }
        }
      }
      #expect(worst <= 1, "\(role)")
    }
  }

  /// The sampler's predictions come in order, before the result, of teacher and graft.
  @Test func framesShowTheWay() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan(steps: 1)
    let run = try sample(scratch) { $0.frames = 3 }
    let images = run.summary().images
    #expect(images.map(\.samplerStep) == [1, 2, 3, nil, 1, 2, 3, nil, nil])
    #expect(
      images.map(\.role) == [.teacher, .teacher, .teacher, .teacher] + [
        .graft, .graft, .graft, .graft, .difference,
      ])
    let frames = try (1...3).map { try read(run, "graft-step-\($0)") }
    #expect(Set(frames.map(\.pixels)).count == 3)
    #expect(frames.allSatisfy { $0.width == frames[0].width })
  }

  @Test func aSecondRunNeedsNoTeacher() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan(steps: 1)
    let run = try sample(scratch) { $0.skipsTeacher = true }
    #expect(run.summary().images.map(\.role) == [.graft])
    let both = try sample(scratch) { _ in }
    #expect(try read(run, "graft") == read(both, "graft"))
  }
}
