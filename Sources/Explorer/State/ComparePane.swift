import Plans
import Runs

/// Trainings beside each other.
package struct ComparePane: Equatable, Sendable {
  /// What is known of each.
  package var runs: [FocusedRun]
  /// Whether the held-out losses are plotted, not those of the training steps.
  package var showsHeldOut = true
  /// Whether the entries of the plans that differ are shown, not the facts.
  package var showsDifferences = false
  /// The first line shown.
  package var first = 0
  /// The first run shown.
  package var firstRun = 0

  /// The most runs that are compared.
  package static let limit = 8

  /// Their identifiers.
  package var ids: [String] { runs.map(\.id) }

  /// The curve of one run.
  package func curve(_ run: FocusedRun) -> StepSeries {
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
  /// What is shown line by line: the facts, or the entries of the plans that differ.
  package func rows(record: (String) -> RunSummary?) -> [ComparedFact] {
    guard showsDifferences else { return facts(record: record) }
    let plans = runs.compactMap(\.plan)
    guard plans.count == runs.count else { return [] }
    return GraftPlan.differingEntries(of: plans).map { entry in
      ComparedFact(title: entry.key, values: entry.values.map { $0 ?? "–" })
    }
  }

  /// What there is to tell of each, line by line.
  ///
  /// - Parameter record: What the list of runs says of an identifier.
  /// - Returns: The lines, without those on which nothing is known of any.
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
    let front = isOnParetoFront(record: record)
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
      fact("Pareto front") { run in
        runs.firstIndex { $0.id == run.id }.flatMap { front[$0] ? "● on it" : nil }
      }, fact("tags") { record($0.id)?.annotation.tags.joined(separator: " ").nonEmpty },
      fact("note") { record($0.id)?.annotation.note.nonEmpty },
    ].compactMap(\.self)
  }

  /// Why the losses do not measure the same, or nil when they do.
  package func reasonAgainstLosses(record: (String) -> RunSummary?) -> String? {
    ranked(record: record).compactMap { $0?.basis }.reasonAgainstComparing
  }

  /// Whether each is on the Pareto front of held-out loss and FLOPs.
  package func isOnParetoFront(record: (String) -> RunSummary?) -> [Bool] {
    let ranked = ranked(record: record)
    var front = ranked.compactMap(\.self).isOnParetoFront[...]
    return ranked.map { $0 == nil ? false : front.popFirst() ?? false }
  }

  private func ranked(record: (String) -> RunSummary?) -> [RankedModel?] {
    runs.map { run in
      run.plan.map { plan in
        RankedModel(
          modelHash: plan.model.contentHash, basis: LossBasis(plan, record(run.id)?.kind),
          heldOut: run.history.meanHeldOut.last?.value, flops: plan.cost().edited.flops)
      }
    }
  }

  private static func change(_ points: StepSeries) -> String? {
    guard let first = points.first, let last = points.last else { return nil }
    return "\(Format.loss(first.value)) → \(Format.loss(last.value))"
  }
}
