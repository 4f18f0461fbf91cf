import Dispatch
import Files
import Foundation
import Runs
import TensorCore
import Text

/// The process behind a run: claims its directory, does its job, and logs what happens.
package enum Worker {
  /// How much a worker yields to the terminal and everything else.
  private static let niceness: Int32 = 10

  /// Does the job of a run directory and returns the exit code.
  ///
  /// SIGTERM and SIGINT cancel softly; a lost terminal does not concern a worker.
  package static func run(directory: String) -> Int32 {
    let run: RunDirectory
    do {
      run = try RunDirectory.open(directory)
      try run.claim()
    } catch {
      return fail("\(error)")
    }
    removeLeftovers(of: run)
    signal(SIGPIPE, SIG_IGN)
    signal(SIGHUP, SIG_IGN)
    setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, niceness)
    let context = JobContext(run: run)
    // Taken out of the queue while this process was being started; a request that came later is heard.
    if run.isWithdrawn { return 0 }
    let sources = [SIGTERM, SIGINT].map { number in
      signal(number, SIG_IGN)
      let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
      source.setEventHandler { context.cancel() }
      source.resume()
      return source
    }
    let heartbeat = DispatchSource.makeTimerSource(queue: .global())
    heartbeat.schedule(deadline: .now() + 1, repeating: 1)
    heartbeat.setEventHandler { context.emitHeartbeat() }
    heartbeat.resume()
    defer {
      heartbeat.cancel()
      sources.forEach { $0.cancel() }
    }
    run.reserveRoomForLastWords()
    defer { run.releaseRoomForLastWords() }
    print("BLAS core \(Gemm.coreName), \(Parallel.threads) threads")
    do {
      let request = try run.request()
      if let seconds = request.timeout { context.limit(to: seconds) }
      let text: String
      switch request.job {
      case .distill(let planPath):
        text = try DistillJob(context: context, planPath: planPath).perform()
      case .finetune(let planPath, let weights):
        text = try FinetuneJob(context: context, planPath: planPath, weights: weights).perform()
      case .preview(let preview): text = try PreviewJob(context: context).perform(preview)
      case .analyze(let analyze): text = try AnalyzeJob(context: context).perform(analyze)
      }
      run.keepSummary()
      try context.emit(.finished(outcome: .done, text: text))
      heartbeat.cancel()
      run.performHook(outcome: RunOutcome.done.rawValue)
      return 0
    } catch {
      heartbeat.cancel()
      run.releaseRoomForLastWords()
      run.keepSummary()
      let (outcome, text) = ending(error, context)
      try? run.finish(outcome, text)
      return outcome == .cancelled ? 0 : fail(text)
    }
  }

  /// What a job that ended by an error has come to.
  private static func ending(_ error: any Error, _ context: JobContext) -> (RunOutcome, String) {
    switch error {
    case JobInterruption.cancelled: return (.cancelled, "cancelled at step \(context.step)")
    case JobInterruption.timedOut:
      return (
        .failed,
        "\(context.run.path): its time was up at step \(context.step); 'espalier runs retry"
          + " \(context.run.id)' goes on from the last checkpoint"
      )
    default: return (.failed, "\(error)")
    }
  }

  /// Removes what a killed predecessor had not finished writing.
  private static func removeLeftovers(of run: RunDirectory) {
    for folder in [run.checkpointsPath, run.samplesPath] {
      let names = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
      for name in names where AtomicFile.isTemporary(name) {
        try? FileManager.default.removeItem(atPath: "\(folder)/\(name)")
      }
    }
  }

  private static func fail(_ text: String) -> Int32 {
    // A log on a full disk must not bring the worker down.
    try? FileHandle.standardError.write(
      contentsOf: Data("espalier worker: \(text.printableSentence)\n".utf8))
    return 1
  }
}
