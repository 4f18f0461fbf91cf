import ArgumentParser
import Autograd
import Foundation
import Grafting
import Models
import Nn
import Sampling
import TensorCore

/// `espalier bench`: times the engine on this machine.
struct BenchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bench",
    abstract: "Time matrix products, forward passes and training steps on this machine.")

  @Option(help: "Hidden size of the 28-block DiT.") var width = 64
  @Option(help: "Attention heads.") var heads = 4
  @Option(help: "Tokens along one side.") var grid = 16
  @Option(help: "Batch size of the training step.") var batch = 32
  @Option(help: "Rows per forward pass of the training step.") var microBatch = 8
  @Option(help: "Repetitions; the median counts.") var repeats = 5
  @OptionGroup var output: OutputOptions

  private struct Row: Encodable {
    let work: String
    let seconds, rate: Double
    let unit: String
  }

  private struct Report: Encodable {
    let blasCore: String
    let threads: Int
    let rows: [Row]
    let peakMemoryMiB: Double
  }

  func run() throws {
    guard heads > 0, width > 0, width % heads == 0, width % 4 == 0,
      min(grid, batch, microBatch, repeats) > 0
    else {
      throw ValidationError(
        "--width must be a multiple of 4 and of --heads; sizes must be positive")
    }
    var random = RandomStream(seed: 1)
    var rows: [Row] = []
    func add(_ work: String, units: Double, unit: String, _ body: () -> Void) {
      body()
      let times = (0..<repeats).map { _ in
        let start = DispatchTime.now().uptimeNanoseconds
        body()
        return Double(DispatchTime.now().uptimeNanoseconds - start) * 1e-9
      }.sorted()
      let median = times[times.count / 2]
      rows.append(Row(work: work, seconds: median, rate: units / median, unit: unit))
    }

    let (m, n, k) = (512, 4608, 1152)
    let (a, b, c) = (random.normal([m, k]), random.normal([n, k]), Tensor([m, n]))
    add("matrix product \(m)x\(n)x\(k)", units: 2e-9 * Double(m * n * k), unit: "GFLOP/s") {
      Gemm.run(transposeB: true, m: m, n: n, k: k, a: a.pointer, b: b.pointer, c: c.pointer)
    }

    let config = DiTConfig(
      depth: 28, hiddenSize: width, numHeads: heads, patchSize: 1, inputSize: grid, numClasses: 10)
    let model = try DiT(config: config, weights: FreshWeights(seed: 1))
    let shape = "28 blocks, width \(width), \(grid * grid) tokens"
    for size in [1, 8] {
      let latents = random.normal([size, 4, grid, grid])
      let conditioning = DiT.Conditioning(
        timesteps: [Float](repeating: 500, count: size), labels: [Int](repeating: 0, count: size))
      add("forward, \(shape), batch \(size)", units: Double(size), unit: "images/s") {
        _ = model.predict(latents, conditioning)
      }
    }
    let trainer = DiffusionTrainer(
      model: model, diffusion: try GaussianDiffusion(spacing: ""), emaDecay: 0.999)
    let shapeOfBatch = [batch, 4, grid, grid]
    let data = DiffusionBatch(
      latents: random.normal(shapeOfBatch), noise: random.normal(shapeOfBatch),
      steps: (0..<batch).map { _ in random.integer(below: 1000) },
      labels: (0..<batch).map { _ in random.integer(below: 10) })
    add("training step, \(shape), batch \(batch)", units: Double(batch), unit: "samples/s") {
      _ = trainer.step(data, microBatch: microBatch, rate: 1e-4, clipNorm: 1)
    }

    var usage = rusage()
    getrusage(.init(RUSAGE_SELF.rawValue), &usage)
    let report = Report(
      blasCore: Gemm.coreName, threads: Parallel.threads, rows: rows,
      peakMemoryMiB: Double(usage.ru_maxrss) / 1024)
    if output.json { return try output.printJSON(report) }
    print("BLAS core \(report.blasCore), \(report.threads) threads, median of \(repeats)")
    for row in rows {
      let time = String(format: "%9.2f ms  %8.1f ", row.seconds * 1000, row.rate)
      print(row.work.padding(toLength: 58, withPad: " ", startingAt: 0) + time + row.unit)
    }
    print(String(format: "peak memory %.0f MiB", report.peakMemoryMiB))
  }
}
