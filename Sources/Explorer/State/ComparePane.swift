import Plans
import Runs

/// Two trainings beside each other.
package struct ComparePane: Equatable, Sendable {
  /// What is known of both.
  package var runs: [FocusedRun]
  /// Whether the held-out losses are plotted, not those of the training steps.
  package var showsHeldOut = true

  /// Their identifiers.
  package var ids: [String] { runs.map(\.id) }

  /// The curve of one run.
  package func curve(_ run: FocusedRun) -> LossSeries {
    showsHeldOut ? run.history.meanHeldOut : run.history.meanLoss
  }
}

/// One line of a comparison.
package struct ComparedFact: Equatable, Sendable {
  /// The fact's name.
  package let title: String
  /// What holds for each run.
  package let values: [String]
}

extension ComparePane {
  /// What there is to tell of both, line by line.
  ///
  /// - Parameter record: What the list of runs says of an identifier.
  /// - Returns: The lines, without those on which nothing is known of either.
  package func facts(record: (String) -> RunSummary?) -> [ComparedFact] {
    func fact(_ title: String, _ value: (FocusedRun) -> String?) -> ComparedFact? {
      let values = runs.map(value)
      guard values.contains(where: { $0 != nil }) else { return nil }
      return ComparedFact(title: title, values: values.map { $0 ?? "–" })
    }
    func stage(_ run: FocusedRun) -> Job.Kind? { record(run.id)?.kind }
    func cost(_ value: @escaping (OperatorCost) -> Double) -> (FocusedRun) -> String? {
      { run in
        run.plan.map { plan in
          let (before, after) = (value(plan.cost().original), value(plan.cost().edited))
          return "\(Format.metric(after)) (\(Format.change(from: before, to: after)))"
        }
      }
    }
    return [
      fact("stage") { stage($0).map { $0 == .finetune ? "2, finetuning" : "1, distillation" } },
      fact("state") { record($0.id)?.state.name },
      fact("steps") { run in record(run.id).map { "\($0.step) of \($0.total)" } },
      fact("plan") { $0.plan?.summary },
      fact("held-out loss") { Self.change($0.history.meanHeldOut) },
      fact("training loss") { Self.change($0.history.meanLoss) },
      fact("parameters", cost { Double($0.parameters) }), fact("FLOPs", cost(\.flops)),
      fact("batch, rate") { run in
        run.plan.map { plan in
          stage(run) == .finetune
            ? "\(plan.stage2.batchSize), \(Format.plain(plan.stage2.learningRate))"
            : "\(plan.stage1.batchSize), \(Format.plain(plan.stage1.learningRate))"
        }
      }, fact("speed") { run in run.history.summary.rate.map(Format.rate) },
    ].compactMap(\.self)
  }

  /// Why the losses do not measure the same, or nil when they do.
  package func reasonAgainstLosses(record: (String) -> RunSummary?) -> String? {
    guard Set(runs.map { record($0.id)?.kind }).count == 1 else {
      return "the losses of different stages do not compare"
    }
    guard record(runs.first?.id ?? "")?.kind == .distill else { return nil }
    return Set(runs.map { $0.plan?.sites }).count == 1
      ? nil : "the plans distil different sites, whose losses do not compare"
  }

  private static func change(_ points: LossSeries) -> String? {
    guard let first = points.first, let last = points.last else { return nil }
    return "\(Format.loss(first.value)) → \(Format.loss(last.value))"
  }
}
