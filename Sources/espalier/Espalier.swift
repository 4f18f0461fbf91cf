import ArgumentParser
import Files
import Foundation
import Operators
import Text

/// Grafts diffusion transformers: the explorer and its scriptable twin.
@main
struct Espalier: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "espalier",
    abstract: "Explore, graft and distil diffusion transformers in the terminal.",
    version: espalierVersion,
    subcommands: [
      ExploreCommand.self,
      PlanCommand.self, DistillCommand.self, FinetuneCommand.self, SampleCommand.self,
      EvaluateCommand.self, AnalyzeCommand.self, RunsCommand.self, ReportCommand.self,
      CompareCommand.self, InspectCommand.self, ConvertCommand.self,
      PretrainCommand.self,
      ParityCommand.self,
      ShapesCommand.self, WorkerCommand.self, BenchCommand.self,
    ], defaultSubcommand: ExploreCommand.self)

  /// Exit code of a command line that makes no sense; a command that fails exits with 1.
  private static let usageCode: Int32 = 2

  static func main() {
    // A file-size limit or a closed pipe is an error to report, not a reason to die.
    signal(SIGXFSZ, SIG_IGN)
    signal(SIGPIPE, SIG_IGN)
    OperatorRegistry.fillCatalog()
    var code = EXIT_SUCCESS
    do {
      var command = try parseAsRoot()
      try command.run()
      // What came of files that changed meanwhile would be neither the old nor the new.
      try MappedFile.requireUnchanged()
    } catch {
      code = report(error)
    }
    let isWritten = flushOutput()
    Foundation.exit(code == EXIT_SUCCESS && !isWritten ? EXIT_FAILURE : code)
  }

  /// Prints an error as one sentence, or the help that was asked for, and gives the exit code.
  private static func report(_ error: any Error) -> Int32 {
    if let code = error as? ExitCode { return code.rawValue }
    let code = exitCode(for: error)
    guard code != .success else {
      print(lines: fullMessage(for: error))
      return EXIT_SUCCESS
    }
    let lines = message(for: error).split(whereSeparator: \.isNewline)
    var text = lines.map { $0.trimmingCharacters(in: .whitespaces) }.joined(separator: " ")
    let isUsage = code == .validationFailure
    if isUsage {
      text.replace(". Did you mean", with: ", did you mean")
      text.replace(". Please provide", with: ", give")
      if text.hasSuffix(".") || text.hasSuffix("?") { text.removeLast() }
      text += "; see '\(commandInUse) --help'"
    }
    printToStandardError("Error: \(text.printableSentence)\n")
    return isUsage ? usageCode : EXIT_FAILURE
  }

  /// The command that the arguments name, such as `espalier plan set`.
  private static var commandInUse: String {
    var command: any ParsableCommand.Type = self
    var words = [_commandName]
    for argument in CommandLine.arguments.dropFirst() {
      guard
        let next = command.configuration.subcommands.first(where: { $0._commandName == argument })
      else { break }
      command = next
      words.append(argument)
    }
    return words.joined(separator: " ")
  }

  /// Writes out what was printed and says whether all of it arrived; `print` itself never tells.
  private static func flushOutput() -> Bool {
    guard fflush(nil) != 0 else { return true }
    let reason = String(cString: strerror(errno))
    // Who reads through `head` has seen enough and needs no complaint.
    var reader = pollfd(fd: STDOUT_FILENO, events: 0, revents: 0)
    if poll(&reader, 1, 0) < 1 || reader.revents & Int16(POLLERR) == 0 {
      printToStandardError(
        "Error: standard output: the result cannot be written (\(reason)); "
          + "free some space or choose another place\n")
    }
    return false
  }
}
