import Autograd
import TensorCore

extension DiT {
  /// What the network makes of timesteps and labels alone, whatever the image is.
  package struct Modulations {
    /// Of every block (batch, 6 dim): shift, scale and gate of attention, then of the MLP.
    let blocks: [Value]
    /// Of the final layer (batch, 2 dim): shift and scale.
    let finalLayer: Value

    /// Some rows of the batch, without a way back for gradients.
    func rows(_ range: Range<Int>) -> Modulations {
      Modulations(
        blocks: blocks.map { Value(constant: $0.tensor.rows(range)) },
        finalLayer: Value(constant: finalLayer.tensor.rows(range)))
    }
  }
}

/// The modulations of a sampling trajectory, made for several of its steps at a time.
///
/// They depend on timesteps and labels only. With few rows a product costs what reading its weights costs,
/// and the modulations are a third of all weights of a DiT-XL/2.
package final class TrajectoryModulations {
  private let model: DiT
  private let labels: [Int]
  private let timesteps: [Float]
  private let stride: Int
  /// Those of the steps from `first`, in order.
  private var made: (first: Int, count: Int, modulations: DiT.Modulations)?

  /// Rows made at a time, unless one step has more: 50 MB for a DiT-XL/2.
  private static let rows = 64

  /// Makes nothing yet.
  ///
  /// - Parameters:
  ///   - model: The network.
  ///   - labels: One class per row of the batch, the same at every step.
  ///   - timesteps: What the network is told at each step, in order, all different.
  package init(_ model: DiT, labels: [Int], timesteps: [Float]) {
    self.model = model
    self.labels = labels
    self.timesteps = timesteps
    stride = max(1, Self.rows / max(1, labels.count))
  }

  /// The modulations (a row per label) of a timestep of the trajectory.
  package func callAsFunction(at timestep: Float) -> DiT.Modulations {
    guard let step = timesteps.firstIndex(of: timestep) else {
      preconditionFailure("TrajectoryModulations: no step at timestep \(timestep)")
    }
    if let made, (made.first..<made.first + made.count).contains(step) {
      return rows(of: step - made.first, in: made.modulations)
    }
    made = nil
    let some = timesteps[step..<min(step + stride, timesteps.count)]
    let modulations = model.modulations(
      DiT.Conditioning(
        timesteps: some.flatMap { [Float](repeating: $0, count: labels.count) },
        labels: some.flatMap { _ in labels }),
      on: Tape(recording: false))
    made = (step, some.count, modulations)
    return rows(of: 0, in: modulations)
  }

  private func rows(of step: Int, in modulations: DiT.Modulations) -> DiT.Modulations {
    modulations.rows(step * labels.count..<(step + 1) * labels.count)
  }
}
