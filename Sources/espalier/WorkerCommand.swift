import ArgumentParser
import Jobs

/// `espalier worker`: the process behind a run; started by the other commands.
struct WorkerCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "worker", abstract: "Do the job of a run directory.", shouldDisplay: false)

  @Argument(help: "The run directory.") var directory: String

  func run() throws {
    let code = Worker.run(directory: directory)
    if code != 0 { throw ExitCode(code) }
  }
}
