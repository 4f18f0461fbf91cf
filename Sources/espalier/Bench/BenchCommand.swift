import ArgumentParser
import Foundation
import TensorCore
import Text

/// `espalier bench`: times the engine on this machine.
struct BenchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bench",
    abstract: "Time matrix products, forward passes and training steps on this machine.",
    discussion: """
      Every work is warmed up once; the median of the repetitions counts. The works of a size that \
      matters on DiT-XL/2 need 3 to 5 GiB. Benchmarks/compare.py runs the same works in PyTorch and \
      OpenVINO and prints the ratios.
      """)

  @Option(
    help: ArgumentHelp(
      "What to time; repeatable. One of: \(BenchWork.all.map(\.id).joined(separator: ", ")).",
      valueName: "work"))
  var work: [String] = BenchWork.defaults

  @Option(help: "Repetitions; the median counts.") var repeats = 5
  @OptionGroup var precision: PrecisionOptions
  @OptionGroup var output: OutputOptions

  private struct Row: Encodable {
    let work, title, precision: String
    let seconds, rate: Double
    let unit: String
    let peakMemoryBytes: Int
  }

  private struct Report: Encodable {
    let blasCore: String
    let threads: Int
    let rows: [Row]
  }

  func validate() throws {
    try require("--repeats", repeats, in: 1...10_000)
    for id in work where BenchWork.named(id) == nil {
      throw ValidationError("--work \(id): unknown; see 'espalier bench --help' for the list")
    }
  }

  func run() throws {
    let rows = try work.compactMap(BenchWork.named).map(measure)
    let report = Report(blasCore: Gemm.coreName, threads: Parallel.threads, rows: rows)
    if output.json { return try output.printJSON(report) }
    print(
      "BLAS core \(report.blasCore), \(PackedMatrix.libraryName) for bf16, \(report.threads) threads,"
        + " median of \(repeats)")
    for row in rows {
      let time = String(format: "%10.2f ms  %8.1f ", row.seconds * 1000, row.rate)
      print(
        TextWidth.pad(row.title, 56) + time + row.unit
          + "  " + row.precision)
    }
    let peak = (rows.map(\.peakMemoryBytes).max() ?? 0) >> 20
    print("peak memory \(peak) MiB")
  }

  private func measure(_ work: BenchWork) throws -> Row {
    let body = try work.make(precision.working)
    body()
    let times = (0..<repeats).map { _ in
      let start = DispatchTime.now().uptimeNanoseconds
      body()
      return Double(DispatchTime.now().uptimeNanoseconds - start) * 1e-9
    }.sorted()
    let median = times[times.count / 2]
    var usage = rusage()
    getrusage(.init(RUSAGE_SELF.rawValue), &usage)
    return Row(
      work: work.id, title: work.title,
      precision: (work.hasPrecision ? precision.working : .float32).rawValue, seconds: median,
      rate: work.units / median, unit: work.unit,
      peakMemoryBytes: Int(usage.ru_maxrss) * 1024)
  }
}
