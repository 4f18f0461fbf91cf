import Autograd
import Datasets
import Models
import Plans
import Sampling
import TensorCore
import Training

/// Fits the output layers of a graft from front to back on the graft's own activations.
///
/// In stage 1 every operator sees the teacher's input. Here it sees what the graft, with the operators before
/// it, gives it, and is fitted to the teacher's residual stream behind the slot minus the graft's stream without
/// the operator: what it has to add so that the streams meet again. A pair's projection is fitted to the output
/// of the teacher's second block.
package struct StudentForcedSweep {
  private let graft: Graft
  private let batch: DiffusionBatch
  private let process: TrainingProcess

  /// Prepares a sweep.
  ///
  /// - Parameters:
  ///   - graft: Teacher and graft; the graft's operators change in place.
  ///   - batch: Noisy samples.
  /// - Throws: `SamplingError` for an invalid diffusion process.
  package init(_ graft: Graft, on batch: DiffusionBatch) throws {
    (self.graft, self.batch) = (graft, batch)
    process = try TrainingProcess(of: graft.plan.model.shape.family)
  }

  /// Fits the sites one after another.
  ///
  /// - Parameters:
  ///   - sites: Sites with an output layer, in the order of the model.
  ///   - progress: Called with the number of the site, the numbers of samples done and of all; may throw to stop.
  /// - Throws: `PlanError` for a fit without a solution, errors of `progress`.
  package func callAsFunction(
    _ sites: [GraftSite], progress: (Int, Int, Int) throws -> Void = { _, _, _ in }
  ) throws {
    let fit = RidgeFit(graft, weighsByGate: true)
    let source = Source(graft: graft, batch: batch, process: process)
    for (index, site) in sites.enumerated() {
      try fit([site], on: source) { try progress(index, $0, $1) }
    }
  }

  /// Squared distance of a graft's output from the teacher's, relative to the square of the teacher's.
  package static func outputError(
    of graft: Graft, on batch: DiffusionBatch
  ) throws -> Double {
    let process = try TrainingProcess(of: graft.plan.model.shape.family)
    let sums = MicroBatches(rows: batch.steps.count, size: ActivationDistillation.microBatch).map {
      let (noisy, conditioning) = batch.input($0, of: process)
      let wanted = graft.teacher.predict(noisy, conditioning)
      let found = graft.model.predict(noisy, conditioning)
      var (distance, square) = (0.0, 0.0)
      for row in 0..<noisy.shape[0] {
        // The channels behind those of the latents, the variance, are left out.
        let (start, width) = (row * wanted.count / noisy.shape[0], noisy.count / noisy.shape[0])
        for index in start..<(start + width) {
          let difference = Double(found[index]) - Double(wanted[index])
          distance += difference * difference
          square += Double(wanted[index]) * Double(wanted[index])
        }
      }
      return (distance, square)
    }
    return sums.reduce(0) { $0 + $1.0 } / max(1e-30, sums.reduce(0) { $0 + $1.1 })
  }

  /// Inputs of the graft's operators, and what the operators should give.
  private struct Source: ActivationSource {
    let graft: Graft
    let batch: DiffusionBatch
    let process: TrainingProcess

    /// Share of the mean squared gate below which a channel's gate is not divided by: of such a
    /// channel the operator changes little.
    private static let gateFloor = 0.1

    func callAsFunction(
      _ sites: Set<GraftSite>, progress: (Int, Int) throws -> Void,
      _ visit: @escaping (SiteActivations) -> Void
    ) throws {
      let rows = batch.steps.count
      for range in MicroBatches(rows: rows, size: ActivationDistillation.microBatch).ranges {
        try progress(range.lowerBound, rows)
        let (noisy, conditioning) = batch.input(range, of: process)
        var wanted: [GraftSite: Tensor] = [:]
        observe(graft.teacher, noisy, conditioning) { block, seen in
          for slot in Slot.allCases {
            let site = GraftSite.slot(SlotID(block: block, slot: slot))
            if sites.contains(site) { wanted[site] = Self.stream(seen, behind: slot) }
          }
          let ended = GraftSite.pair(BlockPair(first: block - 1))
          if sites.contains(ended) { wanted[ended] = seen.output }
        }
        observe(graft.model, noisy, conditioning) { block, seen in
          for slot in Slot.allCases {
            let site = GraftSite.slot(SlotID(block: block, slot: slot))
            guard let goal = wanted[site] else { continue }
            let gate = seen.gate(of: slot)
            visit(
              SiteActivations(
                site: site, input: seen.activations(of: slot).input,
                target: Self.target(goal, seen, slot, gate), side: gate))
          }
          let begun = GraftSite.pair(BlockPair(first: block))
          if let goal = wanted[begun] {
            let condition = graft.model.pairCondition(conditioning, on: Tape(recording: false))
            visit(
              SiteActivations(
                site: begun, input: seen.input, target: goal, side: condition.tensor))
          }
        }
      }
    }

    private func observe(
      _ model: any DiffusionTransformer, _ noisy: Tensor, _ conditioning: Conditioning,
      _ observer: @escaping DiffusionTransformer.BlockObserver
    ) {
      _ = model(
        Value(constant: noisy), conditioning, on: Tape(recording: false), observeBlock: observer)
    }

    /// The residual stream behind a slot (samples, tokens, dim): of attention before what follows it.
    private static func stream(_ seen: AdaLNBlock.Activations, behind slot: Slot) -> Tensor {
      guard slot == .attention else { return seen.output }
      let result = seen.input.copied()
      add(seen.attentionOutput, times: seen.gate(of: .attention), to: result)
      return result
    }

    /// x += gate * y, with one gate (samples, dim) for all tokens of a sample.
    private static func add(_ y: Tensor, times gate: Tensor, to x: Tensor) {
      let (tokens, dim) = (x.shape[1], x.shape[2])
      for row in 0..<(x.shape[0] * tokens) {
        let (factors, start) = (gate.pointer + row / tokens * dim, row * dim)
        for channel in 0..<dim { x[start + channel] += factors[channel] * y[start + channel] }
      }
    }

    /// What the operator should give: what it gives now plus the stream's error divided by the gate.
    private static func target(
      _ goal: Tensor, _ seen: AdaLNBlock.Activations, _ slot: Slot, _ gate: Tensor
    ) -> Tensor {
      let own = seen.activations(of: slot).output
      let (found, result) = (stream(seen, behind: slot), own.copied())
      let (tokens, dim) = (own.shape[1], own.shape[2])
      for sample in 0..<own.shape[0] {
        let factors = gate.pointer + sample * dim
        let square =
          (0..<dim).reduce(0.0) { $0 + Double(factors[$1]) * Double(factors[$1]) } / Double(dim)
        for token in 0..<tokens {
          let start = (sample * tokens + token) * dim
          for channel in 0..<dim {
            let g = Double(factors[channel])
            let error = Double(goal[start + channel]) - Double(found[start + channel])
            let divisor = g * g + gateFloor * square
            if divisor > 0 { result[start + channel] += Float(error * g / divisor) }
          }
        }
      }
      return result
    }
  }
}
