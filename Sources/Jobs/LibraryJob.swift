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

/// Trains, scores and times an operator of every kind for every slot of a model.
///
/// Operators are trained teacher-forced, so those of all slots fit into one plan: the candidates form columns, each
/// with one operator for every slot, which is a stage 1 of its own. What is finished is in the library, so that a run
/// that was stopped goes on with the column it was at.
struct LibraryJob {
  let context: JobContext

  /// One candidate for each of some slots.
  typealias Column = [SlotID: OperatorSpec]

  func perform(_ request: LibraryRequest) throws -> String {
    let (base, files) = try context.plan(at: request.planPath)
    let library = OperatorLibrary(modelHash: base.model.contentHash, root: request.root)
    var plan = base
    plan.edits = [:]
    plan.parallel = [:]
    plan.stage1.steps = max(1, request.steps)
    plan.stage1.ridgeFinish = request.steps > 0
    try context.emit(.started(pid: getpid(), totalSteps: 0))
    let settings = plan.stage1
    let precision = try context.precision()
    let teacher = try files.model.network()
    teacher.parameters.use(precision)
    let data = try context.trainingData(
      plan.data, for: files, teacher: teacher,
      samples: max(settings.drawnSamples, settings.ridgeSamples),
      heldOut: settings.heldOutSamples)
    let recipe = OperatorLibrary.Recipe(
      steps: request.steps, batchSize: settings.batchSize, learningRate: settings.learningRate,
      ridgeSamples: settings.ridgeSamples, seed: plan.seed, data: data.training.identity)
    let columns = try Self.columns(request, plan)
    for (index, column) in columns.enumerated() {
      let keys = column.map { library.key($0.key, $0.value, recipe) }
      if keys.allSatisfy(library.has) { continue }
      var own = plan
      own.edits = column
      try train(
        own.fitted(), request.steps, (index, columns.count), teacher, data, precision, recipe,
        library)
    }
    let wanted = Set(columns.flatMap { $0.map { library.key($0.key, $0.value, recipe) } })
    try score(request.score, wanted, plan, teacher, data, library)
    try time(request.score, wanted, plan, teacher, precision, library)
    let removed = library.prune(to: Int(request.sizeLimit * 1e9))
    if removed > 0 {
      try context.emit(
        .message(
          "removed \(removed) operators with the largest errors: the library is limited to"
            + " \(numberText(request.sizeLimit)) GB"))
    }
    try context.emit(.progress(done: wanted.count, total: wanted.count, label: "operators"))
    return "\(wanted.count) operators in \(library.folder)"
  }

  /// The candidates by columns.
  ///
  /// - Parameters:
  ///   - request: The request.
  ///   - plan: Model and settings of stage 1; its edits do not count.
  /// - Returns: The columns, each with at most one operator for every slot.
  /// - Throws: `PlanError` for an operator that the slot or the model cannot have.
  static func columns(_ request: LibraryRequest, _ plan: GraftPlan) throws -> [Column] {
    let shape = plan.model.shape
    let blocks = try request.blocks.map { try LayerSelection.parse($0, depth: shape.depth) }
    var columns: [Column] = []
    for slot in Slot.allCases {
      let given = request.candidates?[slot.rawValue]
      let specs =
        given?.map { $0.normalized(for: shape) } ?? DefaultCandidates.specs(slot, for: shape)
      for (index, spec) in specs.enumerated() {
        if index == columns.count { columns.append([:]) }
        for block in blocks ?? Array(0..<shape.depth) {
          columns[index][SlotID(block: block, slot: slot)] = spec
        }
      }
    }
    guard !columns.isEmpty else {
      throw FileError("the candidates are empty lists; name operators for \"attention\" or \"mlp\"")
    }
    var own = plan
    own.parallel = [:]
    for column in columns {
      own.edits = column
      try own.validate()
    }
    return columns
  }

  private func train(
    _ plan: GraftPlan, _ steps: Int, _ place: (Int, Int), _ teacher: any DiffusionTransformer,
    _ data: TrainingData,
    _ precision: Precision, _ recipe: OperatorLibrary.Recipe, _ library: OperatorLibrary
  ) throws {
    let names = Set(plan.edits.values.map(\.name)).sorted().joined(separator: ", ")
    let label = "training \(names)"
    let graft = try Graft(fresh: plan, teacher: teacher)
    graft.use(precision)
    let path = context.run.latestPath
    let hasCheckpoint = FileManager.default.fileExists(atPath: path)
    if !hasCheckpoint { try context.fitInitially(graft, graft.plan.sites, data.training) }
    let distillation = try ActivationDistillation(
      graft: graft, dataset: data.training, heldOut: data.heldOut)
    if hasCheckpoint {
      // A checkpoint of another column is one whose operators are all in the library.
      do { try distillation.resume(from: path) } catch is FileError {
        try FileManager.default.removeItem(atPath: path)
        return try train(plan, steps, place, teacher, data, precision, recipe, library)
      }
    }
    let total = place.1 * max(1, steps)
    var throttle = Throttle()
    var saved = Throttle.uptime()
    do {
      while distillation.step < steps {
        let done = place.0 * steps + distillation.step
        try context.checkpoint(step: done)
        let losses = distillation.trainStep()
        if let site = losses.filter({ !$0.value.isFinite }).keys.min() {
          throw FileError(
            "\(context.run.path): \(label): the loss of \(site.phrase) is not finite; lower stage1.learning_rate"
              + " of the plan")
        }
        if throttle.isDue() {
          try context.emit(.progress(done: done + 1, total: total, label: label))
        }
        if Throttle.uptime() - saved > 60 * settingsMinutes(plan) {
          try context.whenRoom { try distillation.saveCheckpoint(to: path) }
          saved = Throttle.uptime()
        }
      }
    } catch let interruption as JobInterruption {
      try context.whenRoom { try distillation.saveCheckpoint(to: path) }
      throw interruption
    }
    _ = try distillation.ridgeFinish { done, count in
      try context.checkpoint(step: place.0 * steps + steps)
      try context.emit(.progress(done: done, total: count, label: "fitting \(names)"))
    }
    let losses = try graft.relativeLosses(
      graft.plan.sites,
      on: TeacherActivations(
        teacher: teacher, dataset: data.heldOut, samples: plan.stage1.heldOutSamples,
        seed: plan.seed, labelDropout: plan.stage1.labelDropout))
    for (slot, spec) in plan.edits.sorted(by: { $0.key < $1.key }) {
      var entry = OperatorLibrary.Entry(slot: slot, spec: spec, recipe: recipe)
      entry.relativeLoss = losses[.slot(slot)]
      try context.whenRoom {
        try library.add(entry, of: graft, key: library.key(slot, spec, recipe))
      }
    }
    unlink(path)
  }

  private func settingsMinutes(_ plan: GraftPlan) -> Double {
    plan.stage1.checkpoints.minutes > 0 ? plan.stage1.checkpoints.minutes : .infinity
  }

  private func score(
    _ settings: ScoreSettings, _ wanted: Set<String>, _ plan: GraftPlan,
    _ teacher: any DiffusionTransformer,
    _ data: TrainingData, _ library: OperatorLibrary
  ) throws {
    let sampler = settings.sampler(of: teacher.shape.family)
    let name = "\(sampler.method.rawValue)\(sampler.steps)"
    func isCurrent(_ score: OperatorLibrary.Score?) -> Bool {
      score.map {
        ($0.samples, $0.guidance, $0.sampler, $0.seed)
          == (settings.samples, settings.guidance, name, settings.seed)
      } ?? false
    }
    let left = library.entries().filter { wanted.contains($0.key) && !isCurrent($0.entry.score) }
    guard !left.isEmpty else { return }
    let error = try GuidedError(
      teacher: teacher, dataset: data.heldOut, samples: settings.samples, sampler: sampler,
      seed: settings.seed
    ) { done, total in
      try context.checkpoint(step: 0)
      try context.emit(.progress(done: done, total: total, label: "running the teacher"))
    }
    var throttle = Throttle()
    for (index, (key, entry)) in left.enumerated() {
      try context.checkpoint(step: index)
      if throttle.isDue() {
        try context.emit(.progress(done: index, total: left.count, label: "scoring operators"))
      }
      guard let slot = entry.slotID else { continue }
      let graft = try graft(entry, plan, teacher, library.path(key))
      guard let replacement = graft.replacement(slot) else { continue }
      var entry = entry
      entry.score = .init(
        error(slot, replacement), samples: settings.samples, guidance: settings.guidance,
        sampler: name, seed: settings.seed)
      let scored = entry
      try context.whenRoom { try library.update(scored, key: key) }
    }
  }

  /// The graft of one operator.
  private func graft(
    _ entry: OperatorLibrary.Entry, _ plan: GraftPlan, _ teacher: any DiffusionTransformer,
    _ path: String
  ) throws -> Graft {
    var own = plan
    own.edits = entry.slotID.map { [$0: entry.spec] } ?? [:]
    let graft = try Graft(plan: own, teacher: teacher, checkpoints: [path])
    graft.use(try context.precision())
    return graft
  }

  /// Times each operator once, in the middle block that has it: blocks are alike.
  private func time(
    _ settings: ScoreSettings, _ wanted: Set<String>, _ plan: GraftPlan,
    _ teacher: any DiffusionTransformer,
    _ precision: Precision, _ library: OperatorLibrary
  ) throws {
    let conditions = OperatorLibrary.TimingConditions(
      batch: settings.timingBatch, precision: precision)
    let left = library.entries().filter {
      wanted.contains($0.key)
        && ($0.entry.timing?.conditions != conditions || $0.entry.timing?.teacher == nil)
    }
    guard !left.isEmpty else { return }
    let timing = OperatorTiming(teacher, batch: settings.timingBatch)
    let teacherSeconds = timing.seconds([]).teacher
    let alike = Dictionary(grouping: left) { item in
      Change.slot(SlotID(block: 0, slot: item.entry.slotID?.slot ?? .attention), item.entry.spec)
    }
    for (index, group) in alike.values.sorted(by: { $0[0].key < $1[0].key }).enumerated() {
      try context.checkpoint(step: index)
      try context.emit(.progress(done: index, total: alike.count, label: "timing operators"))
      let middle = group[group.count / 2]
      guard let slot = middle.entry.slotID,
        let replacement = try graft(middle.entry, plan, teacher, library.path(middle.key))
          .replacement(slot)
      else { continue }
      let saving = timing.saving(slot, replacement)
      for (key, entry) in group {
        var entry = entry
        entry.timing = .init(
          saving: saving, teacher: teacherSeconds, conditions: conditions)
        let timed = entry
        try context.whenRoom { try library.update(timed, key: key) }
      }
    }
  }
}

extension ScoreSettings {
  /// The sampler of a family whose steps and guidance count.
  func sampler(of family: ModelFamily) -> LatentSampler {
    var sampler = LatentSampler.defaults(of: family)
    (sampler.steps, sampler.guidance, sampler.seed) = (steps, Float(guidance), seed)
    return sampler
  }
}
