import Foundation
import Models
import Plans
import TensorCore

/// Forward pass times of a graft and its teacher, measured alternately.
package struct PairedSpeed: Codable, Equatable, Sendable {
  /// Median time of the graft in milliseconds.
  package let graftMilliseconds: Double
  /// Median time of the teacher in milliseconds.
  package let teacherMilliseconds: Double
  /// Median of the ratios graft / teacher per pair, which reduces the influence of other load.
  package let ratio: Double
  /// Batch size of a pass.
  package let batch: Int
  /// Number of pairs.
  package let pairs: Int
  /// Number of threads of the engine.
  package let threads: Int

  /// Computes the medians.
  ///
  /// - Precondition: there is at least one pair.
  init(graft: [Double], teacher: [Double], batch: Int, threads: Int) {
    precondition(!graft.isEmpty && graft.count == teacher.count, "speed: needs pairs")
    graftMilliseconds = Self.median(graft) * 1000
    teacherMilliseconds = Self.median(teacher) * 1000
    ratio = Self.median(zip(graft, teacher).map { $0 / $1 })
    (self.batch, self.threads, pairs) = (batch, threads, graft.count)
  }

  /// Times both models in alternating order after a warm-up.
  package init(
    graft: any DiffusionTransformer, teacher: any DiffusionTransformer, pairs: Int = 15,
    progress: (Int, Int) -> Void = { _, _ in }
  ) {
    let config = teacher.shape
    let latents = RandomStream(seed: 0, "speed").normal(
      [1, config.inChannels, config.inputSize, config.inputSize])
    let conditioning = teacher.exampleConditioning(1)
    func seconds(_ model: any DiffusionTransformer) -> Double {
      let start = DispatchTime.now().uptimeNanoseconds
      _ = model.predict(latents, conditioning)
      return Double(DispatchTime.now().uptimeNanoseconds - start) * 1e-9
    }
    for model in [graft, teacher, graft, teacher] { _ = seconds(model) }
    var (own, other): ([Double], [Double]) = ([], [])
    for pair in 0..<pairs {
      if pair % 2 == 0 { own.append(seconds(graft)) }
      other.append(seconds(teacher))
      if pair % 2 == 1 { own.append(seconds(graft)) }
      progress(pair + 1, pairs)
    }
    self.init(graft: own, teacher: other, batch: 1, threads: Parallel.threads)
  }

  /// Median; the mean of both middle values for an even count.
  static func median(_ values: [Double]) -> Double {
    let sorted = values.sorted()
    return (sorted[(sorted.count - 1) / 2] + sorted[sorted.count / 2]) / 2
  }
}
