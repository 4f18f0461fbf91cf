import Foundation
import Plans
import Runs
import Search
import Synchronization

/// Throws if the engine with a name cannot do a job of a plan, before a run exists.
package typealias EngineCheck = @Sendable (String, Job.Kind, GraftPlan) throws -> Void

/// The real outside world: run directories, plan files and workers.
///
/// All of it happens on a queue of its own, so that a slow disk never delays a key; results wait in a box until the
/// session takes them.
package final class LiveEffects: EffectPerformer {
  private let box = ActionBox()
  private let queue = DispatchQueue(label: "espalier.explorer.files", qos: .userInitiated)
  /// Where searches are solved, beside the work with files.
  private let solving = DispatchQueue(label: "espalier.explorer.search", qos: .userInitiated)
  private let newest = NewestFront()
  /// Where models are read, which takes longer still.
  private let reading = DispatchQueue(label: "espalier.explorer.models", qos: .userInitiated)
  private let timer: any DispatchSourceTimer
  private let files: FileWork
  private let models: ModelAccess?

  /// Seconds between two looks at the run directories.
  private static let interval = 0.1

  /// Starts watching the run root.
  ///
  /// - Parameters:
  ///   - launcher: Makes and starts runs in their directory, from now on on the queue of this object alone.
  ///   - model: The model being grafted; plans of other models need another explorer.
  ///   - codeVersion: The version written into each run's request.
  ///   - models: Access to files of models; without it there are no others.
  ///   - check: Throws if an engine cannot do a job of a plan.
  package init(
    launcher: sending RunLauncher, model: ModelReference, codeVersion: String,
    models: ModelAccess? = nil, check: @escaping EngineCheck = { _, _, _ in }
  ) {
    self.models = models
    files = FileWork(launcher: launcher, model: model, codeVersion: codeVersion)
    files.check = check
    timer = DispatchSource.makeTimerSource(queue: queue)
    timer.schedule(deadline: .now(), repeating: Self.interval, leeway: .milliseconds(10))
    timer.setEventHandler { [box, files, queue] in
      box.put(files.look(now: Date()))
      Self.readOn(box, files, queue)
    }
    timer.resume()
  }

  /// Reads on where logs are not read to their ends, after what else waits in the queue.
  private static func readOn(_ box: ActionBox, _ files: FileWork, _ queue: DispatchQueue) {
    guard files.hasUnread, !files.isReadingOn else { return }
    files.isReadingOn = true
    queue.async {
      files.isReadingOn = false
      box.put(files.look(now: Date(), isReadingOn: true))
      readOn(box, files, queue)
    }
  }

  /// Queues a piece of work.
  package func perform(_ effect: Effect) {
    if case .solveFront(let generation, let candidates, let depth, let measure, let constraints) =
      effect
    {
      newest.generation.withLock { $0 = generation }
      solving.async { [box, newest] in
        // Keys may ask faster than fronts are found: only the last question is answered.
        guard newest.generation.withLock({ $0 }) == generation else { return }
        let solver = ParetoSolver(
          candidates, depth: depth, measure: measure, constraints: constraints)
        box.put([.frontSolved(generation: generation, solver.front())])
      }
      return
    }
    guard let models else { return queue.async { [box, files] in box.put(files.perform(effect)) } }
    switch effect {
    case .openModel(let opening):
      reading.async { [box] in box.put([models.answer(to: opening)]) }
    case .inspect(let name):
      reading.async { [box] in
        for withStatistics in [false, true] {
          box.put([models.answer(about: name, withStatistics: withStatistics)])
        }
      }
    default: queue.async { [box, files] in box.put(files.perform(effect)) }
    }
  }

  /// What has happened since the last call.
  package func takeActions() -> [Action] { box.take() }

  /// Finishes queued work, stops watching, and cancels previews that nobody will see.
  package func close() {
    timer.cancel()
    queue.sync { files.cancelPreviews() }
  }
}

/// Generation of the front that was asked for last.
private final class NewestFront: Sendable {
  let generation = Mutex(0)
}

/// Results on their way from the queue to the session.
private final class ActionBox: Sendable {
  private let actions = Mutex<[Action]>([])

  func put(_ more: [Action]) {
    guard !more.isEmpty else { return }
    actions.withLock { $0 += more }
  }

  func take() -> [Action] {
    actions.withLock { actions in
      defer { actions = [] }
      return actions
    }
  }
}
