import ArgumentParser
import Foundation
import Parity

/// `espalier parity`: holds the engine against reference files.
struct ParityCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "parity",
    abstract: "Run reference files (goldens) through the engine and compare outputs and gradients.",
    discussion: """
      Prints a row per file: the forward error and the gradient error that come closest to their \
      tolerances. Exits with 0 if every supported file passes, with 1 if one fails, and with 2 if the \
      folder cannot be read.
      """)

  @Argument(help: "The folder with the reference files, *.safetensors.")
  var directory: String

  @Flag(help: "Print one JSON object with every comparison.")
  var json = false

  func run() throws {
    var isFirst = true
    let report: ParityReport
    do {
      report = try ParityReport(directory: directory) { result in
        if json { return }
        if isFirst { print(ParityReport.tableHead) }
        isFirst = false
        print(ParityReport.rows(result))
      }
    } catch let error as ParityError {
      printToStandardError("Error: \(error)\n")
      throw ExitCode(2)
    }
    print(json ? try report.json() : report.closing)
    if !report.passes { throw ExitCode.failure }
  }
}
