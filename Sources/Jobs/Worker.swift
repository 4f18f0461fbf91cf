import Dispatch
import Files
import Foundation
import Runs
import TensorCore
import Text
import TorchEngine

/// Worker process of a run: claims its directory, runs its job, and logs events.
package enum Worker {
  /// Nice value of a worker.
  private static let niceness: Int32 = 10

  /// Runs the job of a run directory and returns the exit code.
  ///
  /// SIGTERM and SIGINT cancel at the next step; SIGHUP is ignored.
  package static func run(directory: String) -> Int32 {
    let (run, lock): (RunDirectory, FileLock)
    do {
      run = try RunDirectory.open(directory)
      lock = try run.claim(inherited: RunDirectory.inheritedLock)
    } catch {
      return fail("\(error)")
    }
    defer { withExtendedLifetime(lock) {} }
    // Temporary files of a killed worker.
    for folder in [run.path, run.checkpointsPath, run.samplesPath] {
      AtomicFile.removeAbandoned(in: folder)
    }
    signal(SIGPIPE, SIG_IGN)
    signal(SIGHUP, SIG_IGN)
    setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, niceness)
    let context = JobContext(run: run)
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
    let keeping = DispatchSource.makeTimerSource(queue: .global())
    keeping.schedule(deadline: .now() + 300, repeating: 300)
    keeping.setEventHandler { run.keepSummary() }
    keeping.resume()
    heartbeat.resume()
    defer {
      heartbeat.cancel()
      keeping.cancel()
      sources.forEach { $0.cancel() }
    }
    run.reserveRoomForLastWords()
    defer { run.releaseRoomForLastWords() }
    print("BLAS core \(Gemm.coreName), \(Parallel.threads) threads")
    do {
      let request = try run.request()
      if let name = request.engine {
        let job = EngineJob(
          context: context, engine: try Engine.named(name).launched(by: request.launcher))
        // The engine elsewhere has the time limit.
        if job.engine.isLinked { return try follow(job, request) }
        if run.hasOpenLink {
          throw FileError(
            "\(run.path): its engine \(name) was on another host, which \(Engine.path()) no longer says;"
              + " restore the entry")
        }
        if let seconds = request.timeout { context.limit(to: seconds) }
        let process = try job.start(try job.prepare(request).variables)
        // From here on the engine writes the events.
        heartbeat.cancel()
        return try finish(job, process)
      }
      if let seconds = request.timeout { context.limit(to: seconds) }
      let text: String
      if case .preview(let preview) = request.job, preview.isBackground {
        var parameters = sched_param()
        // Linux's SCHED_IDLE: below every nice value.
        if sched_setscheduler(0, 5, &parameters) != 0 {
          setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, 19)
        }
      }
      switch request.job {
      case .distill(let planPath):
        text = try DistillJob(context: context, planPath: planPath).perform()
      case .finetune(let planPath, let weights):
        text = try FinetuneJob(context: context, planPath: planPath, weights: weights).perform()
      case .preview(let preview): text = try PreviewJob(context: context).perform(preview)
      case .analyze(let analyze): text = try AnalyzeJob(context: context).perform(analyze)
      case .library(let library): text = try LibraryJob(context: context).perform(library)
      case .search(let search): text = try SearchJob(context: context).perform(search)
      case .measure(let report):
        text = try ReportJob(context: context).perform(report, writesPage: false)
      case .report(let report):
        text = try ReportJob(context: context).perform(report, writesPage: true)
      case .sample(let sample): text = try SampleJob(context: context).perform(sample)
      case .evaluate(let evaluate):
        text = try EvaluateJob(context: context).perform(evaluate)
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

  /// Waits for an engine, passes a cancellation on, and ends the run if the engine has not.
  private static func finish(_ job: EngineJob, _ process: Process) throws -> Int32 {
    let run = job.context.run
    var isTold = false
    var plotted = run.logSize
    while process.isRunning {
      job.context.plot(after: &plotted)
      if job.context.isCancelled, !isTold {
        kill(process.processIdentifier, SIGTERM)
        isTold = true
      }
      usleep(50_000)
    }
    job.context.plot(after: &plotted)
    run.keepSummary()
    run.releaseRoomForLastWords()
    if let end = run.summary().end {
      run.performHook(outcome: end.outcome.rawValue)
      return end.outcome == .failed ? 1 : 0
    }
    let text = job.ending(process)
    try run.finish(.failed, text)
    return fail(text)
  }

  /// Sends a run to its engine elsewhere and follows it; leaves it there if this process is asked to stop.
  private static func follow(_ job: EngineJob, _ request: JobRequest) throws -> Int32 {
    let run = job.context.run
    let linked = try LinkedJob(context: job.context, engine: job.engine) {
      let prepared = try job.prepare(request)
      return try LinkUpload(
        job.engine, run: run, request: request, caches: prepared.caches,
        identities: prepared.identities)
    }
    if linked.isSent { job.context.mute() }
    do {
      guard try linked.perform() else {
        guard linked.isSent else { throw JobInterruption.cancelled }
        return 0
      }
    } catch  where linked.isSent {
      // Nothing is written to the log of a run that may go on elsewhere.
      try? linked.leave("\(error)")
      return fail("\(error)")
    }
    run.keepSummary()
    run.releaseRoomForLastWords()
    let end = run.summary().end
    run.performHook(outcome: end?.outcome.rawValue ?? RunState.lost.name)
    return end?.outcome == .failed ? 1 : 0
  }

  /// Outcome and text of the final event for an error.
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

  private static func fail(_ text: String) -> Int32 {
    // A full disk must not end the worker.
    try? FileHandle.standardError.write(
      contentsOf: Data("espalier worker: \(text.printableSentence)\n".utf8))
    return 1
  }
}
