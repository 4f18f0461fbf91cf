import ArgumentParser
import Foundation
import Text
import TorchEngine

/// `espalier engines`: the engines that can do the work of a run.
struct EnginesCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "engines",
    abstract: "List the engines that runs can be started with, check one, or install its package.",
    discussion: """
      Engines besides the native one are a Python with PyTorch each, named in engines.yaml \
      (docs/scale-out.md). distill and finetune take one with --engine NAME.
      """, subcommands: [List.self, Check.self, Install.self], defaultSubcommand: List.self)

  struct List: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "List the engines.")
    @OptionGroup var output: OutputOptions

    private struct Row: Encodable {
      let name, python: String
      let ranks: Int
      let device: String?
    }

    func run() throws {
      let engines = try Engine.all()
      if output.json {
        return try output.printJSON(
          engines.map {
            Row(name: $0.name, python: $0.python, ranks: $0.allRanks, device: $0.device)
          })
      }
      print("native  this program, on the CPU")
      for engine in engines {
        let ranks = engine.allRanks == 1 ? "1 rank" : "\(engine.allRanks) ranks"
        let place = engine.ssh.map { " at \($0.destination)" } ?? ""
        let batch = engine.slurm == nil ? "" : ", by SLURM"
        print(
          "\(engine.name)  \(ranks), \(engine.device ?? "cuda or cpu"), \(engine.python)\(place)\(batch)"
        )
      }
      if engines.isEmpty { print("\(Engine.path()) names no others") }
    }
  }

  struct Check: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Start an engine's Python, and print its version and its devices.")
    @Argument(help: "The engine.") var name: String

    func run() throws {
      let engine = try Engine.named(name)
      let (code, text) = try engine.run(["info", "--brief"])
      guard code == 0 else {
        throw ValidationFailure(
          "the engine \(name) does not work: \(text); it needs a Python with PyTorch 2.6 or later, NumPy and"
            + " safetensors")
      }
      print(text.trimmingCharacters(in: .whitespacesAndNewlines))
    }
  }

  struct Install: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Install the engine's package into its Python, for use without this program.")
    @Argument(help: "The engine.") var name: String

    func run() throws {
      let engine = try Engine.named(name)
      if engine.ssh != nil {
        try engine.installAtHost()
        return print("the package is at \(engine.hostName)")
      }
      guard let folder = TorchPackage.directory?.path else {
        throw ValidationFailure("the package of the PyTorch engine is not beside this program")
      }
      let process = try engine.process([
        engine.python, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--upgrade",
        folder,
      ])
      try engine.start(process)
      process.waitUntilExit()
      guard process.terminationStatus == 0 else {
        throw ValidationFailure(
          "pip ended with code \(process.terminationStatus); see its message above")
      }
    }
  }
}

/// A failed check, in one sentence.
private struct ValidationFailure: Error, CustomStringConvertible {
  let description: String

  init(_ description: String) { self.description = description }
}
