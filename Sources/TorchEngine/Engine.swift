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
  /// Device of the processes, `cuda` or `cpu`; nil selects cuda where there is one.
  package let device: String?
  /// Number of times that all processes are started again after one is lost.
  package let maxRestarts: Int
  /// Program and arguments in place of PyTorch's launcher; it starts what follows on every rank.
  package let launcher: [String]
  /// Further options of `espalier_torch run`, such as `--shard`.
  package let options: [String]

  /// Name of the native engine in options.
  package static let native = "native"
  private static let keys = [
    "python", "ranks", "device", "max_restarts", "launcher", "options",
  ]

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
    for (key, value) in table where !Self.keys.contains(key.string ?? "") {
      throw Self.fault(
        path, value, "\(name).\(key.string ?? "")",
        "unknown key, expected one of \(Self.keys.joined(separator: ", ")); remove or correct it")
    }
    func count(_ key: String, _ other: Int, _ range: ClosedRange<Int>) throws -> Int {
      guard let value = table[Node(key)] else { return other }
      guard let number = value.int, range.contains(number) else {
        throw Self.fault(
          path, value, "\(name).\(key)",
          "expected a whole number from \(range.lowerBound) to \(range.upperBound); correct it")
      }
      return number
    }
    func words(_ key: String) throws -> [String] {
      guard let value = table[Node(key)] else { return [] }
      guard let list = value.sequence, list.allSatisfy({ $0.string != nil }) else {
        throw Self.fault(
          path, value, "\(name).\(key)",
          "expected a list of words, because no shell divides them; write [\"a\", \"b\"]")
      }
      return list.compactMap(\.string)
    }
    self.name = name
    python = table[Node("python")]?.string.map { AtomicFile.absolute(program: $0) } ?? "python3"
    ranks = try count("ranks", 1, 1...65536)
    maxRestarts = try count("max_restarts", 0, 0...1000)
    (launcher, options) = (try words("launcher"), try words("options"))
    device = table[Node("device")]?.string
    if let device, !["cuda", "cpu"].contains(device) {
      throw Self.fault(
        path, table[Node("device")], "\(name).device",
        "expected cuda or cpu, found \(device); correct it")
    }
  }

  private static func fault(_ path: String, _ node: Node?, _ key: String?, _ message: String)
    -> PlanError
  {
    var error = PlanError(key: key, message)
    (error.file, error.line) = (path, node?.mark?.line)
    return error
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
    let module = ["espalier_torch", "launch"]
    var words =
      [python, "-m"] + module + ["--ranks", "\(ranks)", "--max-restarts", "\(maxRestarts)"]
    for word in launcher { words.append("--launcher=\(word)") }
    words.append("--")
    if let device { words += ["--device", device] }
    return words + options + [run]
  }

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

  /// Runs a command of `espalier_torch` to its end.
  ///
  /// - Returns: Its exit code and its output, or the last line of its errors if it failed.
  /// - Throws: `PlanError` if Python cannot be started.
  package func run(_ arguments: [String]) throws -> (code: Int32, output: String) {
    let process = try process([python, "-m", "espalier_torch"] + arguments)
    let (output, errors) = (Pipe(), Pipe())
    (process.standardOutput, process.standardError) = (output, errors)
    process.standardInput = FileHandle.nullDevice
    try start(process)
    let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    let faults = String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    let code = process.terminationStatus
    let last = faults.split(separator: "\n").last.map(String.init) ?? ""
    return (code, code == 0 ? text : last)
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
