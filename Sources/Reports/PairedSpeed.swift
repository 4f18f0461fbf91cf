import Foundation
import Models
import TensorCore

/// The time of a forward pass of a graft against its teacher's, taken in turns.
package struct PairedSpeed: Codable, Equatable, Sendable {
  /// Median of the graft, in milliseconds.
  package let graftMilliseconds: Double
  /// Median of the teacher, in milliseconds.
  package let teacherMilliseconds: Double
  /// Median of graft over teacher, pair by pair: what else the machine does hits both.
  package let ratio: Double
  /// Images of a pass.
  package let batch: Int
  /// Number of pairs.
  package let pairs: Int
  /// Threads of the engine.
  package let threads: Int

  /// Works out medians.
  ///
  /// - Precondition: there is at least one pair.
  init(graft: [Double], teacher: [Double], batch: Int, threads: Int) {
    precondition(!graft.isEmpty && graft.count == teacher.count, "speed: needs pairs")
    graftMilliseconds = Self.median(graft) * 1000
    teacherMilliseconds = Self.median(teacher) * 1000
    ratio = Self.median(zip(graft, teacher).map { $0 / $1 })
    (self.batch, self.threads, pairs) = (batch, threads, graft.count)
  }

  /// Times both models, each first in every second pair, after a warm-up.
  ///
  /// - Parameters:
  ///   - graft: The grafted model.
  ///   - teacher: Its teacher.
  ///   - pairs: Number of passes of each.
  ///   - progress: Called with the number of pairs done.
  package init(
    graft: DiT, teacher: DiT, pairs: Int = 15, progress: (Int, Int) -> Void = { _, _ in }
  ) {
    let config = teacher.config
    let latents = RandomStream(seed: 0, "speed").normal(
      [1, config.inChannels, config.inputSize, config.inputSize])
    let conditioning = DiT.Conditioning(timesteps: [500], labels: [0])
    func seconds(_ model: DiT) -> Double {
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

  /// The middle value, or the mean of both middle ones.
  static func median(_ values: [Double]) -> Double {
    let sorted = values.sorted()
    return (sorted[(sorted.count - 1) / 2] + sorted[sorted.count / 2]) / 2
  }
}
