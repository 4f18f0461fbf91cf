import Files
import Foundation
import Plans

/// Change of learning rates by a retry.
package enum RateChange: Equatable, Sendable {
  /// Sets the rate of the plan; rates of sites change by the same factor.
  case rate(Double)
  /// Multiplies all rates.
  case factor(Double)
}

/// Change of the engine by a retry.
package struct EngineChange: Equatable, Sendable {
  /// Name of the engine; nil for the native one.
  package let name: String?

  /// Makes a change.
  package init(to name: String?) { self.name = name }
}

extension RunDirectory {
  /// Prepares a run that ended unsuccessfully for another worker.
  ///
  /// - Parameters:
  ///   - change: Change of the learning rates of its plan; nil for none.
  ///   - step: Step of the kept checkpoint to resume from; nil selects the latest.
  ///   - engine: Engine from now on; nil keeps it.
  ///   - isWaiting: Whether it goes back to its place in the queue instead of starting at once.
  /// - Throws: `FileError` when the run is active or done, or has no rate or no such checkpoint;
  ///   `PlanError` for an invalid rate; `FileError` when the disk fails.
  package func prepareRetry(
    _ change: RateChange? = nil, step: Int? = nil, engine: EngineChange? = nil,
    isWaiting: Bool = false
  ) throws {
    try requireUnsuccessful()
    if let engine, engine.name != (try request()).engine { try sever() }
    let link = try openLink()
    if let step, link == nil { try requireKept(step) }
    let messages = try change.map { [try self.change(rate: $0)] } ?? []
    if var link {
      // The other end, which has the checkpoints, goes back and says all this.
      link.startAgain(saying: messages, from: step)
      try write(link)
    } else {
      for text in messages { try append(Event(.message(text))) }
      if let step { try goBack(to: step) }
    }
    var request = try request()
    let isQueued = request.queue != nil
    if let engine { request.engine = engine.name }
    if isWaiting {
      if engine != nil { try writeRequest(request) }
      return try keepEnvironment()
    }
    // A retried run starts immediately instead of waiting in the queue.
    request.queue = nil
    if isQueued || engine != nil { try writeRequest(request) }
    if isQueued { unlink(environmentPath) }
  }

  /// Throws if the run is active or done.
  func requireUnsuccessful() throws {
    let state = summary().state
    guard state != .detached else {
      throw FileError(
        "\(path): is detached and may go on elsewhere; 'espalier runs resume \(id)' follows it again"
      )
    }
    guard state.isEnded, state != .done else {
      throw FileError(
        "\(path): is \(state.name), expected one that was cancelled, failed or lost;"
          + " 'espalier runs' lists them")
    }
  }

  private func requireKept(_ step: Int) throws {
    guard keptSteps.contains(step) else {
      let list = keptSteps.map(String.init).joined(separator: ", ")
      throw FileError(
        "\(path): keeps no checkpoint of step \(step), expected"
          + (list.isEmpty ? " none but the latest (\"keep_last\" keeps more)" : " one of \(list)")
          + "; omit --step to resume from the latest")
    }
  }

  /// Makes a kept checkpoint the latest.
  private func goBack(to step: Int) throws {
    try AtomicFile.link(checkpointPath(ofStep: step), as: latestPath)
    try append(Event(.message("goes back to the checkpoint of step \(step)")))
    // The log records the checkpoint that the worker resumes from.
    try append(Event(.checkpointed(step: step, path: Self.latest)))
  }

  /// Lets the run go on without its engine elsewhere.
  private func sever() throws {
    guard var link = try openLink() else { return }
    guard summary().checkpoint == nil || hasBegun else {
      throw FileError(
        "\(path): its checkpoints are at \(link.host); 'espalier runs fetch \(id)' brings them here, then"
          + " retry")
    }
    link.isSevered = true
    try write(link)
  }

  /// Changes the rates of the plan; returns a message about it.
  private func change(rate change: RateChange) throws -> String {
    var plan: GraftPlan
    let key: String
    let rate: WritableKeyPath<GraftPlan, Double>
    switch try request().job {
    case .distill: (key, rate) = ("stage1.learning_rate", \.stage1.learningRate)
    case .finetune: (key, rate) = ("stage2.learning_rate", \.stage2.learningRate)
    case .preview, .analyze, .library, .search, .measure, .report, .sample, .evaluate:
      throw FileError("\(path): trains nothing, so it has no learning rate; retry it as it is")
    }
    plan = try GraftPlan.load(path: planPath)
    let before = plan[keyPath: rate]
    let factor =
      switch change {
      case .rate(let rate): rate / before
      case .factor(let factor): factor
      }
    if rate == \.stage1.learningRate {
      plan.scaleStage1Rates(by: factor)
    } else {
      plan.stage2.learningRate *= factor
    }
    if case .rate(let exact) = change { plan[keyPath: rate] = exact }
    try plan.save(to: planPath)
    return
      "retried with \(key) \(numberText(plan[keyPath: rate])) instead of \(numberText(before))"
  }
}
