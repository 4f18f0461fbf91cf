import Plans
import Runs
import Search

/// Forms of the runs that build the library and search with it.
extension Form {
  /// A form for the operators of the library.
  static func library(of state: AppState) -> Form {
    let score = ScoreSettings()
    let known = state.library.costs?.conditions
    var form = Form(
      purpose: .library,
      fields: [
        Field(
          "run.blocks", "blocks", "all", .text,
          summary: "blocks whose operators are trained: \(SlotSelection.forms)"),
        number(
          "steps", "steps", LibraryRequest.steps, 0...1_000_000,
          "steps of stage 1 after the fit in closed form; 0 for the fit alone"),
      ])
    form.more =
      [
        number(
          "samples", "score samples", score.samples, 1...100_000,
          "noisy samples on which each operator's error is measured"),
        Field(
          "run.guidance", "score guidance", score.guidance, in: -100...100,
          isInteger: false,
          summary: "classifier-free guidance of the predictions that are compared"),
        number(
          "batch", "timed images", known?.batch ?? score.timingBatch, 1...4096,
          "times of other batches are not compared"),
        Field(
          "run.size", "size limit", 50, in: 1e-3...1e6, isInteger: false, unit: "10^9 bytes",
          summary: "operators with the largest errors go first"),
      ] + options(of: state)
    form.addQueue(beside: state.runs.aliveTraining)
    return form
  }

  /// A form for a search that observes the locks of the pane.
  static func search(_ pane: SearchPane, of state: AppState) -> Form {
    let defaults = SearchRequest(planPath: "", measure: pane.measure.rawValue, budgets: [])
    let percent = (1000 * pane.budget).rounded(.up) / 1000
    var form = Form(
      purpose: .search(pane.constraints),
      fields: [
        Field(
          "run.measure", "budgets count", pane.measure.rawValue,
          .choice(Measure.allCases.map(\.rawValue)), summary: "what the budgets are fractions of"),
        Field(
          "run.budgets", "budgets", Format.plain(percent), .text,
          summary: "fractions of the teacher's amount, above 0 and at most 1, such as 0.9 0.8 0.7"),
        number(
          "recovery", "steps of recovery", defaults.recoverySteps, 0...1_000_000,
          "steps of stage 2 before the second error of every plan; 0 for none"),
      ])
    form.more =
      [
        number(
          "pool", "diverse plans", defaults.pool, 1...100,
          "plans that are evaluated whole for each budget"),
        number(
          "distance", "distance", defaults.distance, 1...1000, "slots in which they differ at least"
        ),
        number("swaps", "single changes", defaults.swaps, 0...1000, "tried on the best plan"),
        number(
          "finalists", "finalists", defaults.finalists, 1...100, "plans reported for each budget"),
        number(
          "samples", "error samples", defaults.score.samples, 1...100_000,
          "noisy samples on which errors are measured"),
      ] + options(of: state)
    form.addQueue(beside: state.runs.aliveTraining)
    return form
  }

  private static func number(
    _ key: String, _ title: String, _ value: Int, _ range: ClosedRange<Int>, _ summary: String
  ) -> Field {
    Field(
      "run.\(key)", title, Double(value), in: Double(range.lowerBound)...Double(range.upperBound),
      isInteger: true, summary: summary)
  }

  /// Options of the run, in the precision that the library was timed in.
  private static func options(of state: AppState) -> [Field] {
    RunOptions.fields(isQueued: state.runs.aliveTraining != nil).map { field in
      guard field.key == "run.precision", let known = state.library.costs?.conditions?.precision
      else { return field }
      return Field(field.key, field.title, known, field.content, summary: field.summary)
    }
  }

  /// A number of the form, shown or not.
  private func count(_ key: String, _ initial: Int) -> Int {
    (fields + more).first { $0.key == "run.\(key)" }?.value.map { Int($0) } ?? initial
  }

  private func amount(_ key: String, _ initial: Double) -> Double {
    (fields + more).first { $0.key == "run.\(key)" }?.value ?? initial
  }

  /// The request for a library.
  ///
  /// - Throws: `PlanError` for blocks of another form or an unknown score.
  func libraryRequest(depth: Int, scores: SlotScores) throws(PlanError) -> LibraryRequest {
    let typed = text("run.blocks") ?? "all"
    let chosen = try SlotSelection.blocks(typed, depth: depth, slot: .attention, scores: scores)
    guard !chosen.isEmpty else {
      throw PlanError(key: nil, "\(typed) selects no block; choose others")
    }
    let blocks = chosen.count == depth ? "all" : chosen.map(String.init).joined(separator: ",")
    var request = LibraryRequest(
      planPath: "plan.json", blocks: blocks == "all" ? nil : blocks,
      steps: count("steps", LibraryRequest.steps), sizeLimit: amount("size", 50))
    request.score.samples = count("samples", request.score.samples)
    request.score.guidance = amount("guidance", request.score.guidance)
    request.score.timingBatch = count("batch", request.score.timingBatch)
    return request
  }

  /// The request for a search; nil for budgets that are no fractions.
  func searchRequest(timedWith batch: Int?) -> SearchRequest? {
    guard case .search(let constraints) = purpose else { return nil }
    let words = (text("run.budgets") ?? "").split { $0 == " " || $0 == "," }
    let budgets = words.compactMap { Double($0) }.filter { (1e-3...1).contains($0) }
    guard !budgets.isEmpty, budgets.count == words.count else { return nil }
    var request = SearchRequest(
      planPath: "plan.json", measure: text("run.measure") ?? Measure.time.rawValue,
      budgets: budgets)
    request.kept = constraints.kept.sorted().map(\.description)
    request.mostOperators = constraints.mostOperators
    request.recoverySteps = count("recovery", request.recoverySteps)
    request.pool = count("pool", request.pool)
    request.distance = count("distance", request.distance)
    request.swaps = count("swaps", request.swaps)
    request.finalists = count("finalists", request.finalists)
    request.score.samples = count("samples", request.score.samples)
    if let batch { request.score.timingBatch = batch }
    return request
  }
}

extension AppState {
  /// Starts the run of a form for the library or a search.
  mutating func startSearching(_ form: Form) -> [Effect] {
    var own = plan
    (own.edits, own.parallel) = ([:], [:])
    let job: Job
    if case .search(let constraints) = form.purpose {
      guard let request = form.searchRequest(timedWith: library.costs?.conditions?.batch) else {
        return refuse(
          form, "budgets: give fractions above 0 and at most 1, separated by spaces")
      }
      own.edits = constraints.required
      job = .search(request)
    } else {
      do throws(PlanError) {
        job = .library(try form.libraryRequest(depth: depth, scores: slotScores))
      } catch {
        return refuse(form, "blocks: \(error)")
      }
    }
    overlays.removeLast()
    notice = .note("starting the worker …")
    return [.startSearching(job, own, RunOptions(form))]
  }
}
