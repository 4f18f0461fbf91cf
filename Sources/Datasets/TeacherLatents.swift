import Foundation
import Models
import Plans
import Sampling
import TensorCore

/// Samples that a class-conditional teacher draws itself, for training without data.
///
/// A trajectory begins with noise and is denoised in even steps with guidance; its noise, its class and where its
/// times lie within the steps follow from seed, stream and number of the trajectory. A step of a training takes
/// members of a pool: each gives its noisy latents and is then denoised by one step, and begins a new trajectory
/// after the last one. A member's state is a function of the number of its uses, so that a resumed training
/// goes on with the same bytes and nothing of the pool is saved.
package final class TeacherLatents {
  private let teacher: any DiffusionTransformer
  private let process: TrainingProcess
  private let settings: DataSettings
  /// The last prediction of each member of a pool.
  private var members: [Member: Prediction] = [:]
  /// Clean latents of finished trajectories by number.
  private var finished: [Int: [Float]] = [:]
  private let lock = NSLock()

  /// Name of the random streams.
  private static let stream = "self"

  private struct Member: Hashable {
    let seed: UInt64
    let stage: String
    let number: Int
  }

  /// A state of a trajectory: clean latents and noise (1, channels, height, width) that the guided teacher
  /// predicts, of which the noisy latents are made again.
  private struct Prediction {
    /// Uses of the member, counted from the start of its first trajectory.
    let use: Int
    let data, noise: Tensor
  }

  /// Makes a source.
  ///
  /// - Parameters:
  ///   - teacher: A class-conditional model.
  ///   - settings: Guidance, steps and size of the pool.
  /// - Throws: `SamplingError`, never in practice.
  package init(teacher: any DiffusionTransformer, settings: DataSettings) throws {
    (self.teacher, self.settings) = (teacher, settings)
    process = try TrainingProcess(of: teacher.shape.family)
  }

  private var steps: Int { settings.poolSteps }

  // MARK: - The pool

  /// Members of the pool that a step of a training takes, before they are denoised.
  ///
  /// - Parameters:
  ///   - rows: Samples of the step.
  ///   - seed: Seed of the training.
  ///   - stage: `stage1` or `stage2`.
  ///   - step: Number of the step.
  ///   - nullClass: Label that replaces dropped labels; nil drops none.
  ///   - labelDropout: Probability of dropping a label.
  /// - Returns: The samples; latents and noise are the teacher's predictions.
  package func batch(
    rows: Int, seed: UInt64, stage: String, step: Int, nullClass: Int?, labelDropout: Double
  ) -> DiffusionBatch {
    let groups = max(1, settings.pool / rows)
    let (group, use) = (step % groups, step / groups)
    let places = (0..<rows).map { row in
      // Members begin at different steps, those of one batch as far apart as possible.
      Place(
        member: Member(seed: seed, stage: stage, number: group * rows + row), pool: groups * rows,
        use: use + (row * groups + group) * steps / (groups * rows), steps: steps)
    }
    var predictions = [Prediction?](repeating: nil, count: rows)
    predictions.withUnsafeMutableBufferPointer { predictions in
      Parallel.tasks(rows) { predictions[$0] = prediction(places[$0]) }
    }
    let shape = teacher.shape
    let size = [shape.inChannels, shape.inputSize, shape.inputSize]
    let (data, noise) = (Tensor([rows] + size), Tensor([rows] + size))
    for (row, prediction) in predictions.enumerated() {
      guard let prediction else { continue }
      members[places[row].member] = prediction
      data.rows(row..<(row + 1)).assign(prediction.data)
      noise.rows(row..<(row + 1)).assign(prediction.noise)
    }
    let dropout = RandomStream(seed: seed, "\(stage)/\(step)/label")
    let draws = places.map { self.draws(of: $0.trajectory, at: $0.step, $0.stream) }
    return DiffusionBatch(
      latents: data, noise: noise, steps: draws.map { $0.steps[0] },
      times: draws.map { $0.times[0] },
      labels: places.enumerated().map { row, place in
        dropout.uniform(row) < labelDropout
          ? nullClass ?? label(of: place.trajectory, place.stream)
          : label(of: place.trajectory, place.stream)
      })
  }

  /// Where a member stands.
  private struct Place {
    let member: Member
    /// Number of members.
    let pool: Int
    let use, steps: Int
    var trajectory: Int { member.number + use / steps * pool }
    var step: Int { use % steps }
    var stream: (seed: UInt64, name: String) {
      (member.seed, "\(member.stage)/\(TeacherLatents.stream)")
    }
  }

  private func prediction(_ place: Place) -> Prediction {
    let known = members[place.member]
    if let known, known.use == place.use { return known }
    let start = place.use - place.step
    var last = known.flatMap { start <= $0.use && $0.use < place.use ? $0 : nil }
    for use in (last.map { $0.use + 1 } ?? start)...place.use {
      let (data, noise) = advance(place.trajectory, to: use - start, from: last, place.stream)
      last = Prediction(use: use, data: data, noise: noise)
    }
    guard let last else { preconditionFailure("TeacherLatents: no step") }
    return last
  }

  // MARK: - Trajectories

  private typealias Stream = (seed: UInt64, name: String)

  private func label(of trajectory: Int, _ stream: Stream) -> Int {
    RandomStream(seed: stream.seed, "\(stream.name)/label")
      .integer(below: teacher.shape.numClasses, trajectory)
  }

  /// The time of a step of a trajectory, from noise to data.
  private func draws(
    of trajectory: Int, at step: Int, _ stream: Stream
  ) -> TrainingProcess.Draws {
    let shift = RandomStream(seed: stream.seed, "\(stream.name)/timestep").uniform(trajectory)
    let place = (Double(step) + shift) / Double(steps)
    let last = DiscreteDistribution.timesteps - 1
    let timestep = Int(Double(DiscreteDistribution.timesteps) * (1 - place))
    return TrainingProcess.Draws(steps: [min(last, max(0, timestep))], times: [place])
  }

  /// The guided prediction at a step of a trajectory, from that of the step before.
  private func advance(
    _ trajectory: Int, to step: Int, from last: Prediction?, _ stream: Stream
  ) -> (data: Tensor, noise: Tensor) {
    let shape = teacher.shape
    let size = [1, shape.inChannels, shape.inputSize, shape.inputSize]
    let draws = draws(of: trajectory, at: step, stream)
    let latents =
      last.map { process.noisy($0.data, noise: $0.noise, draws) }
      ?? RandomStream(seed: stream.seed, "\(stream.name)/noise")
      .normal(size, from: trajectory * size.reduce(1, *))
    let label = label(of: trajectory, stream)
    let times = process.modelTimes(draws)
    var sampler = LatentSampler.defaults(of: shape.family)
    sampler.guidance = Float(settings.guidance)
    let scale = sampler.guidance(at: draws)[0]
    guard let null = shape.nullClass, scale != 1 else {
      return process.decomposed(
        teacher.predict(latents, Conditioning(timesteps: times, labels: [label])), latents, draws)
    }
    let doubled = Tensor([2] + size.dropFirst())
    for row in 0..<2 { doubled.rows(row..<(row + 1)).assign(latents) }
    let output = teacher.predict(
      doubled, Conditioning(timesteps: times + times, labels: [label, null]))
    let guided = Guidance.combined(
      output, scales: [scale], channels: sampler.guidedChannels(of: shape))
    return process.decomposed(guided, latents, draws)
  }

  // MARK: - Clean samples

  /// Finished samples as a data set; a sample is drawn when it is first asked for.
  ///
  /// - Parameters:
  ///   - count: Number of samples.
  ///   - seed: Seed of the samples.
  ///   - modelHash: Digest of the teacher's weights.
  ///   - isPool: Whether steps of a training take members of the pool instead.
  /// - Returns: Latents with the labels that they were drawn for.
  package func dataset(
    count: Int, seed: UInt64, modelHash: String, isPool: Bool
  ) -> LatentDataset {
    let shape = teacher.shape
    let stream = (seed, Self.stream)
    var dataset = LatentDataset(
      shape: [shape.inChannels, shape.inputSize, shape.inputSize],
      labels: (0..<count).map { label(of: $0, stream) },
      identity: "self \(modelHash) \(seed) \(count) \(settings.pool) \(steps)"
        + " \(numberText(settings.guidance))",
      place: { "sample \($0) that the model drew" }
    ) { [self] index, target in
      let values = clean(index, stream)
      values.withUnsafeBufferPointer { source in
        source.baseAddress.map { target.update(from: $0, count: source.count) }
      }
    }
    if isPool { dataset.pool = self }
    return dataset
  }

  private func clean(_ trajectory: Int, _ stream: Stream) -> [Float] {
    if let known = lock.withLock({ finished[trajectory] }) { return known }
    var last: Prediction?
    for step in 0..<steps {
      let (data, noise) = advance(trajectory, to: step, from: last, stream)
      last = Prediction(use: step, data: data, noise: noise)
    }
    let values = last?.data.values ?? []
    lock.withLock { finished[trajectory] = values }
    return values
  }
}
