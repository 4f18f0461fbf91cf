import Autograd
import Dispatch
import Foundation
import Models
import Operators
import Plans
import Sampling
import Search
import TensorCore

/// Measured time of a forward pass of a block with another operator, in turns with the block's own.
package struct OperatorTiming {
  private let teacher: any DiffusionTransformer
  private let hidden: Tensor
  private let modulations: Modulations
  private let batch: Int

  /// Prepares measurements with a batch of random tokens.
  package init(_ teacher: any DiffusionTransformer, batch: Int) {
    self.teacher = teacher
    self.batch = batch
    let shape = teacher.shape
    hidden = RandomStream(seed: 1, "timing").normal([batch, shape.tokens, shape.hiddenSize])
    modulations = teacher.modulations(
      teacher.exampleConditioning(batch), on: Tape(recording: false), observe: nil)
  }

  private static func seconds(_ work: () -> Void) -> Double {
    let start = DispatchTime.now().uptimeNanoseconds
    work()
    return Double(DispatchTime.now().uptimeNanoseconds - start) / 1e9
  }

  /// Seconds for which works are repeated in turns, if the least number of turns is done earlier.
  ///
  /// A median of few sub-millisecond passes is moved by whatever else runs on the machine.
  private static let duration = 0.3

  /// Shortest times of several works that are done in turns, after one turn that is not counted and makes
  /// packed weights and buffers.
  private static func fastest(_ works: [() -> Void], turns: Int) -> [Double] {
    for work in works { work() }
    var least = [Double](repeating: .infinity, count: works.count)
    var turn = 0
    var spent = 0.0
    while turn < turns || spent < duration {
      for (index, work) in works.enumerated() {
        let time = seconds(work)
        least[index] = min(least[index], time)
        spent += time
      }
      turn += 1
    }
    return least
  }

  /// Seconds that a block takes less with an operator in a slot than with its own; negative if it takes more.
  ///
  /// - Parameters:
  ///   - id: The slot.
  ///   - replacement: The operator.
  ///   - rounds: Least number of turns; the shortest time of each counts.
  /// - Returns: The saving per forward pass of the batch.
  package func saving(_ id: SlotID, _ replacement: any GraftOperator, rounds: Int = 9) -> Double {
    var operators = BlockOperators()
    switch id.slot {
    case .attention: operators.sequenceMixer = replacement as? any SequenceMixer
    case .mlp: operators.channelMixer = replacement as? any ChannelMixer
    }
    let works = [BlockOperators(), operators].map { operators in
      {
        _ = teacher.output(
          ofBlock: id.block, Value(constant: hidden), modulations, grid: teacher.grid,
          with: operators, on: Tape(recording: false), observe: nil)
      }
    }
    let times = Self.fastest(works, turns: rounds)
    return times[0] - times[1]
  }

  /// Noise (batch, channels, size, size) that whole models are timed on.
  private var latents: Tensor {
    let shape = teacher.shape
    return RandomStream(seed: 1, "timing").normal([
      batch, shape.inChannels, shape.inputSize, shape.inputSize,
    ])
  }

  /// Seconds of a forward pass of a whole model, in turns with the teacher.
  ///
  /// - Parameters:
  ///   - models: The models.
  ///   - rounds: Least number of turns.
  /// - Returns: The shortest times of the teacher and of every model.
  package func seconds(
    _ models: [any DiffusionTransformer], rounds: Int = 5
  ) -> (teacher: Double, models: [Double]) {
    let latents = Value(constant: latents)
    let works = ([teacher] + models).map { model in
      { _ = model(latents, modulations, on: Tape(recording: false)) }
    }
    let times = Self.fastest(works, turns: rounds)
    return (times[0], Array(times.dropFirst()))
  }

  /// Time of an evaluation of the teacher that step caching answers, relative to one of all blocks.
  package func reusedShare() -> Double {
    let latents = latents
    let network = StepCachedNetwork(
      teacher, { _ in modulations }, StepCache(threshold: .infinity))
    _ = network(latents, 0)
    let times = Self.fastest(
      [
        { _ = teacher(Value(constant: latents), modulations, on: Tape(recording: false)) },
        { _ = network(latents, 0) },
      ], turns: 5)
    return times[1] / times[0]
  }

  /// Seconds that the teacher takes for an image, without and with step caching, in turns.
  package func seconds(
    _ sampler: LatentSampler, _ cache: StepCache, for conditions: LatentSampler.Conditions
  ) throws -> (plain: Double, cached: Double) {
    var cached = sampler
    cached.cache = cache
    var failure: (any Error)?
    let works = [sampler, cached].map { sampler in
      {
        do { _ = try sampler.sample(teacher, for: conditions) } catch { failure = error }
      }
    }
    let times = Self.fastest(works, turns: 2).map { $0 / Double(conditions.count) }
    if let failure { throw failure }
    return (times[0], times[1])
  }
}

extension OperatorLibrary.TimingConditions {
  /// The conditions of this process.
  package init(batch: Int, precision: Precision) {
    self.init(
      processor: Self.processorName, threads: Parallel.threads, batch: batch,
      precision: precision.rawValue)
  }
}
