import Files
import Foundation
import Plans
import Yams

/// An engine of the user's `engines.yaml`: a Python with PyTorch, and how it is started.
package struct Engine: Equatable, Sendable {
  /// Its name, which runs refer to.
  package let name: String
  /// The Python program.
  package let python: String
  /// Number of processes, which share the devices of this machine.
  package let ranks: Int
  /// Number of processes of all nodes.
  package var allRanks: Int { slurm.map { $0.nodes * $0.tasksPerNode } ?? ranks }
  /// Device of the processes, `cuda` or `cpu`; nil selects cuda where there is one.
  package let device: String?
  /// Number of times that all processes are started again after one is lost.
  package let maxRestarts: Int
  /// Program and arguments in place of PyTorch's launcher; it starts what follows on every rank.
  package private(set) var launcher: [String]
  /// Further options of `espalier_torch run`, such as `--shard`.
  package let options: [String]
  /// Host on which it runs; nil for this one.
  package let ssh: SSHHost?
  /// Batch jobs in which it runs; nil for processes started at once.
  package let slurm: SlurmSettings?
  /// Folder of its run directories at the host, which may begin with `~/`; nil for an engine that works in
  /// the run directories here.
  package let runs: String?
  /// Folder of models at the host, by the hash of their content.
  package let models: String
  /// Folders here and what they are called at the host, longest first.
  package let paths: [(here: String, there: String)]
  /// What is fetched from the host: `operators`, `models` or `all`.
  package let fetch: String

  /// Name of the native engine in options.
  package static let native = "native"
  private static let keys = [
    "python", "ranks", "device", "max_restarts", "launcher", "options", "ssh", "ssh_options",
    "slurm",
    "runs", "models", "paths", "fetch",
  ]

  /// Whether its runs have a directory of their own, which the one here follows.
  package var isLinked: Bool { runs != nil }

  /// Where it runs, for people.
  package var hostName: String { ssh?.destination ?? "this host" }

  /// Path of the file: `$XDG_CONFIG_HOME/espalier/engines.yaml`, otherwise
  /// `~/.config/espalier/engines.yaml`.
  package static func path(
    environment: [String: String] = ProcessInfo.processInfo.environment
  ) -> String {
    UserDirectory.config.path(environment: environment) + "/engines.yaml"
  }

  /// Reads all engines of a file, sorted by name; none if it is missing.
  ///
  /// - Throws: `PlanError` that names file, line and key.
  package static func all(in path: String = Engine.path()) throws -> [Engine] {
    guard FileManager.default.fileExists(atPath: path) else { return [] }
    let text = String(decoding: try AtomicFile.read(path, limit: 1 << 20), as: UTF8.self)
    let node: Node?
    do {
      node = try Yams.compose(yaml: text)
    } catch {
      throw fault(path, nil, nil, "is not valid YAML; correct it")
    }
    guard let node else { return [] }
    guard let entries = node.mapping else {
      throw fault(path, node, nil, "expected engines by name, found no mapping; correct it")
    }
    return try entries.map { try Engine($0.key.string ?? "", $0.value, path) }
      .sorted { $0.name < $1.name }
  }

  /// Finds an engine by name.
  ///
  /// - Throws: `PlanError` if there is none.
  package static func named(_ name: String, in path: String = Engine.path()) throws -> Engine {
    let known = try all(in: path)
    if let found = known.first(where: { $0.name == name }) { return found }
    let names = ([native] + known.map(\.name)).joined(separator: ", ")
    throw fault(
      path, nil, name.debugDescription,
      "there is no such engine, expected one of \(names); add it to the file, as docs/scale-out.md"
        + " describes")
  }

  private init(_ name: String, _ node: Node, _ path: String) throws {
    guard let table = node.mapping, !name.isEmpty, name != Self.native else {
      throw Self.fault(
        path, node, name,
        "expected the settings of an engine with another name than native; correct it")
    }
    let entries = EngineTable(table, name, path)
    try entries.require(Self.keys)
    self.name = name
    let destination = try entries.text("ssh")
    let program = try entries.text("python") ?? "python3"
    python = destination == nil ? AtomicFile.absolute(program: program) : program
    ranks = try entries.count("ranks", 1, 1...65536)
    maxRestarts = try entries.count("max_restarts", 0, 0...1000)
    (launcher, options) = (try entries.words("launcher"), try entries.words("options"))
    device = try entries.text("device", among: ["cuda", "cpu"])
    let sshOptions = try entries.words("ssh_options")
    if let destination, destination.isEmpty || destination.hasPrefix("-") {
      throw entries.fault("ssh", "expected a host as ssh takes it, such as me@host; correct it")
    }
    ssh = destination.map { SSHHost(destination: $0, options: sshOptions) }
    let own = ranks
    slurm = try table[Node("slurm")].map {
      try SlurmSettings($0, "\(name).slurm", path, ranks: own)
    }
    runs = try entries.text("runs")
    guard (runs != nil) == (ssh != nil || slurm != nil) else {
      throw entries.fault(
        "runs",
        runs == nil
          ? "is missing; name the folder for run directories at the host of the engine"
          : "is for an engine with ssh or slurm; remove it, or add one of them")
    }
    models = try entries.text("models") ?? "\(runs ?? "")/models"
    var paths = try entries.pairs("paths")
    // Without another host every file is where it is.
    if ssh == nil { paths.append(("/", "/")) }
    self.paths = paths.sorted { $0.0.count > $1.0.count }
    fetch = try entries.text("fetch", among: ["operators", "models", "all"]) ?? "models"
  }

  /// The engine with another launcher; nil keeps its own.
  package func launched(by words: [String]?) -> Engine {
    var other = self
    if let words { other.launcher = words }
    return other
  }

  package static func == (one: Engine, other: Engine) -> Bool { one.name == other.name }

  private static func fault(_ path: String, _ node: Node?, _ key: String?, _ message: String)
    -> PlanError
  {
    EngineTable.fault(path, node, key, message)
  }
}

/// Entries of one mapping of the file.
struct EngineTable {
  private let table: Node.Mapping
  private let name, path: String

  init(_ table: Node.Mapping, _ name: String, _ path: String) {
    (self.table, self.name, self.path) = (table, name, path)
  }

  /// Throws for a key that is none of these.
  func require(_ keys: [String]) throws {
    for (key, value) in table where !keys.contains(key.string ?? "") {
      throw Self.fault(
        path, value, "\(name).\(key.string ?? "")",
        "unknown key, expected one of \(keys.joined(separator: ", ")); remove or correct it")
    }
  }

  func count(_ key: String, _ other: Int, _ range: ClosedRange<Int>) throws -> Int {
    guard let value = table[Node(key)] else { return other }
    guard let number = value.int, range.contains(number) else {
      throw fault(
        key, "expected a whole number from \(range.lowerBound) to \(range.upperBound); correct it")
    }
    return number
  }

  func text(_ key: String, among choices: [String]? = nil) throws -> String? {
    guard let value = table[Node(key)] else { return nil }
    guard let text = value.string, choices?.contains(text) ?? true else {
      let found = value.string.map { ", found \($0)" } ?? ""
      throw fault(
        key,
        "expected \(choices.map { $0.joined(separator: " or ") } ?? "a text")\(found); correct it")
    }
    return text
  }

  func words(_ key: String) throws -> [String] {
    guard let value = table[Node(key)] else { return [] }
    guard let list = value.sequence, list.allSatisfy({ $0.string != nil }) else {
      throw fault(
        key, "expected a list of words, because no shell divides them; write [\"a\", \"b\"]")
    }
    return list.compactMap(\.string)
  }

  func pairs(_ key: String) throws -> [(String, String)] {
    guard let value = table[Node(key)] else { return [] }
    let pairs = value.mapping?.compactMap { one, other in
      one.string.flatMap { here in other.string.map { (AtomicFile.absolute(here), $0) } }
    }
    guard let pairs, pairs.count == value.mapping?.count else {
      throw fault(key, "expected folders here and at the host; write {/data: /scratch/data}")
    }
    return pairs
  }

  func fault(_ key: String, _ message: String) -> PlanError {
    Self.fault(path, table[Node(key)], "\(name).\(key)", message)
  }

  static func fault(_ path: String, _ node: Node?, _ key: String?, _ message: String) -> PlanError {
    var error = PlanError(key: key, message)
    (error.file, error.line) = (path, node?.mark?.line)
    return error
  }
}

/// Settings of the batch jobs of SLURM in which an engine runs.
package struct SlurmSettings: Codable, Equatable, Sendable {
  /// Number of nodes.
  package let nodes: Int
  /// Ranks of each node.
  package let tasksPerNode: Int
  /// Seconds before the end of its time at which a job saves a checkpoint and goes back into the queue.
  package let signal: Int
  /// Further options of sbatch, such as `--partition=gpu`.
  package let options: [String]
  /// Lines of the script before the ranks are started.
  package let setup: [String]

  private enum CodingKeys: String, CodingKey {
    case nodes
    case tasksPerNode = "tasks_per_node"
    case signal, options, setup
  }

  fileprivate init(_ node: Node, _ name: String, _ path: String, ranks: Int) throws {
    guard let table = node.mapping else {
      throw EngineTable.fault(path, node, name, "expected settings of SLURM by name; correct it")
    }
    let entries = EngineTable(table, name, path)
    try entries.require(["nodes", "tasks_per_node", "signal", "options", "setup"])
    nodes = try entries.count("nodes", 1, 1...65536)
    tasksPerNode = try entries.count("tasks_per_node", ranks, 1...65536)
    signal = try entries.count("signal", 120, 0...65535)
    (options, setup) = (try entries.words("options"), try entries.words("setup"))
  }
}

extension AtomicFile {
  /// A program of the search path as it is, a path absolute.
  fileprivate static func absolute(program: String) -> String {
    program.contains("/") ? absolute(program) : program
  }
}

// MARK: - Command lines

extension Engine {
  /// Program and arguments of a run.
  ///
  /// Several ranks are started by PyTorch's launcher, unless the engine has one of its own.
  package func command(run: String) -> [String] {
    [python, "-m", "espalier_torch", "launch"] + launchOptions + ["--"] + runOptions + [run]
  }

  /// Program and arguments that draw images over its ranks; finished chunks of an interrupted drawing are kept.
  ///
  /// - Parameter options: What follows `espalier_torch sample`.
  /// - Returns: The words.
  package func sampleCommand(_ options: [String]) -> [String] {
    [python, "-m", "espalier_torch", "launch", "--command", "sample"] + launchOptions + ["--"]
      + (device.map { ["--device", $0] } ?? []) + options
  }

  /// Options of `espalier_torch launch`.
  package var launchOptions: [String] {
    ["--ranks", "\(ranks)", "--max-restarts", "\(maxRestarts)"]
      + launcher.map { "--launcher=\($0)" }
  }

  /// Options of `espalier_torch run`.
  package var runOptions: [String] { (device.map { ["--device", $0] } ?? []) + options }

  /// Environment of its processes: the shipped package comes first on Python's path.
  ///
  /// - Throws: `PlanError` if the package is not found.
  package func environment(
    _ base: [String: String] = ProcessInfo.processInfo.environment
  ) throws -> [String: String] {
    guard let folder = TorchPackage.directory?.path else {
      let places = TorchPackage.candidates.map(\.path).joined(separator: " nor ")
      throw PlanError(
        key: nil,
        "the PyTorch engine is neither in \(places); keep the executable together with the resources"
          + " that it was built or installed with")
    }
    let earlier = base["PYTHONPATH"].map { ":\($0)" } ?? ""
    return base.merging(["PYTHONPATH": folder + earlier, "PYTHONDONTWRITEBYTECODE": "1"]) { $1 }
  }

  /// Command line of a command of `espalier_torch` at the engine's host.
  package func words(_ arguments: [String]) throws -> [String] {
    guard let ssh else { return [python, "-m", "espalier_torch"] + arguments }
    let folder = try "\(runs ?? "")/\(TorchPackage.remoteName())"
    return ssh.command([python, "-m", "espalier_torch"] + arguments, pythonPath: folder)
  }

  /// Runs a command of `espalier_torch` to its end.
  ///
  /// - Parameters:
  ///   - arguments: The command with its options.
  ///   - input: A file for its standard input; nil for none.
  /// - Returns: Its exit code and its output, or the last line of its errors if it failed.
  /// - Throws: `PlanError` if Python cannot be started.
  package func run(_ arguments: [String], input: FileHandle? = nil) throws
    -> (code: Int32, output: String)
  {
    let process = try process(words(arguments))
    let (output, errors) = (Pipe(), Pipe())
    (process.standardOutput, process.standardError) = (output, errors)
    process.standardInput = input ?? FileHandle.nullDevice
    try start(process)
    let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    let faults = String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    let code = process.terminationStatus
    if code != 0, ssh != nil, faults.contains("No module named espalier_torch") {
      return (
        code, "its package is not at \(hostName); 'espalier engines install \(name)' puts it there"
      )
    }
    let last = faults.split(separator: "\n").last.map(String.init) ?? ""
    return (code, code == 0 ? text : last)
  }

  /// Checks that the engine can do a stage of a plan.
  ///
  /// - Throws: `FileError` with its reason if it cannot.
  package func require(stage: Int, of plan: GraftPlan) throws {
    let draft = "\(NSTemporaryDirectory())/espalier-\(UUID().uuidString).json"
    defer { unlink(draft) }
    try plan.save(to: draft)
    let input = try FileHandle(forReadingFrom: URL(filePath: draft))
    let (code, text) = try run(["check", "--stage", "\(stage)", "-"], input: input)
    guard code == 0 else {
      let reason = text.replacing("Error: ", with: "").replacing("the plan: ", with: "")
      throw FileError("the engine \(name) cannot do it: \(reason)")
    }
  }

  /// Puts the package at the engine's host, below the folder of its runs.
  ///
  /// - Throws: `PlanError` without a package or an ssh client; `FileError` if the host refuses it.
  package func installAtHost() throws {
    guard let ssh, let runs, let folder = TorchPackage.directory?.path else { return }
    let place = try "\(runs)/\(TorchPackage.remoteName())"
    let tar = try process([
      "tar", "-c", "-f", "-", "--exclude=__pycache__", "-C", folder, "espalier_torch",
    ])
    let receiver = try process(ssh.receiving(at: place))
    let (pipe, errors) = (Pipe(), Pipe())
    (tar.standardOutput, receiver.standardInput, receiver.standardError) = (pipe, pipe, errors)
    try start(tar)
    try start(receiver)
    try? pipe.fileHandleForWriting.close()
    let faults = String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    tar.waitUntilExit()
    receiver.waitUntilExit()
    guard receiver.terminationStatus == 0, tar.terminationStatus == 0 else {
      let last = faults.split(separator: "\n").last.map(String.init) ?? "no reason given"
      throw FileError(
        "\(ssh.destination): the package cannot be put there: \(last); try 'ssh \(ssh.destination)'"
      )
    }
  }

  /// A process of a command line, not started.
  package func process(_ words: [String], environment extra: [String: String] = [:]) throws
    -> Process
  {
    let process = Process()
    let isPath = words[0].contains("/")
    process.executableURL = URL(filePath: isPath ? words[0] : "/usr/bin/env")
    process.arguments = isPath ? Array(words.dropFirst()) : words
    process.environment = try environment().merging(extra) { $1 }
    return process
  }

  /// Starts a process.
  ///
  /// - Throws: `PlanError` if the program is missing.
  package func start(_ process: Process) throws {
    do {
      try process.run()
    } catch {
      throw PlanError(
        key: "\(name).python",
        "'\(python)' cannot be started; name a Python with PyTorch in \(Engine.path())")
    }
  }
}
