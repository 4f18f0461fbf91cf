import Checkpoints
import Files
import Foundation
import Plans

/// Trained replacements of single slots of a teacher, one file each, found by what they are: model, slot, operator
/// settings, recipe and data.
package struct OperatorLibrary {
  /// How an operator was trained.
  package struct Recipe: Codable, Equatable, Sendable {
    /// Steps of stage 1 after the fit in closed form.
    package let steps: Int
    package let batchSize: Int
    package let learningRate: Double
    /// Samples of the fits.
    package let ridgeSamples: Int
    package let seed: UInt64
    /// Digest of the training data.
    package let data: String

    /// Makes a recipe.
    package init(
      steps: Int, batchSize: Int, learningRate: Double, ridgeSamples: Int, seed: UInt64,
      data: String
    ) {
      (self.steps, self.batchSize, self.learningRate) = (steps, batchSize, learningRate)
      (self.ridgeSamples, self.seed, self.data) = (ridgeSamples, seed, data)
    }
  }

  /// Errors of guided predictions with one operator, and what they were measured with.
  package struct Score: Codable, Equatable, Sendable {
    package let error, standardError: Double
    package let samples: Int
    package let guidance: Double
    package let sampler: String
    package let seed: UInt64

    package init(
      _ estimate: Estimate, samples: Int, guidance: Double, sampler: String, seed: UInt64
    ) {
      (error, standardError) = (estimate.value, estimate.standardError)
      (self.samples, self.guidance, self.sampler, self.seed) = (samples, guidance, sampler, seed)
    }
  }

  /// Measured saving of one operator.
  package struct Timing: Codable, Equatable, Sendable {
    /// Seconds per forward pass of the batch that a block takes less.
    package let saving: Double
    /// Seconds of a forward pass of the teacher; nil in descriptions of before.
    package var teacher: Double?
    package let conditions: TimingConditions

    package init(saving: Double, teacher: Double? = nil, conditions: TimingConditions) {
      (self.saving, self.teacher, self.conditions) = (saving, teacher, conditions)
    }
  }

  /// What a time depends on besides the operator; times of other conditions are not compared.
  package struct TimingConditions: Codable, Equatable, Hashable, Sendable {
    package let processor: String
    package let threads, batch: Int
    package let precision: String

    package init(processor: String, threads: Int, batch: Int, precision: String) {
      (self.processor, self.threads) = (processor, threads)
      (self.batch, self.precision) = (batch, precision)
    }

    /// Name of this machine's processor.
    package static var processorName: String {
      let lines = (try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8)) ?? ""
      let name = lines.split(separator: "\n").first { $0.hasPrefix("model name") }
      return name?.split(separator: ":").last?.trimmingCharacters(in: .whitespaces) ?? "unknown"
    }
  }

  /// An operator with what is known of it.
  package struct Entry: Codable, Equatable, Sendable {
    /// The slot, such as `7.attention`.
    package let slot: String
    package let spec: OperatorSpec
    package let recipe: Recipe
    /// Held-out loss relative to the variance of the teacher's output.
    package var relativeLoss: Double?
    package var score: Score?
    package var timing: Timing?

    private enum CodingKeys: String, CodingKey {
      case slot, recipe, score, timing
      case spec = "operator"
      case relativeLoss = "relative_loss"
    }

    package init(slot: SlotID, spec: OperatorSpec, recipe: Recipe) {
      (self.slot, self.spec, self.recipe) = ("\(slot)", spec, recipe)
    }

    /// The slot; nil for a damaged entry.
    package var slotID: SlotID? { SlotID(slot) }

    /// Whether this program knows the operator, with these settings in this slot, and numbers are in their ranges.
    fileprivate var isUsable: Bool {
      guard let slot = slotID, let descriptor = OperatorCatalog.descriptor(named: spec.name)
      else { return false }
      return descriptor.slots.contains(slot.slot) && descriptor.refusal(ofValues: spec) == nil
        && recipe.steps >= 0 && areNumbersPlausible
    }

    /// Errors and losses from 0 up, times of at most a day.
    private var areNumbersPlausible: Bool {
      let errors = [relativeLoss, score?.error, score?.standardError].compactMap(\.self)
      guard errors.allSatisfy((0...1e12).contains) else { return false }
      guard let timing else { return true }
      let (day, conditions) = (86_400.0, timing.conditions)
      return (-day...day).contains(timing.saving)
        && (timing.teacher.map { $0 > 0 && $0 <= day } ?? true)
        && conditions.batch > 0 && conditions.threads > 0
    }
  }

  /// Folder of the model's operators.
  package let folder: String
  private let modelHash: String

  /// Opens the library of a model below a root, `$XDG_DATA_HOME/espalier/library` by default.
  package init(modelHash: String, root: String? = nil) {
    self.modelHash = modelHash
    folder = "\(root ?? Self.defaultRoot)/\(modelHash.prefix(16))"
  }

  /// The default root.
  package static var defaultRoot: String { UserDirectory.data.path() + "/library" }

  /// Name of an entry's files: a digest of all that determines its weights.
  package func key(_ slot: SlotID, _ spec: OperatorSpec, _ recipe: Recipe) -> String {
    let settings = spec.config.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
    let text = [
      modelHash, "\(slot)", spec.name, settings.joined(separator: ","), "\(recipe.steps)",
      "\(recipe.batchSize)", "\(recipe.learningRate)", "\(recipe.ridgeSamples)", "\(recipe.seed)",
      recipe.data,
    ].joined(separator: "\n")
    return String(ContentHash.sha256(Data(text.utf8)).prefix(32))
  }

  private func weights(_ key: String) -> String { "\(folder)/\(key).safetensors" }
  private func description(_ key: String) -> String { "\(folder)/\(key).json" }

  /// Whether an operator is there.
  package func has(_ key: String) -> Bool {
    isComplete(key) && access(description(key), R_OK) == 0
  }

  /// Whether the weights of an operator are there and whole.
  private func isComplete(_ key: String) -> Bool {
    (try? SafetensorsFile(path: weights(key))) != nil
  }

  /// Path of an operator's weights, a checkpoint for `Graft`.
  package func path(_ key: String) -> String { weights(key) }

  /// Replaces the description of an operator.
  ///
  /// - Throws: `FileError` if the disk is full or read-only.
  package func update(_ entry: Entry, key: String) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
    try AtomicFile.write(try encoder.encode(entry), to: description(key))
  }

  /// All complete entries by key, in the order of blocks, slots and operators; damaged ones are left out, and those
  /// whose operator or settings this program does not know.
  package func entries() -> [(key: String, entry: Entry)] {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
    let keys = names.filter { $0.hasSuffix(".json") }.map { String($0.dropLast(5)) }
    let found = keys.compactMap { key -> (key: String, entry: Entry)? in
      guard let text = try? AtomicFile.read(description(key), limit: 1 << 20),
        let entry = try? JSONDecoder().decode(Entry.self, from: Data(text)),
        entry.isUsable, let slot = entry.slotID,
        self.key(slot, entry.spec, entry.recipe) == key, isComplete(key)
      else { return nil }
      return (key, entry)
    }
    return found.sorted { one, other in
      guard let first = one.entry.slotID, let second = other.entry.slotID else { return false }
      if first != second { return first < second }
      return (one.entry.spec.name, one.key) < (other.entry.spec.name, other.key)
    }
  }

  /// Paths of the weights that a plan can take: for each edited slot the operator of the longest training.
  package func checkpoints(for plan: GraftPlan) -> [SlotID: String] {
    var best: [SlotID: (steps: Int, path: String)] = [:]
    for (key, entry) in entries() {
      guard let slot = entry.slotID,
        plan.edits[slot]?.normalized(for: plan.model.shape) == entry.spec
      else { continue }
      if best[slot].map({ $0.steps < entry.recipe.steps }) ?? true {
        best[slot] = (entry.recipe.steps, weights(key))
      }
    }
    return best.mapValues(\.path)
  }

  /// Size of all files in bytes.
  package var bytes: Int {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
    return names.reduce(0) { $0 + size("\(folder)/\($1)") }
  }

  private func size(_ path: String) -> Int {
    var status = stat()
    return stat(path, &status) == 0 ? Int(status.st_size) : 0
  }

  /// Removes operators until the rest fits a size: those with the highest errors first, unscored ones before them.
  ///
  /// - Parameter budget: Bytes that may stay.
  /// - Returns: The number of operators removed.
  package func prune(to budget: Int) -> Int {
    var left = bytes
    var removed = 0
    let worst = entries().sorted {
      ($0.entry.score?.error ?? .infinity) > ($1.entry.score?.error ?? .infinity)
    }
    for (key, _) in worst where left > budget {
      // Without its description an operator no longer counts.
      for path in [description(key), weights(key)] {
        left -= size(path)
        unlink(path)
      }
      removed += 1
    }
    return removed
  }

  /// Candidates of a search among some entries: scored and timed operators, the best one of equal slot and settings.
  ///
  /// - Parameters:
  ///   - entries: The operators.
  ///   - conditions: Conditions of the times; entries timed in others are left out.
  ///   - shape: The teacher's architecture, for parameters, FLOPs and memory.
  ///   - teacherSeconds: The teacher's present time, to which savings are scaled: a saving is a share of the
  ///     time that the teacher took when the operator was timed. Nil leaves them as they were measured.
  /// - Returns: The candidates.
  package static func candidates(
    _ entries: [Entry], timedIn conditions: TimingConditions, shape: ModelShape,
    teacherSeconds: Double? = nil
  ) -> [Candidate] {
    var best: [Change: Candidate] = [:]
    for entry in entries {
      guard let slot = entry.slotID, let score = entry.score, let timing = entry.timing,
        timing.conditions == conditions, slot.block < shape.depth,
        let descriptor = OperatorCatalog.descriptor(named: entry.spec.name),
        descriptor.refusal(of: entry.spec, shape: shape) == nil
      else { continue }
      let change = Change.slot(slot, entry.spec)
      let (old, new) = (
        shape.operatorCost(shape.original(slot.slot)), shape.operatorCost(entry.spec)
      )
      let scale = teacherSeconds.flatMap { now in timing.teacher.map { now / $0 } } ?? 1
      let candidate = Candidate(
        change, loss: score.error, standardError: score.standardError,
        saving: Amounts(
          time: scale * timing.saving, flops: old.flops - new.flops,
          parameters: Double(old.parameters - new.parameters), memory: old.bytes - new.bytes))
      if best[change].map({ $0.loss > candidate.loss }) ?? true { best[change] = candidate }
    }
    return Array(best.values)
  }

  /// Median of the teacher's times beside which operators were timed in some conditions; nil without any.
  package static func teacherSeconds(
    _ entries: [Entry], timedIn conditions: TimingConditions
  ) -> Double? {
    let timings = entries.compactMap(\.timing).filter { $0.conditions == conditions }
    let times = timings.compactMap(\.teacher).sorted()
    return times.isEmpty ? nil : times[times.count / 2]
  }
}
