import Autograd
import Datasets
import Models
import Operators
import Plans
import Sampling
import Search
import TensorCore

/// Error of a changed model's guided noise prediction, relative to the teacher's, on fixed noisy samples.
///
/// An estimate is the squared error divided by the squared prediction. The timesteps are those of a sampler, evenly often, so that an error counts where it would be made. The inputs of
/// all blocks of the teacher are kept: a change is measured from its block on.
package final class GuidedError {
  private let teacher: DiT
  private let guidance: Float
  private let guidedChannels: Int
  private let parts: [Part]

  /// Some samples: rows of the conditional prediction, then of the unconditional one.
  private struct Part {
    let rows: Int
    let latents: Tensor
    let conditioning: Conditioning
    let modulations: DiT.Modulations
    /// Input of every block, and of the final layer.
    let states: [Tensor]
    /// The teacher's guided prediction (rows, channels, height, width).
    let target: Tensor
  }

  /// Samples run at a time.
  private static let partRows = 8

  /// Runs the teacher on the samples.
  ///
  /// - Parameters:
  ///   - teacher: The pretrained model.
  ///   - dataset: Normalised latents with labels.
  ///   - samples: Number of noisy samples.
  ///   - sampler: Its timesteps and guidance are taken.
  ///   - seed: Seed of samples and noise.
  ///   - progress: Called with the numbers of samples done and of all; may throw to stop.
  /// - Throws: `SamplingError` for an invalid number of steps, and errors of `progress`.
  package init(
    teacher: DiT, dataset: LatentDataset, samples: Int, sampler: LatentSampler, seed: UInt64,
    progress: (Int, Int) throws -> Void = { _, _ in }
  ) throws {
    self.teacher = teacher
    let null = teacher.config.nullClass
    let isGuided = null != nil && sampler.guidance != 1
    guidance = isGuided ? sampler.guidance : 1
    guidedChannels =
      sampler.guidedChannels
      ?? (teacher.config.frequencyShift == 0 ? Guidance.guidedChannels : teacher.config.inChannels)
    let timesteps = try sampler.timesteps()
    let diffusion = try GaussianDiffusion(spacing: "")
    let batch = dataset.batch(
      0..<samples, seed: seed, name: "search", nullClass: null, labelDropout: 0)
    var parts: [Part] = []
    for first in stride(from: 0, to: samples, by: Self.partRows) {
      try progress(first, samples)
      let range = first..<min(samples, first + Self.partRows)
      let steps = range.map {
        timesteps[($0 * timesteps.count + timesteps.count / 2) / samples % timesteps.count]
      }
      let noisy = diffusion.noisy(
        batch.latents.rows(range), noise: batch.noise.rows(range), steps: steps)
      let copies = isGuided ? 2 : 1
      let latents = Tensor([copies * range.count] + noisy.shape.dropFirst())
      for copy in 0..<copies {
        latents.rows((copy * range.count)..<((copy + 1) * range.count)).assign(noisy)
      }
      let labels = Array(batch.labels[range])
      let nulls = null.map { [Int](repeating: $0, count: range.count) } ?? []
      let times = diffusion.modelTimesteps(steps)
      let conditioning = Conditioning(
        timesteps: isGuided ? times + times : times, labels: isGuided ? labels + nulls : labels)
      let tape = Tape(recording: false)
      let modulations = teacher.modulations(conditioning, on: tape)
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
          rows: range.count, latents: latents, conditioning: conditioning, modulations: modulations,
          states: states,
          target: Self.guided(
            output.tensor, rows: range.count, channels: teacher.config.inChannels,
            guidedChannels: guidedChannels, scale: guidance)))
    }
    self.parts = parts
  }

  /// e_u + scale (e_c - e_u) in the guided channels, e_c in the others.
  private static func guided(
    _ output: Tensor, rows: Int, channels: Int, guidedChannels: Int, scale: Float
  ) -> Tensor {
    let plane = output.shape[2] * output.shape[3]
    let (width, all) = (channels * plane, output.count / output.shape[0])
    let result = Tensor([rows, channels] + output.shape[2...])
    for row in 0..<rows {
      let conditional = output.pointer + row * all
      let target = result.pointer + row * width
      target.update(from: conditional, count: width)
      guard output.shape[0] == 2 * rows else { continue }
      let other = output.pointer + (rows + row) * all
      for index in 0..<(min(guidedChannels, channels) * plane) {
        target[index] = other[index] + scale * (conditional[index] - other[index])
      }
    }
    return result
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
        with: operators,
        on: tape)
      return teacher.resumed(at: id.block + 1, hidden, part.modulations, on: tape)
    }
  }

  /// Error of a whole model.
  package func callAsFunction(_ model: any DiffusionTransformer) -> Estimate {
    estimate { part, tape in
      model(Value(constant: part.latents), part.conditioning, on: tape)
    }
  }

  /// Error of a model that differs from the teacher from a block on.
  package func callAsFunction(_ model: DiT, from block: Int) -> Estimate {
    estimate { part, tape in
      model.resumed(at: block, Value(constant: part.states[block]), part.modulations, on: tape)
    }
  }

  private func estimate(_ run: (Part, Tape) -> Value) -> Estimate {
    var (errors, squares): ([Double], [Double]) = ([], [])
    for part in parts {
      let found = Self.guided(
        run(part, Tape(recording: false)).tensor, rows: part.rows,
        channels: teacher.config.inChannels, guidedChannels: guidedChannels, scale: guidance)
      let width = found.count / part.rows
      for row in 0..<part.rows {
        var (error, square) = (0.0, 0.0)
        for index in (row * width)..<((row + 1) * width) {
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
