import ArgumentParser
import Files
import Foundation
import Parity
import TensorCore
import Text

/// `espalier parity`: compares the engine with reference files.
struct ParityCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "parity",
    abstract: "Run reference files (goldens) through the engine and compare outputs and gradients.",
    discussion: """
      Prints a row per file: the forward error and the gradient error that come closest to their \
      tolerances. With --precision bf16 linear layers and 3x3 convolutions multiply in bfloat16, \
      emulated where the CPU has none, and the tolerances are 5e-2 for outputs, 2e-1 for sums of them and 1e-1 for gradients. Exits with 0 if every supported file passes, with 1 if one fails, and with 2 if the \
      folder cannot be read.
      """)

  @Argument(help: "The folder with the reference files, *.safetensors.")
  var directory: String

  @Option(help: "What linear layers and convolutions multiply in: fp32 or bf16.")
  var precision = Precision.float32

  @Flag(help: "Print one JSON object with every comparison.")
  var json = false

  func validate() throws {
    guard precision == .int8 else { return }
    throw ValidationError(
      "--precision int8: the reference files have no tolerances for it; give fp32 or bf16")
  }

  func run() throws {
    var isFirst = true
    let report: ParityReport
    do {
      report = try ParityReport(directory: directory, precision: precision) { result in
        if json { return }
        if isFirst { print(ParityReport.tableHead) }
        isFirst = false
        print(lines: ParityReport.rows(result))
      }
    } catch let error as FileError {
      printToStandardError("Error: \("\(error)".printableSentence)\n")
      throw ExitCode(2)
    }
    if json { print(json: try report.json()) } else { print(lines: report.closing) }
    if !report.passes { throw ExitCode.failure }
  }
}
