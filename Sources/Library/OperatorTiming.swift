import Autograd
import Dispatch
import Foundation
import Models
import Operators
import Plans
import Search
import TensorCore

/// Measured time of a forward pass of a block with another operator, in turns with the block's own.
package struct OperatorTiming {
  private let teacher: DiT
  private let hidden: Tensor
  private let modulations: DiT.Modulations
  private let batch: Int

  /// Prepares measurements with a batch of random tokens.
  package init(_ teacher: DiT, batch: Int) {
    self.teacher = teacher
    self.batch = batch
    let config = teacher.config
    hidden = RandomStream(seed: 1, "timing").normal([batch, config.tokens, config.hiddenSize])
    modulations = teacher.modulations(
      .init(
        timesteps: [Float](repeating: 500, count: batch), labels: [Int](repeating: 0, count: batch)),
      on: Tape(recording: false))
  }

  private static func seconds(_ work: () -> Void) -> Double {
    let start = DispatchTime.now().uptimeNanoseconds
    work()
    return Double(DispatchTime.now().uptimeNanoseconds - start) / 1e9
  }

  private static func median(_ values: [Double]) -> Double {
    let sorted = values.sorted()
    return sorted[sorted.count / 2]
  }

  /// Seconds that a block takes less with an operator in a slot than with its own; negative if it takes more.
  ///
  /// - Parameters:
  ///   - id: The slot.
  ///   - replacement: The operator.
  ///   - rounds: Number of turns, of which the median difference counts.
  /// - Returns: The saving per forward pass of the batch.
  package func saving(_ id: SlotID, _ replacement: any GraftOperator, rounds: Int = 9) -> Double {
    var operators = BlockOperators()
    switch id.slot {
    case .attention: operators.sequenceMixer = replacement as? any SequenceMixer
    case .mlp: operators.channelMixer = replacement as? any ChannelMixer
    }
    func run(_ operators: BlockOperators) -> Double {
      Self.seconds {
        _ = teacher.output(
          ofBlock: id.block, Value(constant: hidden), modulations, with: operators,
          on: Tape(recording: false))
      }
    }
    // The first turn makes packed weights and buffers.
    _ = (run(.init()), run(operators))
    return Self.median((0..<rounds).map { _ in run(.init()) - run(operators) })
  }

  /// Seconds of a forward pass of a whole model, in turns with the teacher.
  ///
  /// - Parameters:
  ///   - models: The models.
  ///   - rounds: Number of turns.
  /// - Returns: The medians of the teacher and of every model.
  package func seconds(_ models: [DiT], rounds: Int = 5) -> (teacher: Double, models: [Double]) {
    let config = teacher.config
    let latents = RandomStream(seed: 1, "timing").normal([
      batch, config.inChannels, config.inputSize, config.inputSize,
    ])
    func run(_ model: DiT) -> Double {
      Self.seconds {
        _ = model(Value(constant: latents), modulations, on: Tape(recording: false))
      }
    }
    let all = [teacher] + models
    for model in all { _ = run(model) }
    var times = [[Double]](repeating: [], count: all.count)
    for _ in 0..<rounds {
      for (index, model) in all.enumerated() { times[index].append(run(model)) }
    }
    let medians = times.map(Self.median)
    return (medians[0], Array(medians.dropFirst()))
  }
}

extension OperatorLibrary.TimingConditions {
  /// The conditions of this process.
  package init(batch: Int, precision: Precision) {
    let lines = (try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8)) ?? ""
    let name = lines.split(separator: "\n").first { $0.hasPrefix("model name") }
    self.init(
      processor: name?.split(separator: ":").last?.trimmingCharacters(in: .whitespaces)
        ?? "unknown",
      threads: Parallel.threads, batch: batch, precision: precision.rawValue)
  }
}
