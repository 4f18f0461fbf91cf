import Files
import Plans

/// How guided predictions are compared with the teacher's in a library and a search.
package struct ScoreSettings: Codable, Equatable, Sendable {
  /// Noisy samples.
  package var samples = 32
  /// Steps of the sampler whose timesteps are taken.
  package var steps = 25
  package var guidance = 2.0
  package var seed: UInt64 = 0
  /// Images of a timed forward pass.
  package var timingBatch = 2

  /// Makes the settings of a family: steps and guidance of its sampler.
  package init(of family: ModelFamily = .dit) {
    (steps, guidance) = family.samplerDefaults
  }

  private enum CodingKeys: String, CodingKey {
    case samples, steps, guidance, seed
    case timingBatch = "timing_batch"
  }

  func checkNumbers() throws(FileError) {
    try FileNumber.check("score.samples", samples, 1...100_000)
    try FileNumber.check("score.steps", steps, 1...1000)
    try FileNumber.check("score.guidance", guidance, -1e6...1e6)
    try FileNumber.check("score.timing_batch", timingBatch, 1...4096)
  }
}

/// Request for trained and measured operators of every slot of a model.
package struct LibraryRequest: Codable, Equatable, Sendable {
  /// Plan with model, data, seed and settings of stage 1, relative to the run directory.
  package var planPath: String
  /// Operators for each kind of slot; nil takes the default ones.
  package var candidates: [String: [OperatorSpec]]?
  /// Blocks, as a selection; nil takes all.
  package var blocks: String?
  /// Steps of stage 1 after the fit in closed form.
  package var steps: Int
  package var score = ScoreSettings()
  /// Root of the libraries; nil takes the default one.
  package var root: String?
  /// 10^9 bytes that the model's library may take; the operators with the largest errors go first.
  package var sizeLimit: Double

  /// Default number of steps.
  package static let steps = 40

  package init(
    planPath: String, candidates: [String: [OperatorSpec]]? = nil, blocks: String? = nil,
    steps: Int = LibraryRequest.steps, root: String? = nil, sizeLimit: Double = 50
  ) {
    (self.planPath, self.candidates, self.blocks) = (planPath, candidates, blocks)
    (self.steps, self.root, self.sizeLimit) = (steps, root, sizeLimit)
  }

  private enum CodingKeys: String, CodingKey {
    case planPath = "plan_path"
    case candidates, blocks, steps, score, root
    case sizeLimit = "size_limit_gb"
  }

  func checkNumbers() throws(FileError) {
    try FileNumber.check("steps", steps, 0...1_000_000)
    try FileNumber.check("size_limit_gb", sizeLimit, 1e-3...1e6)
    try score.checkNumbers()
  }
}

/// Request for the best plans of a model with a library.
package struct SearchRequest: Codable, Equatable, Sendable {
  /// Plan with model, data, seed and settings of stage 2, relative to the run directory; its edits are kept.
  package var planPath: String
  /// What budgets are counted in: time, flops, parameters or memory.
  package var measure: String
  /// Budgets as fractions of the teacher's amount.
  package var budgets: [Double]
  /// Slots that keep the teacher's operator.
  package var kept: [String] = []
  /// Largest number of different operators; nil for any.
  package var mostOperators: Int?
  /// Plans evaluated whole for each budget, and the number of slots in which they differ at least.
  package var pool = 6
  package var distance = 4
  /// Single changes of the best plan that are tried.
  package var swaps = 6
  /// Plans for each budget that go through a short stage 2, and its steps; 0 for none.
  package var finalists = 2
  package var recoverySteps = 40
  /// Number of seeds of noise and stage 2 with which every plan and baseline is measured; nil, in requests of
  /// before, is 1.
  package var seeds: Int?
  /// Images of every plan and seed that are compared with the teacher's from the same noise; nil is none.
  package var images: Int?
  package var score = ScoreSettings()
  package var root: String?

  /// Allowed numbers of seeds.
  package static let seedRange = 1...30
  /// Allowed numbers of compared images; a distance needs two.
  package static let imageRange = 2...100_000

  package init(planPath: String, measure: String, budgets: [Double]) {
    (self.planPath, self.measure, self.budgets) = (planPath, measure, budgets)
  }

  private enum CodingKeys: String, CodingKey {
    case planPath = "plan_path"
    case measure, budgets, kept, pool, distance, swaps, finalists, seeds, images, score, root
    case mostOperators = "most_operators"
    case recoverySteps = "recovery_steps"
  }

  func checkNumbers() throws(FileError) {
    for budget in budgets { try FileNumber.check("budgets", budget, 1e-3...1) }
    try FileNumber.check("most_operators", mostOperators, 0...64)
    try FileNumber.check("pool", pool, 1...100)
    try FileNumber.check("distance", distance, 1...1000)
    try FileNumber.check("swaps", swaps, 0...1000)
    try FileNumber.check("finalists", finalists, 0...100)
    try FileNumber.check("recovery_steps", recoverySteps, 0...1_000_000)
    try FileNumber.check("seeds", seeds, Self.seedRange)
    try FileNumber.check("images", images, Self.imageRange)
    try score.checkNumbers()
  }
}
