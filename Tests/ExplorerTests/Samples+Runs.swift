import Foundation
import Plans
import Runs

extension Samples {
  /// Statistics of a teacher whose locality goes up and down over the blocks.
  static func analysis(depth: Int = 28) -> ModelAnalysis {
    let bands = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    func share(_ band: Double, _ far: Double) -> Double {
      1 - far * Foundation.exp(-band / 60) * (1 - band / 256)
    }
    func channels(_ block: Int) -> ChannelSummary {
      var rms = [Double](repeating: 1.3, count: 96)
      rms[12] = 20 + Double(block)
      rms[40] = 2
      return ChannelSummary(rms: rms, maxAbs: rms.map { 3 * $0 }, medianRMS: 1.3)
    }
    func histogram(_ block: Int) -> [HistogramBin] {
      let edges: [Double] = (-8...8).map { pow(2, Double($0) / 2) }
      let positive = zip(edges, edges.dropFirst()).enumerated().map { index, edge -> HistogramBin in
        let distance = Double((index - 8) * (index - 8))
        let share = Foundation.exp(-distance / (4 + Double(block) / 4)) / 8
        return HistogramBin(low: edge.0, high: edge.1, share: share)
      }
      let negative = positive.reversed().map { bin in
        HistogramBin(low: -bin.high, high: -bin.low, share: bin.share / 2)
      }
      return negative + [HistogramBin(low: 0, high: 0, share: 0.01)] + positive
    }
    let blocks = (0..<depth).map { block -> BlockAnalysis in
      let far = 0.25 + 0.6 * abs(Foundation.sin(Double(block) * 0.7))
      let number = Double(block)
      return BlockAnalysis(
        attention: ActivationSummary(
          mean: -0.012 * Double(block % 5), variance: 0.4 + number * 0.21, maxAbs: 3 + number,
          kurtosis: 3.1 + number * 0.4, histogram: histogram(block), channels: channels(block)),
        mlp: ActivationSummary(
          mean: 0.003 * number, variance: 0.2 + number * 0.4, maxAbs: 5 + number * 2,
          kurtosis: 9.5, histogram: histogram(27 - block), channels: channels(0)),
        locality: bands.map { share(Double($0), far) },
        localityPerHead: (0..<4).map { head in
          bands.map { share(Double($0), min(1, far * (0.7 + 0.2 * Double(head)))) }
        },
        within: (0..<256).map { share(Double($0), far) })
    }
    return ModelAnalysis(
      modelHash: "feedbeef", bands: bands, samples: 32, timesteps: [100, 500, 900],
      blocks: blocks)
  }

  /// Losses of a run up to a step, checkpointed and measured every 50 steps.
  static func history(for plan: GraftPlan, steps: Int) -> RunHistory {
    var history = RunHistory()
    for event in events(for: plan, steps: steps) { history.apply(event) }
    return history
  }

  static func events(for plan: GraftPlan, steps: Int) -> [Event] {
    var events = [Event(.started(pid: 1, totalSteps: 800), time: now - 100)]
    guard steps > 0 else { return events }
    for step in 1...steps {
      let losses = Dictionary(
        uniqueKeysWithValues: plan.sites.map { ($0, value($0.firstSlot, step)) })
      let kind = EventKind.step(
        step: step, total: 800, loss: value(attention(14), step), losses: losses, rate: 3.4,
        secondsLeft: Double(800 - step) / 3.4,
        learningRate: LearningRate(0.001 * Double(min(step, 100)) / 100),
        measures: [
          .gradientNorm: 2 + Foundation.sin(Double(step) / 9), .samplesPerSecond: 27,
          .residentMemory: 512 * 1_048_576,
        ])
      events.append(Event(kind, time: now))
      guard step % 50 == 0 || step == 1 else { continue }
      events.append(
        Event(.heldOut(step: step, losses: losses.mapValues { $0 + 0.006 }), time: now))
      events.append(
        Event(.checkpointed(step: step, path: "checkpoints/\(step).safetensors"), time: now))
    }
    return events
  }
}
