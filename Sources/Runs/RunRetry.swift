import Files
import Foundation
import Plans

/// How a retry changes the learning rates of a run.
package enum RateChange: Equatable, Sendable {
  /// The plan's rate becomes this one; rates of single sites change by the same factor.
  case rate(Double)
  /// All rates are multiplied.
  case factor(Double)
}

extension RunDirectory {
  /// Prepares a run that has ended, though not well, for another worker.
  ///
  /// - Parameters:
  ///   - change: How the rates of its plan change, which its checkpoint accepts; nil leaves them.
  ///   - step: Which of the checkpoints that are kept it goes on from; nil is the latest.
  /// - Throws: `RunError` when the run goes on, is done, or has no rate or no such checkpoint;
  ///   `PlanError` for an impossible rate; `FileError` when the disk fails.
  package func prepareRetry(_ change: RateChange? = nil, step: Int? = nil) throws {
    try requireUnsuccessful()
    if let step { try requireKept(step) }
    if let change { try self.change(rate: change) }
    if let step { try goBack(to: step) }
    var request = try request()
    if request.queue != nil {
      // It begins at once from now on, for whoever asked.
      request.queue = nil
      try writeRequest(request)
      unlink(environmentPath)
    }
  }

  /// Refuses a run that goes on or is done.
  func requireUnsuccessful() throws {
    let state = summary().state
    guard state.isEnded, state != .done else {
      throw RunError(
        "\(path): is \(state.name), expected one that was cancelled, failed or lost;"
          + " 'espalier runs' lists them")
    }
  }

  private func requireKept(_ step: Int) throws {
    guard keptSteps.contains(step) else {
      let list = keptSteps.map(String.init).joined(separator: ", ")
      throw RunError(
        "\(path): keeps no checkpoint of step \(step), expected"
          + (list.isEmpty ? " none but the latest (\"keep_last\" keeps more)" : " one of \(list)")
          + "; leave out --step to go on from the latest")
    }
  }

  /// Makes an earlier checkpoint the latest.
  private func goBack(to step: Int) throws {
    try AtomicFile.link(checkpointPath(ofStep: step), as: latestPath)
    try append(Event(.message("goes back to the checkpoint of step \(step)")))
    // Later ones are no longer what a worker begins from.
    try append(Event(.checkpointed(step: step, path: Self.latest)))
  }

  private func change(rate change: RateChange) throws {
    var plan: GraftPlan
    let key: String
    let rate: WritableKeyPath<GraftPlan, Double>
    switch try request().job {
    case .distill: (key, rate) = ("stage1.learning_rate", \.stage1.learningRate)
    case .finetune: (key, rate) = ("stage2.learning_rate", \.stage2.learningRate)
    case .preview, .analyze:
      throw RunError("\(path): trains nothing, so it has no learning rate; retry it as it is")
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
    try append(
      Event(
        .message(
          "retried with \(key) \(numberText(plan[keyPath: rate])) instead of \(numberText(before))")
      ))
  }
}
