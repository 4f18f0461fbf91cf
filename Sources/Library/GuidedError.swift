import Autograd
import Datasets
import Models
import Operators
import Plans
import Sampling
import Search
import TensorCore

/// Error of a changed model's guided prediction, noise or velocity, relative to the teacher's, on fixed noisy samples.
///
/// An estimate is the squared error divided by the squared prediction. The times are those of a sampler, evenly
/// often, so that an error counts where it would be made. The inputs of all blocks of the teacher are kept: a change
/// is measured from its block on.
package final class GuidedError {
  private let teacher: any DiffusionTransformer
  private let guidedChannels: Int
  private let parts: [Part]
  private let process: TrainingProcess
  /// Steps or times of the sampler in its order.
  private let draws: TrainingProcess.Draws

  /// Some samples: rows of the conditional prediction, then of the unconditional one.
  private struct Part {
    /// Clean latents and their noise.
    let clean, noise: Tensor
    /// Place of every sample in the order of the sampler.
    let places: [Int]
    /// Guidance scale of every sample.
    let guidance: [Float]
    let condition: Conditioning.Condition
    let latents: Tensor
    let modulations: Modulations
    /// Input of every block.
    let states: [Tensor]
    /// The teacher's guided prediction (rows, channels, height, width), with any learned variances behind it.
    let target: Tensor

    var rows: Int { clean.shape[0] }
    var copies: Int { latents.shape[0] / rows }
  }

  /// Samples run at a time.
  private static let partRows = 8

  /// Runs the teacher on the samples.
  ///
  /// - Parameters:
  ///   - teacher: The pretrained model.
  ///   - dataset: Normalised latents with labels or captions.
  ///   - samples: Number of noisy samples.
  ///   - sampler: Its times and guidance are taken.
  ///   - seed: Seed of samples and noise.
  ///   - progress: Called with the numbers of samples done and of all; may throw to stop.
  /// - Throws: `SamplingError` for an invalid number of steps, and errors of `progress`.
  package init(
    teacher: any DiffusionTransformer, dataset: LatentDataset, samples: Int,
    sampler: LatentSampler, seed: UInt64, progress: (Int, Int) throws -> Void = { _, _ in }
  ) throws {
    self.teacher = teacher
    let shape = teacher.shape
    let hasNull = dataset.texts.map { $0.null != nil } ?? (shape.nullClass != nil)
    let isGuided = hasNull && sampler.guidance != 1
    guidedChannels = sampler.guidedChannels(of: shape)
    process = try TrainingProcess(of: shape.family)
    draws = try sampler.trainingDraws()
    let steps = draws.steps.count
    let batch = dataset.batch(
      0..<samples, seed: seed, name: "search", nullClass: shape.nullClass, labelDropout: 0)
    var parts: [Part] = []
    for first in stride(from: 0, to: samples, by: Self.partRows) {
      try progress(first, samples)
      let range = first..<min(samples, first + Self.partRows)
      let places = range.map { steps - 1 - ($0 * steps + steps / 2) / samples % steps }
      let own = draws[places]
      let guidance = sampler.guidance(at: own)
      let (clean, noise) = (batch.latents.rows(range), batch.noise.rows(range))
      let latents = Self.repeated(
        process.noisy(clean, noise: noise, own), isGuided ? 2 : 1)
      let condition = Self.condition(batch, range, dataset, isGuided ? shape : nil)
      let times = process.modelTimes(own)
      let tape = Tape(recording: false)
      let modulations = teacher.modulations(
        Conditioning(timesteps: isGuided ? times + times : times, condition: condition), on: tape,
        observe: nil)
      var states: [Tensor] = []
      let output = teacher(
        Value(constant: latents), modulations, on: tape,
        observe: { name, value in
          if name.hasPrefix("blocks."), name.hasSuffix(".in") {
            states.append(value.tensor.copied())
          }
        })
      parts.append(
        Part(
          clean: clean, noise: noise, places: places, guidance: guidance, condition: condition,
          latents: latents,
          modulations: modulations, states: states,
          target: isGuided
            ? Guidance.combined(output.tensor, scales: guidance, channels: guidedChannels)
            : output.tensor))
    }
    self.parts = parts
  }

  /// Labels or captions of rows of a batch, followed by those without a condition for a guided prediction.
  private static func condition(
    _ batch: DiffusionBatch, _ range: Range<Int>, _ dataset: LatentDataset, _ guided: ModelShape?
  ) -> Conditioning.Condition {
    guard let captions = batch.captions else {
      let labels = Array(batch.labels[range])
      let null = guided?.nullClass.map { [Int](repeating: $0, count: labels.count) }
      return .labels(labels + (null ?? []))
    }
    var shown = captions.selecting(Array(range), length: captions.length)
    if guided != nil, let null = dataset.texts?.null {
      shown = shown.followed(
        by: null.selecting([Int](repeating: 0, count: range.count), length: null.length))
    }
    return Conditioning(timesteps: [], captions: shown).condition
  }

  /// A batch repeated several times.
  private static func repeated(_ batch: Tensor, _ copies: Int) -> Tensor {
    batch.selecting((0..<copies).flatMap { _ in 0..<batch.shape[0] })
  }

  /// Error with another operator in one slot.
  package func callAsFunction(_ id: SlotID, _ replacement: any GraftOperator) -> Estimate {
    var operators = BlockOperators()
    switch id.slot {
    case .attention: operators.sequenceMixer = replacement as? any SequenceMixer
    case .mlp: operators.channelMixer = replacement as? any ChannelMixer
    }
    return estimate { part, tape in
      let hidden = teacher.output(
        ofBlock: id.block, Value(constant: part.states[id.block]), part.modulations,
        grid: teacher.grid, with: operators, on: tape, observe: nil)
      return teacher.resumed(at: id.block + 1, hidden, part.modulations, on: tape)
    }
  }

  /// Error of a whole model.
  package func callAsFunction(_ model: any DiffusionTransformer) -> Estimate {
    estimate { part, tape in
      let times = process.modelTimes(draws[part.places])
      let rows = (0..<part.copies).flatMap { _ in times }
      return model(
        Value(constant: part.latents), Conditioning(timesteps: rows, condition: part.condition),
        on: tape)
    }
  }

  /// Error of a model that differs from the teacher from a block on.
  package func callAsFunction(_ model: any DiffusionTransformer, from block: Int) -> Estimate {
    estimate { part, tape in
      model.resumed(at: block, Value(constant: part.states[block]), part.modulations, on: tape)
    }
  }

  /// Error of the teacher with step caching.
  ///
  /// Every sample goes with its noise through the steps of the sampler, and counts at its own.
  /// - Parameters:
  ///   - cache: When steps are reused.
  ///   - reuse: Counts evaluations.
  ///   - progress: Called before every step; may throw to stop.
  /// - Returns: The error.
  /// - Throws: Errors of `progress`.
  package func callAsFunction(
    _ cache: StepCache, reuse: StepReuse? = nil, progress: () throws -> Void = {}
  ) throws -> Estimate {
    try estimate { part, _ in
      let times = (0..<draws.steps.count).map { process.modelTimes(draws[[$0]])[0] }
      let network = StepCachedNetwork(
        teacher, teacher.modulations(along: times, part.condition), cache, reuse: reuse)
      var result: Tensor?
      for (place, time) in times.enumerated() {
        try progress()
        let own = draws[[Int](repeating: place, count: part.rows)]
        let output = network(
          Self.repeated(process.noisy(part.clean, noise: part.noise, own), part.copies), time)
        let kept = result ?? Tensor(output.shape)
        for (row, wanted) in part.places.enumerated() where wanted == place {
          for copy in 0..<part.copies {
            let range = (copy * part.rows + row)..<(copy * part.rows + row + 1)
            kept.rows(range).assign(output.rows(range))
          }
        }
        result = kept
      }
      return Value(constant: result ?? part.target)
    }
  }

  private func estimate(_ run: (Part, Tape) throws -> Value) rethrows -> Estimate {
    var (errors, squares): ([Double], [Double]) = ([], [])
    for part in parts {
      let output = try run(part, Tape(recording: false)).tensor
      let found =
        part.copies == 2
        ? Guidance.combined(output, scales: part.guidance, channels: guidedChannels) : output
      let width = found.count / part.rows
      let predicted = teacher.shape.inChannels * found.shape[2] * found.shape[3]
      for row in 0..<part.rows {
        var (error, square) = (0.0, 0.0)
        for index in (row * width)..<(row * width + predicted) {
          let target = Double(part.target[index])
          let difference = Double(found[index]) - target
          error += difference * difference
          square += target * target
        }
        errors.append(error)
        squares.append(square)
      }
    }
    let total = squares.reduce(0, +)
    let ratio = errors.reduce(0, +) / total
    let count = Double(errors.count)
    let rest = zip(errors, squares).reduce(0) { sum, pair in
      let difference = pair.0 - ratio * pair.1
      return sum + difference * difference
    }
    return Estimate(
      value: ratio, standardError: (rest * count / max(1, count - 1)).squareRoot() / total)
  }
}
