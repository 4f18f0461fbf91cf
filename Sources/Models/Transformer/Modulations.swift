import Autograd
import CKernels
import TensorCore

/// What the blocks and the final layer read beside the tokens, independent of the latents.
package struct Modulations {
  /// Modulation of every block (batch, 6 dim), shift, scale and gate of attention, then of the MLP; a single one
  /// is that of all blocks.
  private let blocks: [Value]
  /// Modulation of the final layer (batch, 2 dim): shift and scale.
  let finalLayer: Value
  /// Projected captions (batch, length, dim), and the bias of the attention scores of their tokens (batch, length),
  /// of a text-conditional model.
  let caption: (text: Value, bias: Tensor?)?

  init(blocks: [Value], finalLayer: Value, caption: (text: Value, bias: Tensor?)? = nil) {
    (self.blocks, self.finalLayer, self.caption) = (blocks, finalLayer, caption)
  }

  /// The modulation of a block.
  func block(_ index: Int) -> Value { blocks[blocks.count == 1 ? 0 : index] }

  /// Returns rows of the batch, detached from the tape.
  func rows(_ range: Range<Int>) -> Modulations {
    mapped { $0.rows(range) }
  }

  /// Returns copies of some rows of the batch, in the order given.
  package func selecting(_ rows: [Int]) -> Modulations { mapped { $0.selecting(rows) } }

  private func mapped(_ change: (Tensor) -> Tensor) -> Modulations {
    func changed(_ value: Value) -> Value { Value(constant: change(value.tensor)) }
    return Modulations(
      blocks: blocks.map(changed), finalLayer: changed(finalLayer),
      caption: caption.map { (changed($0.text), $0.bias.map(change)) })
  }
}

extension Tensor {
  /// Copies some rows of the first axis, in the order given.
  package func selecting(_ rows: [Int]) -> Tensor {
    let result = Tensor([rows.count] + shape.dropFirst())
    for (place, row) in rows.enumerated() {
      result.rows(place..<(place + 1)).assign(self.rows(row..<(row + 1)))
    }
    return result
  }
}

/// Modulations of a sampling trajectory, computed for several steps at a time.
///
/// Products with few rows are bound by reading the weights, and the modulations are a third of all
/// weights of a DiT-XL/2.
package final class TrajectoryModulations {
  private let model: DiT
  private let labels: [Int]
  private let timesteps: [Float]
  private let stride: Int
  /// Modulations of the steps from `first`, in order.
  private var made: (first: Int, count: Int, modulations: Modulations)?

  /// Rows computed at a time (50 MB for a DiT-XL/2), unless one step has more.
  private static let rows = 64

  /// Makes a trajectory; modulations are computed on demand.
  ///
  /// - Parameters:
  ///   - model: The network.
  ///   - labels: One class per row of the batch, the same at every step.
  ///   - timesteps: Distinct timesteps of the steps, in order.
  package init(_ model: DiT, labels: [Int], timesteps: [Float]) {
    self.model = model
    self.labels = labels
    self.timesteps = timesteps
    stride = max(1, Self.rows / max(1, labels.count))
  }

  /// Returns the modulations (one row per label) of a timestep of the trajectory.
  package func callAsFunction(at timestep: Float) -> Modulations {
    // The second evaluation of a step may be at a time that rounds to another number than the grid's.
    guard let step = timesteps.firstIndex(of: timestep) else { return modulations(of: [timestep]) }
    if let made, (made.first..<made.first + made.count).contains(step) {
      return rows(of: step - made.first, in: made.modulations)
    }
    made = nil
    let some = timesteps[step..<min(step + stride, timesteps.count)]
    let modulations = modulations(of: some)
    made = (step, some.count, modulations)
    return rows(of: 0, in: modulations)
  }

  /// Rows below which a product sums in another order; with more, a row does not depend on the others' number.
  private static let fewestRows = Int(CK_GEMM_MOST_DOT_ROWS) + 1

  private func modulations(of times: some Collection<Float>) -> Modulations {
    var timesteps = times.flatMap { [Float](repeating: $0, count: labels.count) }
    var rows = times.flatMap { _ in labels }
    while rows.count < Self.fewestRows, let time = timesteps.last, let label = rows.last {
      timesteps.append(time)
      rows.append(label)
    }
    return model.modulations(
      Conditioning(timesteps: timesteps, labels: rows), on: Tape(recording: false))
  }

  private func rows(of step: Int, in modulations: Modulations) -> Modulations {
    modulations.rows(step * labels.count..<(step + 1) * labels.count)
  }
}
