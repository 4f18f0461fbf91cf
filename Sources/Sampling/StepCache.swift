import Autograd
import CKernels
import Models
import Plans
import TensorCore

/// Step caching in a sampler: blocks are skipped at steps at which they would hardly compute anything new.
///
/// At every evaluation the first block runs (the first pair of parallel blocks, if there is one). Where its
/// residual has changed less than `threshold` since the last evaluation that ran all blocks, the sum of the other
/// blocks' residuals is taken from there. Rows decide by themselves, so that images do not depend on the
/// others of a batch, and conditional and unconditional predictions have a cache each.
package struct StepCache: Codable, Equatable, Hashable, Sendable {
  /// Largest mean absolute change of the first block's residual, relative to its mean absolute value; 0 reuses
  /// nothing.
  package var threshold: Double
  /// Whether residuals are continued along the line through the last two computed ones.
  package var forecasts: Bool

  /// Thresholds that make sense.
  package static let thresholds = 0.0...10.0

  package init(threshold: Double, forecasts: Bool = false) {
    (self.threshold, self.forecasts) = (threshold, forecasts)
  }

  /// Makes the cache that a request states; nil where it states no threshold.
  package init?(requested threshold: Double?, forecasts: Bool?) {
    guard let threshold else { return nil }
    self.init(threshold: threshold, forecasts: forecasts ?? false)
  }

  /// Settings in words.
  package var text: String { "\(threshold)\(forecasts ? " with forecast" : "")" }

  /// Provenance of samples: the settings, and the share of evaluations that were reused.
  package struct Use: Codable, Equatable, Sendable {
    package let cache: StepCache
    package let reused: Double

    package init(_ cache: StepCache, _ reuse: StepReuse) {
      (self.cache, reused) = (cache, reuse.share)
    }

    /// The use in words.
    package var text: String {
      "\(cache.text), \(Int((100 * reused).rounded())) % of evaluations reused"
    }
  }
}

/// Number of evaluations of a network for single rows, and of those that took the residual of an earlier step.
package final class StepReuse {
  package private(set) var evaluations = 0
  package private(set) var reused = 0

  package init() {}

  /// Share of reused evaluations.
  package var share: Double { evaluations == 0 ? 0 : Double(reused) / Double(evaluations) }

  fileprivate func add(evaluations: Int, reused: Int) {
    self.evaluations += evaluations
    self.reused += reused
  }
}

/// Network of one trajectory with step caching.
package final class StepCachedNetwork {
  private let model: any DiffusionTransformer
  private let modulations: (Float) -> Modulations
  private let cache: StepCache
  private let reuse: StepReuse?
  private var rows: [Row] = []

  /// What was computed for a row of the batch at the last evaluation of all blocks, (tokens, dim) each.
  private struct Row {
    /// Residual of the first block.
    var first: Tensor?
    /// Sum of the residuals of the other blocks, and its change per unit of time.
    var rest: Tensor?
    var slope: Tensor?
    var time: Float = 0

    /// Adds the kept residual, continued to a time if there is a slope, to a row of a batch.
    func add(to hidden: Tensor, _ row: Int, at time: Float) {
      guard let rest else { return }
      let target = hidden.rows(row..<(row + 1)).pointer
      ck_add_f32(target, rest.pointer, rest.count)
      if let slope { ck_axpy_f32(target, time - self.time, slope.pointer, slope.count) }
    }
  }

  /// Begins a trajectory.
  ///
  /// - Parameters:
  ///   - model: The network.
  ///   - modulations: Its modulations at a time of the trajectory.
  ///   - cache: When steps are reused.
  ///   - reuse: Counts evaluations.
  package init(
    _ model: any DiffusionTransformer, _ modulations: @escaping (Float) -> Modulations,
    _ cache: StepCache, reuse: StepReuse? = nil
  ) {
    (self.model, self.modulations, self.cache, self.reuse) = (model, modulations, cache, reuse)
  }

  /// Number of blocks that always run.
  private var head: Int { model.merges[BlockPair(first: 0)] == nil ? 1 : 2 }

  /// Predicts from latents (batch, channels, height, width) at a time, the next one of the trajectory.
  package func callAsFunction(
    _ latents: Tensor, _ time: Float,
    observeBlock: DiffusionTransformer.BlockObserver? = nil
  ) -> Tensor {
    let tape = Tape(recording: false)
    let (modulations, count) = (modulations(time), latents.shape[0])
    let (tokens, grid) = model.embedded(Value(constant: latents), on: tape, observe: nil)
    let head = model.output(
      ofBlocks: 0..<self.head, tokens, modulations, grid: grid, on: tape,
      observeBlock: observeBlock
    )
    let residual = head.tensor.minus(tokens.tensor)
    if rows.isEmpty { rows = [Row](repeating: Row(), count: count) }
    let computed = (0..<count).filter { !isReused($0, residual.rows($0..<($0 + 1))) }
    reuse?.add(evaluations: count, reused: count - computed.count)
    /// Output of the blocks that can be skipped.
    func rest(_ hidden: Value, _ modulations: Modulations) -> Tensor {
      model.output(
        ofBlocks: self.head..<model.shape.depth, hidden, modulations, grid: grid, on: tape,
        observeBlock: observeBlock
      ).tensor
    }
    let hidden: Tensor
    if computed.count == count {
      hidden = rest(head, modulations)
      keep(computed, residual: residual, head: head.tensor, output: hidden, time)
    } else {
      hidden = head.tensor.copied()
      for row in 0..<count where !computed.contains(row) {
        rows[row].add(to: hidden, row, at: time)
      }
      if !computed.isEmpty {
        let some = head.tensor.selecting(computed)
        let output = rest(Value(constant: some), modulations.selecting(computed))
        for (place, row) in computed.enumerated() {
          hidden.rows(row..<(row + 1)).assign(output.rows(place..<(place + 1)))
        }
        keep(
          computed, residual: residual.selecting(computed), head: some, output: output, time)
      }
    }
    return model.image(
      Value(constant: hidden), modulations, grid: grid, on: tape, observe: nil
    ).tensor
  }

  private func isReused(_ row: Int, _ residual: Tensor) -> Bool {
    guard let last = rows[row].first else { return false }
    var (change, size) = (0.0, 0.0)
    let (new, old) = (residual.pointer, last.pointer)
    for index in 0..<last.count {
      change += Double(abs(new[index] - old[index]))
      size += Double(abs(old[index]))
    }
    return change < cache.threshold * size
  }

  /// Keeps the residuals of rows, which the other tensors hold in the order of `computed`.
  private func keep(
    _ computed: [Int], residual: Tensor, head: Tensor, output: Tensor, _ time: Float
  ) {
    for (place, row) in computed.enumerated() {
      let range = place..<(place + 1)
      let rest = output.rows(range).minus(head.rows(range))
      let last = rows[row]
      // Both evaluations of a step of Heun's method may be at one time.
      let span = time - last.time
      rows[row].slope =
        cache.forecasts && span != 0 ? last.rest.map { rest.minus($0, scale: 1 / span) } : nil
      (rows[row].rest, rows[row].time) = (rest, time)
      rows[row].first = residual.rows(range).copied()
    }
  }
}

extension Tensor {
  /// The difference to a tensor of the same shape, times a factor.
  fileprivate func minus(_ other: Tensor, scale: Float = 1) -> Tensor {
    let result = copied()
    ck_axpy_f32(result.pointer, -1, other.pointer, count)
    if scale != 1 { ck_scale_f32(result.pointer, scale, count) }
    return result
  }
}
