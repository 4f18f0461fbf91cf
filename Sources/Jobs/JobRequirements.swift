import Datasets
import Files
import Library
import Models
import Plans
import Runs
import Search
import TensorCore

/// What a job needs, as far as it is known before its run exists.
package enum JobRequirements {
  /// Checks the plan, and for a job that starts at once its data and its library.
  ///
  /// - Throws: The error with which the worker would end.
  package static func check(_ request: JobRequest, _ plan: GraftPlan?) throws {
    // Files of an engine may be on another host.
    guard let plan, request.engine == nil else { return }
    let startsNow = request.queue == nil
    switch request.job {
    case .distill, .finetune: break
    case .library(let library): _ = try LibraryJob.columns(library, plan)
    case .search(let search):
      let precision = request.precision.flatMap(Precision.init) ?? .fastest
      try SearchJob.check(search, plan)
      if startsNow { _ = try SearchJob.operators(for: search, plan, precision) }
    default: return
    }
    if startsNow { try TrainingData.check(plan.data, for: try ModelFiles(plan.model.path)) }
  }
}

extension SearchJob {
  /// Checks a search against its plan.
  ///
  /// - Throws: `FileError` for slots that the model lacks, and for edits that a search cannot keep.
  static func check(_ request: SearchRequest, _ plan: GraftPlan) throws {
    if request.recoverySteps > 0 { try plan.requireFinetunable() }
    guard plan.parallel.isEmpty else {
      throw FileError(
        "\(plan.name): has parallel blocks, and a search chooses operators of single slots; take them apart by"
          + " 'espalier plan parallel PLAN --blocks all --split'")
    }
    for text in request.kept {
      guard let slot = SlotID(text), plan.model.shape.slots.contains(slot) else {
        throw FileError(
          "'\(text)' is to keep its operator, but the model has slots 0.attention to"
            + " \(plan.model.shape.depth - 1).mlp; correct the slot")
      }
      guard plan.edits[slot] == nil else {
        throw FileError(
          "\(slot) is to keep the teacher's operator, but the plan has another one there; take out either"
        )
      }
    }
  }

  /// The operators of the library among which a search chooses.
  ///
  /// - Throws: `FileError` if none was scored and timed as asked, if one of the plan is not among them, or if
  ///   they meet no budget.
  static func operators(
    for request: SearchRequest, _ plan: GraftPlan, _ precision: Precision
  ) throws -> [OperatorLibrary.Entry] {
    let shape = plan.model.shape
    let library = OperatorLibrary(modelHash: plan.model.contentHash, root: request.root)
    let conditions = OperatorLibrary.TimingConditions(
      batch: request.score.timingBatch, precision: precision)
    let operators = library.entries().map(\.entry)
    let candidates = OperatorLibrary.candidates(operators, timedIn: conditions, shape: shape)
    guard !candidates.isEmpty else {
      throw FileError(
        "\(library.folder): holds no operators that were scored, and timed on this machine with"
          + " \(request.score.timingBatch) images in \(precision.rawValue); build it with 'espalier library build'"
      )
    }
    let known = Set(candidates.map(\.change))
    for (slot, spec) in plan.edits.sorted(by: { $0.key < $1.key })
    where !known.contains(.slot(slot, spec)) {
      throw FileError(
        "\(library.folder): does not hold the plan's operator of \(slot), \(OperatorCatalog.label(spec)), scored and"
          + " timed; build it with 'espalier library build --candidates FILE', or clear the slot")
    }
    // A budget of time is also met by step caching, which needs no operators.
    guard let measure = Measure(rawValue: request.measure),
      let total = plan.cost().original.amount(of: measure)
    else { return operators }
    let front = ParetoSolver(
      candidates, depth: shape.depth, measure: measure, constraints: request.constraints(plan)
    ).front()
    let least = 1 - (front.last.map { $0.saving[measure] / total } ?? 0)
    guard request.budgets.contains(where: { $0 >= least }) else {
      throw FileError(
        "no plan meets a budget: the library's operators reach \(numberText((least * 1000).rounded(.up) / 1000))"
          + " of the teacher's \(measure.rawValue); allow more, keep fewer slots, or build others with 'espalier"
          + " library build --candidates FILE'")
    }
    return operators
  }
}

extension SearchRequest {
  /// Restrictions on the plans of a search.
  func constraints(_ plan: GraftPlan) -> ParetoSolver.Constraints {
    var constraints = ParetoSolver.Constraints()
    constraints.kept = Set(kept.compactMap { SlotID($0) })
    constraints.required = plan.edits
    constraints.mostOperators = mostOperators
    return constraints
  }
}
