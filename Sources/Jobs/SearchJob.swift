import Datasets
import Files
import Foundation
import Grafting
import Library
import Models
import Plans
import Runs
import Sampling
import Search
import TensorCore

/// Finds the best plans for some budgets from a library, evaluates them beside baselines, and lets the best recover.
struct SearchJob {
  let context: JobContext

  /// Number of random baselines.
  private static let randomBaselines = 5

  func perform(_ request: SearchRequest) throws -> String {
    let (plan, files) = try context.plan(at: request.planPath)
    let shape = plan.model.shape
    guard let measure = Measure(rawValue: request.measure) else {
      throw FileError(
        "\(context.run.requestPath): measure is '\(request.measure)', expected"
          + " \(Measure.allCases.map(\.rawValue).joined(separator: ", "))")
    }
    try context.emit(.started(pid: getpid(), totalSteps: 0))
    let precision = try context.precision()
    let library = OperatorLibrary(modelHash: plan.model.contentHash, root: request.root)
    let conditions = OperatorLibrary.TimingConditions(
      batch: request.score.timingBatch, precision: precision)
    let candidates = library.candidates(timedIn: conditions, shape: shape)
    guard !candidates.isEmpty else {
      throw FileError(
        "\(library.folder): holds no operators that were scored, and timed on this machine with"
          + " \(request.score.timingBatch) images in \(precision.rawValue); build it with 'espalier library build'"
      )
    }
    let data = try context.trainingData(
      plan.data, for: files, samples: max(1, request.recoverySteps * plan.stage2.batchSize),
      heldOut: max(request.score.samples, plan.stage1.heldOutSamples))
    let teacher = try files.classConditional()
    teacher.parameters.use(precision)
    let timing = OperatorTiming(teacher, batch: request.score.timingBatch)
    let teacherSeconds = timing.seconds([]).teacher
    let total = amount(of: measure, plan, teacherSeconds)
    let sampler = LatentSampler(
      steps: request.score.steps, guidance: Float(request.score.guidance), seed: request.score.seed)
    let error = try GuidedError(
      teacher: teacher, dataset: data.heldOut, samples: request.score.samples, sampler: sampler,
      seed: request.score.seed
    ) { done, count in
      try context.checkpoint(step: 0)
      try context.emit(.progress(done: done, total: count, label: "running the teacher"))
    }
    let stage = Stage(
      context: context, plan: plan, teacher: teacher, library: library, precision: precision,
      data: data, error: error, timing: timing)
    var constraints = ParetoSolver.Constraints()
    constraints.kept = Set(request.kept.compactMap { SlotID($0) })
    constraints.required = plan.edits
    constraints.mostOperators = request.mostOperators

    let begun = Throttle.uptime()
    let front = ParetoSolver(
      candidates, depth: shape.depth, measure: measure, constraints: constraints
    ).front()
    let solveMilliseconds = 1000 * (Throttle.uptime() - begun)
    let search = PlanSearch(candidates, depth: shape.depth, measure: measure) { changes in
      try context.checkpoint(step: 0)
      return try stage.whole(changes)
    }
    let locality = try analysis(of: files, modelHash: plan.model.contentHash).locality
    var budgets: [SearchReport.Budget] = []
    for (index, fraction) in request.budgets.enumerated() {
      try context.emit(
        .progress(
          done: index, total: request.budgets.count, label: "searching at \(numberText(fraction))"))
      let saving = (1 - fraction) * total
      let found = try search(
        saving: saving, constraints: constraints, pool: (request.pool, request.distance),
        swaps: request.swaps)
      if found.results.isEmpty {
        let most = front.last.map { $0.saving[measure] / total } ?? 0
        try context.emit(
          .message(
            "no plan meets \(measure.rawValue) \(numberText(fraction)): the library's operators save at most"
              + " \(String(format: "%.1f", 100 * most)) %"))
      }
      var rows = Array(found.results.prefix(max(1, request.finalists)))
      rows += try baselines(
        candidates, like: rows.first, saving: saving, measure: measure, depth: shape.depth,
        locality: locality, search: search, stage: stage)
      budgets.append(
        try finish(
          rows, index: index, fraction: fraction, total: total, measure: measure,
          teacherSeconds: teacherSeconds, agreement: found.agreement,
          neighborLoss: found.neighborLoss, steps: request.recoverySteps, stage: stage))
    }
    let report = SearchReport(
      measure: measure.rawValue, teacherSeconds: teacherSeconds, candidates: candidates.count,
      solveMilliseconds: solveMilliseconds,
      front: front.map {
        .init(
          fraction: 1 - $0.saving[measure] / total, sum: $0.loss, changes: $0.changes.map(\.text))
      }, budgets: budgets)
    try context.whenRoom { try report.write(in: context.run.path) }
    try context.emit(.progress(done: budgets.count, total: budgets.count, label: "budgets"))
    return "\(budgets.count) budgets; table in \(SearchReport.fileName)"
  }

  /// The teacher's cached analysis, which is measured and kept if there is none.
  private func analysis(of files: ModelFiles, modelHash: String) throws -> ModelAnalysis {
    let path = ModelAnalysis.cachePath(modelHash: modelHash)
    if FileManager.default.fileExists(atPath: path) {
      let cached = try ModelAnalysis.load(path: path)
      if cached.blocks.count == files.model.shape.depth { return cached }
    }
    let measured = try AnalyzeJob.analyze(
      files, modelHash: modelHash, samples: AnalyzeRequest.samples, mapsBeside: path
    ) { done, total in
      try context.checkpoint(step: 0)
      try context.emit(.progress(done: done, total: total, label: "analysing the teacher"))
    }
    try context.whenRoom { try measured.save(to: path) }
    return measured
  }

  /// The teacher's amount of a measure.
  private func amount(of measure: Measure, _ plan: GraftPlan, _ seconds: Double) -> Double {
    let cost = plan.cost().original
    return switch measure {
    case .time: seconds
    case .flops: cost.flops
    case .parameters: Double(cost.parameters)
    case .memory: cost.bytes
    }
  }

  /// Baselines that save as much, with the operator that is most frequent in the attention slots of the best plan.
  private func baselines(
    _ candidates: [Candidate], like best: PlanSearch.Result?, saving: Double, measure: Measure,
    depth: Int, locality: [Double], search: PlanSearch, stage: Stage
  ) throws -> [PlanSearch.Result] {
    let attention = (best?.changes ?? []).compactMap { change -> OperatorSpec? in
      guard case .slot(let id, let spec) = change, id.slot == .attention else { return nil }
      return spec
    }
    let counts = Dictionary(grouping: attention) { $0 }.mapValues(\.count)
    let fastest = candidates.filter { candidate in
      guard case .slot(let id, _) = candidate.change else { return false }
      return id.slot == .attention
    }.max { $0.saving[measure] < $1.saving[measure] }
    var specs = counts.sorted { ($0.value, $1.key.name) > ($1.value, $0.key.name) }.map(\.key)
    if case .slot(_, let spec) = fastest?.change { specs.append(spec) }
    var results: [PlanSearch.Result] = []
    for baseline in Baseline.allCases {
      let seeds = baseline == .random ? Self.randomBaselines : 1
      for seed in 0..<seeds {
        let order = baseline.order(
          depth: depth, locality: locality,
          permutation: RandomStream(seed: UInt64(seed), "search/baseline").permutation(depth))
        // The first operator that can save enough in this order.
        let changes = specs.lazy.compactMap { spec in
          Baseline.changes(
            candidates, slot: .attention, spec: spec, order: order, measure: measure, saving: saving
          )
        }.first
        guard let changes else { continue }
        try context.checkpoint(step: 0)
        let name = baseline == .random ? "\(baseline.name) \(seed)" : baseline.name
        var result = search.result(name, changes)
        result.whole = try stage.whole(changes)
        results.append(result)
      }
    }
    return results
  }

  /// Times the plans, lets them recover, and saves them.
  private func finish(
    _ rows: [PlanSearch.Result], index: Int, fraction: Double, total: Double, measure: Measure,
    teacherSeconds: Double, agreement: Double, neighborLoss: Double, steps: Int, stage: Stage
  ) throws -> SearchReport.Budget {
    var reported: [SearchReport.Row] = []
    for (place, result) in rows.enumerated() {
      guard let whole = result.whole else { continue }
      let name = "plan-\(index + 1)-\(place + 1).json"
      let plan = stage.plan(result.changes)
      try context.whenRoom {
        try AtomicFile.write(try plan.json(), to: "\(context.run.path)/\(name)")
      }
      var row = SearchReport.Row(
        origin: result.origin, changes: result.changes.map(\.text), sum: result.sum, error: whole,
        fraction: 1 - result.saving[measure] / total, plan: name)
      let seconds = try stage.seconds(result.changes)
      (row.seconds, row.timeFraction) = (seconds.model, seconds.model / seconds.teacher)
      if steps > 0 {
        let recovered = try stage.recovered(result.changes, steps: steps) { step in
          try context.checkpoint(step: step)
          if step % 5 == 0 {
            try context.emit(
              .progress(
                done: place * steps + step, total: rows.count * steps,
                label: "recovering at \(numberText(fraction))"))
          }
        }
        (row.recoveredError, row.recoveredStandardError) = (
          recovered.value, recovered.standardError
        )
      }
      reported.append(row)
    }
    let after = reported.compactMap(\.recoveredError)
    let recovery =
      after.count == reported.count ? Ranking.spearman(reported.map(\.error), after) : .nan
    func known(_ value: Double) -> Double? { value.isFinite ? value : nil }
    return SearchReport.Budget(
      fraction: fraction, rows: reported, rankAgreement: known(agreement),
      neighborLoss: neighborLoss, recoveryAgreement: known(recovery))
  }

  /// Model, library and data of a search.
  private struct Stage {
    let context: JobContext
    let plan: GraftPlan
    let teacher: DiT
    let library: OperatorLibrary
    let precision: Precision
    let data: TrainingData
    let error: GuidedError
    let timing: OperatorTiming

    func plan(_ changes: [Change]) -> GraftPlan {
      var own = plan
      own.edits = [:]
      own.parallel = [:]
      for change in changes { change.apply(to: &own) }
      return own
    }

    func graft(_ changes: [Change]) throws -> Graft { try graft(of: plan(changes)) }

    private func graft(of own: GraftPlan) throws -> Graft {
      let paths = library.checkpoints(for: own)
      let graft = try Graft(
        plan: own, teacher: teacher, checkpoints: paths.sorted { $0.key < $1.key }.map(\.value))
      graft.use(precision)
      return graft
    }

    func whole(_ changes: [Change]) throws -> Estimate {
      error(try graft(changes).model)
    }

    func seconds(_ changes: [Change]) throws -> (teacher: Double, model: Double) {
      let times = timing.seconds([try graft(changes).model])
      return (times.teacher, times.models[0])
    }

    /// Error after some steps of stage 2.
    func recovered(
      _ changes: [Change], steps: Int, progress: (Int) throws -> Void
    ) throws -> Estimate {
      var own = plan(changes)
      own.stage2.steps = steps
      let finetuning = try Finetuning(
        graft: try graft(of: own), dataset: data.training, heldOut: data.heldOut)
      while finetuning.step < steps {
        try progress(finetuning.step)
        _ = finetuning.trainStep()
      }
      return error(finetuning.model)
    }
  }
}

extension ModelAnalysis {
  /// Local share of attention by block, in the band of the paper.
  fileprivate var locality: [Double] {
    let band = bands.firstIndex(of: paperBand) ?? 0
    return blocks.map { band < $0.locality.count ? $0.locality[band] : 0 }
  }
}
