import Checkpoints
import Foundation
import Runs
import Testing

/// Whether this process may mount a small disk.
private let canMount: Bool = {
  let place = NSTemporaryDirectory() + "/espalier-mount-" + UUID().uuidString
  return system(
    "mkdir '\(place)' && mount -t tmpfs none '\(place)' 2>/dev/null && umount '\(place)';"
      + " status=$?; rmdir '\(place)'; exit $status") == 0
}()

/// A run whose disk, a small tmpfs, is full for a while; needs the right to mount one.
@Suite(.enabled(if: canMount, "mounting a tmpfs is not permitted")) struct DiskFullTests {
  /// Calls `body` with a scratch home whose runs lie on a disk of 4 MB.
  private func withSmallDisk(_ body: (Scratch, _ disk: String) throws -> Void) throws {
    let scratch = try Scratch()
    let disk = scratch.runs
    try FileManager.default.createDirectory(atPath: disk, withIntermediateDirectories: true)
    try #require(system("mount -t tmpfs -o size=4m none '\(disk)'") == 0)
    defer { _ = system("umount -l '\(disk)'") }
    try body(scratch, disk)
  }

  /// Fills a disk to its last byte and gives the file that does so.
  private func fill(_ disk: String) throws -> String {
    let ballast = disk + "/.ballast"
    let descriptor = open(ballast, O_WRONLY | O_CREAT, 0o600)
    try #require(descriptor >= 0)
    defer { close(descriptor) }
    let block = [UInt8](repeating: 1, count: 4096)
    while write(descriptor, block, block.count) > 0 {}
    return ballast
  }

  /// Starts a run and fills its disk while the worker stands still after its first checkpoint.
  private func beginOnAFullDisk(_ scratch: Scratch, _ disk: String, steps: Int) throws
    -> (run: RunDirectory, ballast: String)
  {
    let data = try scratch.tinyLatents()
    try scratch.tinyPlan(steps: steps, batch: 2, checkpointEvery: 3) { $0.data = data }
    let outcome = try scratch.espalier("distill", "plan.json", "--detach")
    let run = try RunDirectory.open(outcome.output.trimmingCharacters(in: .whitespacesAndNewlines))
    try wait(for: "a checkpoint") { run.summary().checkpoint != nil }
    let worker = try #require(run.worker())
    try worker.signal(SIGSTOP)
    try wait(for: "the stop") { run.summary().state == .frozen }
    let ballast = try fill(disk)
    try worker.signal(SIGCONT)
    try wait(for: "the pause") { run.summary().state == .paused }
    #expect(run.summary().pauseReason == "disk full" && !run.summary().isSilent)
    #expect(try scratch.espalier("runs", "show", run.id).output.contains("paused: disk full"))
    return (run, ballast)
  }

  private func savedStep(_ run: RunDirectory) throws -> Int {
    let file = try SafetensorsFile(path: run.checkpointsPath + "/latest.safetensors")
    return try #require(file.metadata["step"].flatMap(Int.init))
  }

  private func operators(_ run: RunDirectory) throws -> Data {
    try Data(contentsOf: URL(fileURLWithPath: run.checkpointsPath + "/operators.safetensors"))
  }

  @Test func waitsForRoom() throws {
    let steps = 600
    try withSmallDisk { scratch, disk in
      let (run, ballast) = try beginOnAFullDisk(scratch, disk, steps: steps)
      let saved = try savedStep(run)
      #expect(saved % 3 == 0 && saved < steps)
      try FileManager.default.removeItem(atPath: ballast)
      try wait(for: "the end") { run.summary().state == .done }
      let whole: RunSummary = try scratch.espalier("distill", "plan.json", "--json").json()
      #expect(try operators(run) == operators(try RunDirectory.open(whole.run)))
    }
  }

  /// A run whose worker cannot be recorded is not made, instead of waiting for one for ever.
  @Test(arguments: 1...4) func isMadeWithItsWorkerOrNotAtAll(pages: Int) throws {
    try withSmallDisk { scratch, disk in
      let data = try scratch.tinyLatents()
      try scratch.tinyPlan(steps: 2, batch: 2) { $0.data = data }
      try #require(system("mount -o remount,size=\(4 * pages)k '\(disk)'") == 0)
      let outcome = try scratch.espalier("distill", "plan.json", "--detach")
      let runs = RunDirectory.list(root: disk)
      #expect(runs.count == (outcome.code == 0 ? 1 : 0))
      #expect(outcome.code == 0 || outcome.complaint.contains("the disk is full"), "\(outcome)")
      #expect(runs.allSatisfy { $0.summary().state != .queued })
      try #require(system("mount -o remount,size=4m '\(disk)'") == 0)
      try wait(for: "the end") { runs.allSatisfy { $0.summary().state.isEnded } }
    }
  }

  @Test func canBeCancelledMeanwhile() throws {
    try withSmallDisk { scratch, disk in
      let (run, ballast) = try beginOnAFullDisk(scratch, disk, steps: 5_000_000)
      let saved = try savedStep(run)
      #expect(try scratch.espalier("runs", "cancel", run.id).code == 0)
      try wait(for: "the end") { run.summary().state == .cancelled }
      #expect(try savedStep(run) == saved)
      try FileManager.default.removeItem(atPath: ballast)
      #expect(try scratch.espalier("runs", "retry", run.id).code == 0)
      try wait(for: "a later checkpoint") { try savedStep(run) > saved }
      try run.cancel(hard: true)
    }
  }
}
