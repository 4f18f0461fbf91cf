import ArgumentParser
import Foundation
import Jobs
import Models
import Runs
import Text

/// `espalier analyze`: activation statistics and attention locality of a model.
struct AnalyzeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "analyze",
    abstract: "Measure activation statistics and attention locality of every block.")

  @Argument(help: .init(modelHelp)) var model = "demo"
  @Option(
    help: "Sampling trajectories to average over (default: 32, or those of the cached result).")
  var samples: Int?
  @Flag(help: "Measure again even if the cache has a result.") var fresh = false
  @OptionGroup var output: OutputOptions

  func validate() throws { try require("--samples", samples, in: 1...10_000) }

  func run() throws {
    let files = try ModelFiles(model)
    files.printNotes()
    let hash = try files.contentHash()
    let path = ModelAnalysis.cachePath(modelHash: hash)
    var known: ModelAnalysis?
    if FileManager.default.fileExists(atPath: path) {
      // With `fresh`, a damaged cache file is ignored.
      known = fresh ? try? ModelAnalysis.load(path: path) : try ModelAnalysis.load(path: path)
    }
    let analysis: ModelAnalysis
    if !fresh, let known, samples == nil || samples == known.samples {
      analysis = known
    } else {
      let console = ProgressLine()
      let samples = samples ?? known?.samples ?? AnalyzeRequest.samples
      let isKept = samples >= known?.samples ?? 0
      analysis = try AnalyzeJob.analyze(
        files, modelHash: hash, samples: samples, mapsBeside: isKept ? path : nil
      ) { done, total in
        console.update("analysing \(done)/\(total)")
      }
      console.finish()
      if isKept {
        try analysis.save(to: path)
      } else {
        printToStandardError(
          "espalier: not kept, the cached result is of more samples: \(known?.samples ?? 0)\n")
      }
    }
    if output.json { return try output.printJSON(analysis) }
    show(analysis)
  }

  /// Formats a row of at most 80 columns: block, locality, window, and six statistics.
  private func row(_ cells: [String]) -> String {
    zip(cells, [6, 7, 6, 10, 10, 10, 10, 10, 10]).map(TextWidth.pad).joined()
  }

  private func show(_ analysis: ModelAnalysis) {
    let band = analysis.bands.firstIndex(of: analysis.paperBand)
    let columns = [
      "block", "L_\(analysis.paperBand)", "w\(Int(ModelAnalysis.windowShare * 100))", "attn var",
      "max", "kurt", "mlp var", "max", "kurt",
    ]
    print(row(columns))
    for (index, block) in analysis.blocks.enumerated() {
      let locality = band.flatMap { $0 < block.locality.count ? block.locality[$0] : nil }
      let cells =
        [
          String(index), locality.map { String(format: "%.3f", $0) } ?? "-",
          block.window(holding: ModelAnalysis.windowShare).map { String($0) } ?? "-",
        ]
        + [block.attention, block.mlp].flatMap {
          [short($0.variance), short($0.maxAbs), short($0.kurtosis)]
        }
      print(row(cells))
    }
    let share = Int(ModelAnalysis.windowShare * 100)
    print("w\(share): half width of the smallest window that holds \(share) % of the attention")
    print(
      "\(analysis.samples) sample\(analysis.samples == 1 ? "" : "s"), timesteps \(analysis.timesteps.map(String.init).joined(separator: " "))"
    )
  }
}
