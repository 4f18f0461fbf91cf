import ArgumentParser
import Files
import Foundation
import Operators
import Text

/// Main command: the explorer and its scriptable subcommands.
@main
struct Espalier: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "espalier",
    abstract: "Explore, graft and distil diffusion transformers in the terminal.",
    version: espalierVersion,
    subcommands: [
      ExploreCommand.self,
      PlanCommand.self, DistillCommand.self, FinetuneCommand.self, ChainCommand.self,
      SampleCommand.self, EvaluateCommand.self, AnalyzeCommand.self, LibraryCommand.self,
      SearchCommand.self, RunsCommand.self, ReportCommand.self,
      CompareCommand.self, InspectCommand.self, ConvertCommand.self,
      PretrainCommand.self,
      ParityCommand.self, EnginesCommand.self,
      ShapesCommand.self, WorkerCommand.self, BenchCommand.self,
    ], defaultSubcommand: ExploreCommand.self)

  /// Exit code of an invalid command line; a failed command exits with 1.
  private static let usageCode: Int32 = 2

  static func main() {
    // A file-size limit and a closed pipe are reported as errors instead of signals.
    signal(SIGXFSZ, SIG_IGN)
    signal(SIGPIPE, SIG_IGN)
    OperatorRegistry.fillCatalog()
    var code = EXIT_SUCCESS
    do {
      try checkArguments(CommandLine.arguments)
      var command = try parseAsRoot(arguments(CommandLine.arguments.dropFirst()))
      try checkEnvironment()
      try command.run()
      // Results from files that changed during the command would be inconsistent.
      try MappedFile.requireUnchanged()
    } catch {
      code = report(error)
    }
    let isWritten = flushOutput()
    Foundation.exit(code == EXIT_SUCCESS && !isWritten ? EXIT_FAILURE : code)
  }

  /// The arguments with negative numbers joined to their options, `--priority -5` as `--priority=-5`, since a dash
  /// else begins an option.
  private static func arguments(_ given: some Collection<String>) -> [String] {
    given.reduce(into: []) { words, word in
      let isNegative = word.hasPrefix("-") && Double(word) != nil
      if isNegative, let last = words.last, last.hasPrefix("--"), last != "--", !last.contains("=")
      {
        words[words.count - 1] = "\(last)=\(word)"
      } else {
        words.append(word)
      }
    }
  }

  /// Options whose value may be empty text.
  private static let optionsOfText: Set = ["--prompt", "--negative", "--note", "--on-done"]

  /// Throws a usage error for an argument or value of an option that is empty, which would count as the current
  /// directory where a path is expected.
  static func checkArguments(_ arguments: [String]) throws {
    for (index, argument) in arguments.enumerated().dropFirst() {
      let before = arguments[index - 1]
      if argument == "--" { return }
      if argument.isEmpty {
        let isValue = before.hasPrefix("--") && !before.contains("=")
        let isNote = !isValue && arguments[1] == "runs" && arguments[2] == "note"
        guard !optionsOfText.contains(before), !isNote else { continue }
        let name = isValue ? before : "an argument"
        throw ValidationError("\(name) is empty; give it a value, or leave it out")
      }
      if argument.hasPrefix("--"), argument.hasSuffix("=") {
        let name = String(argument.dropLast())
        guard !name.contains("="), !optionsOfText.contains(name) else { continue }
        throw ValidationError("\(name) is empty; give it a value, or leave it out")
      }
    }
  }

  /// Throws a usage error for a number of threads that cannot be used.
  private static func checkEnvironment() throws {
    guard let text = ProcessInfo.processInfo.environment["ESPALIER_THREADS"] else { return }
    guard let threads = Int(text), threads > 0 else {
      throw ValidationError(
        "ESPALIER_THREADS is '\(text)', expected a whole number of at least 1; correct or unset it")
    }
  }

  /// Prints an error as one sentence, or the requested help, and returns the exit code.
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

  /// Command selected by the arguments, such as `espalier plan set`.
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

  /// Flushes standard output and returns whether all output was written, which `print` does not
  /// report.
  private static func flushOutput() -> Bool {
    guard fflush(nil) != 0 else { return true }
    let reason = String(cString: strerror(errno))
    // A reader such as `head` that has closed the pipe is no error.
    var reader = pollfd(fd: STDOUT_FILENO, events: 0, revents: 0)
    if poll(&reader, 1, 0) < 1 || reader.revents & Int16(POLLERR) == 0 {
      printToStandardError(
        "Error: standard output: the result cannot be written (\(reason)); "
          + "free some space or choose another place\n")
    }
    return false
  }
}
