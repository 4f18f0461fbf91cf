import Foundation
import Models
import Operators
import Sampling
import TensorCore

/// Activation statistics and attention locality of a model along sampling trajectories.
///
/// As in the paper (section 3.4): DDIM samples at guidance 1.5, averaged over timesteps, samples
/// and heads, with fewer samples and steps to suit a CPU.
package struct TeacherAnalysis {
  /// Measurements of one block.
  package struct Block {
    package var attention = ActivationStatistics()
    package var mlp = ActivationStatistics()
    package var attentionChannels = ChannelStatistics()
    package var mlpChannels = ChannelStatistics()
    /// Band attention mass; without samples if the block has no softmax attention.
    package var locality: AttentionLocality
    /// Mean attention of every head, as `locality`.
    package var map = AttentionMap()
  }

  package let bands: [Int]
  package let blocks: [Block]

  /// Guidance scale of the trajectories.
  package static let guidance: Float = 1.5

  /// Measures a model.
  ///
  /// - Parameters:
  ///   - model: The teacher.
  ///   - samples: Number of trajectories; labels cycle through the classes.
  ///   - steps: Number of DDIM steps.
  ///   - batch: Number of trajectories per batch.
  ///   - seed: Seed of the initial noise.
  ///   - progress: Called with the number of denoising steps done and their total; may throw to stop.
  /// - Throws: `SamplingError` for an invalid number of steps, and errors of `progress`.
  package init(
    _ model: DiT, samples: Int, steps: Int, batch: Int = 4, seed: UInt64 = 0,
    progress: (Int, Int) throws -> Void
  ) throws {
    let bands = Self.bands(tokens: model.config.tokens)
    let collector = Collector(depth: model.config.depth, bands: bands)
    let sampler = LatentSampler(steps: steps, guidance: Self.guidance, seed: seed)
    let batches = (samples + batch - 1) / batch
    for index in 0..<batches {
      let first = index * batch
      let labels = (first..<min(samples, first + batch)).map { $0 % model.config.numClasses }
      _ = try sampler.sample(
        model, labels: labels, first: first,
        observeBlock: { block, activations in
          collector.add(block, activations, mixer: model.blocks[block].sequenceMixer)
        },
        onStep: { step, count, _ in try progress(index * count + step, batches * count) })
    }
    self.bands = bands
    blocks = collector.blocks
  }

  /// Powers of two below the number of tokens.
  package static func bands(tokens: Int) -> [Int] {
    var bands = [1]
    while let last = bands.last, last * 2 < tokens { bands.append(last * 2) }
    return bands
  }

  private final class Collector {
    private(set) var blocks: [Block]

    init(depth: Int, bands: [Int]) {
      blocks = Array(repeating: Block(locality: AttentionLocality(bands: bands)), count: depth)
    }

    func add(_ block: Int, _ activations: DiTBlock.Activations, mixer: any SequenceMixer) {
      blocks[block].attention.add(activations.attentionOutput)
      blocks[block].mlp.add(activations.mlpOutput)
      blocks[block].attentionChannels.add(activations.attentionOutput)
      blocks[block].mlpChannels.add(activations.mlpOutput)
      if let attention = mixer as? MultiHeadAttention {
        let maps = attention.attentionMap(activations.attentionInput)
        blocks[block].locality.add(maps)
        blocks[block].map.add(maps)
      }
    }
  }
}
