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
    try Self.check(request, plan)
    let library = OperatorLibrary(modelHash: plan.model.contentHash, root: request.root)
    let conditions = OperatorLibrary.TimingConditions(
      batch: request.score.timingBatch, precision: precision)
    let operators = try Self.operators(for: request, plan, precision)
    let teacher = try files.model.network()
    teacher.parameters.use(precision)
    let data = try context.trainingData(
      plan.data, for: files, teacher: teacher,
      samples: max(1, request.recoverySteps * plan.stage2.batchSize),
      heldOut: max(request.score.samples, plan.stage1.heldOutSamples))
    let timing = OperatorTiming(teacher, batch: request.score.timingBatch)
    let libraryTeacherSeconds = OperatorLibrary.teacherSeconds(operators, timedIn: conditions)
    let teacherSeconds = try teacherSeconds(timing, library: libraryTeacherSeconds)
    let candidates = OperatorLibrary.candidates(
      operators, timedIn: conditions, shape: shape, teacherSeconds: teacherSeconds)
    let total = plan.cost().original.amount(of: measure) ?? teacherSeconds
    let sampler = request.score.sampler(of: shape.family)
    let seeds = request.seeds ?? 1
    let errors = try (0..<seeds).map { seed in
      try GuidedError(
        teacher: teacher, dataset: data.heldOut, samples: request.score.samples, sampler: sampler,
        seed: request.score.seed &+ UInt64(seed)
      ) { done, count in
        try context.checkpoint(step: 0)
        try context.emit(
          .progress(
            done: seed * count + done, total: seeds * count, label: "running the teacher"))
      }
    }
    let stage = try SearchStage(
      plan, teacher: teacher, library: library, precision: precision, data: data,
      sampler: sampler, errors: errors, timing: timing,
      pictures: try request.images.map { try pictures(files, $0, precision) }
    ) { try context.checkpoint(step: 0) }
    let rival = CachedTeacher(
      teacher, sampler,
      for: try files.exampleConditions(Self.cachedTrajectories, precision).conditions,
      reusedTime: timing.reusedShare())
    let constraints = request.constraints(plan)
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
      let budget = SearchBudget(
        index: index, fraction: fraction, measure: measure, total: total)
      let found = try inTime(budget, stage) { saving in
        try search(
          saving: saving, constraints: constraints, pool: (request.pool, request.distance),
          swaps: request.swaps)
      }
      if found.results.isEmpty {
        let most = front.last.map { $0.saving[measure] / total } ?? 0
        try context.emit(
          .message(
            "no plan meets \(measure.rawValue) \(numberText(fraction)): the library's operators save at most"
              + " \(String(format: "%.1f", 100 * most)) %"))
      }
      var rows = Array(found.results.prefix(max(1, request.finalists)))
      rows += try baselines(
        candidates, budget, depth: shape.depth, locality: locality, search: search, stage: stage)
      budgets.append(
        try finish(
          rows, budget, agreement: found.agreement, neighborLoss: found.neighborLoss,
          steps: request.recoverySteps, seeds: seeds, rival: rival, stage: stage))
    }
    var report = SearchReport(
      measure: measure.rawValue, teacherSeconds: teacherSeconds, candidates: candidates.count,
      solveMilliseconds: solveMilliseconds,
      front: front.map {
        .init(
          fraction: 1 - $0.saving[measure] / total, sum: $0.loss, changes: $0.changes.map(\.text))
      }, budgets: budgets)
    (report.seeds, report.images) = (seeds, request.images)
    report.teacherAgreements = stage.teacherAgreements()
    report.libraryTeacherSeconds = libraryTeacherSeconds
    if let warning = report.timeWarning { try context.emit(.message(warning)) }
    let written = report
    try context.whenRoom { try written.write(in: context.run.path) }
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

  /// Further measurements of the teacher's time while it disagrees with the library's.
  private static let timeRepeats = 4

  /// The teacher's shortest time, measured again while it differs from that of the library: other work may pass.
  private func teacherSeconds(_ timing: OperatorTiming, library: Double?) throws -> Double {
    var least = timing.seconds([]).teacher
    guard let library else { return least }
    for _ in 0..<Self.timeRepeats where SearchReport.differ(least, library) {
      try context.checkpoint(step: 0)
      least = min(least, timing.seconds([]).teacher)
    }
    return least
  }

  /// Conditions of compared images, with the judge of a model that has one.
  private func pictures(
    _ files: ModelFiles, _ count: Int, _ precision: Precision
  ) throws -> SearchStage.Pictures {
    let judge = files.judgePath == nil ? nil : try files.judge()
    return SearchStage.Pictures(
      conditions: try files.exampleConditions(count, precision).conditions, judge: judge,
      autoencoder: try judge.map { _ in try files.autoencoder(precision) })
  }

  /// Share by which a plan's measured time may be over its budget, about the error of the measurement.
  private static let timeTolerance = 0.01

  /// Searches until the best plan's whole measured time meets a budget of time: times of single changes do not
  /// quite add up.
  private func inTime(
    _ budget: SearchBudget, _ stage: SearchStage, search: (Double) throws -> PlanSearch.Found
  ) throws -> PlanSearch.Found {
    var saving = budget.saving
    var found = try search(saving)
    guard budget.measure == .time else { return found }
    for _ in 0..<Self.timeCorrections {
      guard let best = found.results.first else { break }
      let excess = try Self.excess(stage.seconds(best.changes), budget)
      if excess <= Self.timeTolerance { break }
      saving += excess * budget.total
      let next = try search(saving)
      if next.results.isEmpty { break }
      found = next
    }
    return found
  }

  /// Searches with a corrected saving that are tried.
  private static let timeCorrections = 4

  /// By how much of the teacher's time a plan is over its budget.
  private static func excess(
    _ seconds: (teacher: Double, model: Double), _ budget: SearchBudget
  ) -> Double {
    seconds.model / seconds.teacher - budget.fraction
  }

  /// Baselines that save as much by one operator in one kind of slot: of the operators whose sums of errors are least
  /// in an order of blocks, the one whose whole error is.
  private func baselines(
    _ candidates: [Candidate], _ budget: SearchBudget, depth: Int, locality: [Double],
    search: PlanSearch, stage: SearchStage
  ) throws -> [PlanSearch.Result] {
    let operators = Set(
      candidates.compactMap { candidate -> SlotOperator? in
        guard case .slot(let id, let spec) = candidate.change else { return nil }
        return SlotOperator(slot: id.slot, spec: spec)
      })
    var results: [PlanSearch.Result] = []
    for baseline in Baseline.allCases {
      for seed in 0..<(baseline == .random ? Self.randomBaselines : 1) {
        let order = baseline.order(
          depth: depth, locality: locality,
          permutation: RandomStream(seed: UInt64(seed), "search/baseline").permutation(depth))
        let name = baseline == .random ? "\(baseline.name) \(seed)" : baseline.name
        func result(_ choice: SlotOperator, saving: Double) -> PlanSearch.Result? {
          Baseline.changes(
            candidates, slot: choice.slot, spec: choice.spec, order: order,
            measure: budget.measure, saving: saving
          ).map { search.result(name, $0) }
        }
        let ranked = operators.compactMap { choice in
          result(choice, saving: budget.saving).map { (choice, $0) }
        }.sorted { ($0.1.sum, $0.0.spec.name) < ($1.1.sum, $1.0.spec.name) }
        var best: PlanSearch.Result?
        for (choice, first) in ranked.prefix(Self.baselineOperators) {
          try context.checkpoint(step: 0)
          guard
            var found = try inTime(
              first, budget, stage, more: { result(choice, saving: $0) })
          else { continue }
          let whole = try stage.whole(found.changes)
          found.whole = whole
          if best?.whole.map({ whole.value < $0.value }) ?? true { best = found }
        }
        if let best { results.append(best) }
      }
    }
    return results
  }

  /// An operator for one kind of slot.
  private struct SlotOperator: Hashable {
    let slot: Slot
    let spec: OperatorSpec
  }

  /// Operators of a baseline that are evaluated whole.
  private static let baselineOperators = 3

  /// Changes more blocks until a baseline's whole measured time meets a budget of time; nil if all do not.
  private func inTime(
    _ first: PlanSearch.Result, _ budget: SearchBudget, _ stage: SearchStage,
    more: (Double) -> PlanSearch.Result?
  ) throws -> PlanSearch.Result? {
    var result = first
    guard budget.measure == .time else { return result }
    while true {
      let excess = try Self.excess(stage.seconds(result.changes), budget)
      if excess <= Self.timeTolerance { return result }
      // At least one more change.
      let next = more(
        max(
          budget.saving + excess * budget.total, result.saving[.time] * (1 + 1e-9)))
      guard let next, next.changes.count > result.changes.count else { return nil }
      result = next
    }
  }

  /// Measures the plans with every seed, lets them recover, saves them, and puts the teacher with step caching beside
  /// them.
  private func finish(
    _ rows: [PlanSearch.Result], _ budget: SearchBudget, agreement: Double, neighborLoss: Double,
    steps: Int, seeds: Int, rival: CachedTeacher, stage: SearchStage
  ) throws -> SearchReport.Budget {
    var reported: [SearchReport.Row] = []
    let label = "recovering at \(numberText(budget.fraction))"
    for (place, result) in rows.enumerated() {
      let name = "plan-\(budget.index + 1)-\(place + 1).json"
      let plan = stage.plan(result.changes)
      try context.whenRoom {
        try AtomicFile.write(try plan.json(), to: "\(context.run.path)/\(name)")
      }
      let errors = try stage.wholes(result.changes)
      var row = SearchReport.Row(
        origin: result.origin, changes: result.changes.map(\.text), sum: result.sum,
        errors: errors,
        fraction: 1 - result.saving[budget.measure] / budget.total, plan: name)
      let seconds = try stage.seconds(result.changes)
      (row.seconds, row.timeFraction) = (seconds.model, seconds.model / seconds.teacher)
      var throttle = Throttle()
      let recovered = try stage.recovered(result.changes, from: errors, steps: steps) { step in
        try context.checkpoint(step: step)
        if throttle.isDue() {
          let all = seeds * max(1, steps)
          try context.emit(
            .progress(done: place * all + step, total: rows.count * all, label: label))
        }
      }
      if steps > 0 {
        row.recover(recovered.errors)
        row.recoveryRates = recovered.rates
      }
      row.distances = recovered.pictures?.distances
      row.agreements = recovered.pictures?.agreements
      reported.append(row)
    }
    let after = reported.compactMap(\.recoveredError)
    let recovery =
      after.count == reported.count ? Ranking.spearman(reported.map(\.error), after) : .nan
    reported += try cached(budget, rival, stage)
    if let first = reported.first {
      for index in reported.indices.dropFirst() { reported[index].compare(with: first) }
    }
    func known(_ value: Double) -> Double? { value.isFinite ? value : nil }
    return SearchReport.Budget(
      fraction: budget.fraction, rows: reported, rankAgreement: known(agreement),
      neighborLoss: neighborLoss, recoveryAgreement: known(recovery))
  }

  /// Trajectories on which reused steps are counted.
  private static let cachedTrajectories = 4

  /// The teacher with step caching, with and without a forecast, at a budget of time.
  private func cached(
    _ budget: SearchBudget, _ rival: CachedTeacher, _ stage: SearchStage
  ) throws -> [SearchReport.Row] {
    guard budget.measure == .time else { return [] }
    try context.emit(
      .progress(
        done: 0, total: 2, label: "step caching at \(numberText(budget.fraction))"))
    let go = { try context.checkpoint(step: 0) }
    return try [false, true].compactMap { forecasts -> SearchReport.Row? in
      guard
        let (cache, reused) = try rival.cache(
          reaching: budget.fraction, forecasts: forecasts, progress: go)
      else { return nil }
      var row = SearchReport.Row(
        origin: forecasts ? "step cache, forecast" : "step cache", changes: [], sum: 0,
        errors: try stage.wholes(cache, progress: go), fraction: budget.fraction)
      let seconds = try rival.seconds(cache, stage.timing)
      (row.seconds, row.timeFraction) = (seconds.cached, seconds.cached / seconds.plain)
      row.cache = .init(threshold: cache.threshold, forecasts: forecasts, reused: reused)
      let pictures = try stage.pictures(cache, progress: go)
      (row.distances, row.agreements) = (pictures?.distances, pictures?.agreements)
      return row
    }
  }
}

/// One budget of a search.
private struct SearchBudget {
  let index: Int
  /// Fraction of the teacher's amount that may be spent.
  let fraction: Double
  let measure: Measure
  /// The teacher's amount.
  let total: Double

  var saving: Double { (1 - fraction) * total }
}

extension ModelAnalysis {
  /// Local share of attention by block, in the band of the paper.
  fileprivate var locality: [Double] {
    let band = bands.firstIndex(of: paperBand) ?? 0
    return blocks.map { band < $0.locality.count ? $0.locality[band] : 0 }
  }
}
