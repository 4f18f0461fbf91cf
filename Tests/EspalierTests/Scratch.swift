import Foundation
import Operators
import Testing

/// What a finished command left behind.
struct Outcome {
  let code: Int32
  let output: String
  let complaint: String

  /// Decodes what `--json` printed; keys as Swift spells them.
  func json<Value: Decodable>(_ type: Value.Type = Value.self) throws -> Value {
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    return try decoder.decode(type, from: Data(output.utf8))
  }
}

/// A home of its own for the built program, which is run there as a user would run it.
///
/// The current directory of every command is `path`; nothing but the command writes below it.
final class Scratch {
  let path: String
  private let transcripts: String
  private var count = 0

  init() throws {
    OperatorRegistry.fillCatalog()
    let base = NSTemporaryDirectory() + "/espalier-tests-" + UUID().uuidString
    path = URL(fileURLWithPath: base + "/work").standardizedFileURL.path
    transcripts = base + "/transcripts"
    for folder in [path, path + "/home", transcripts] {
      try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    }
  }

  deinit {
    try? FileManager.default.removeItem(atPath: (path as NSString).deletingLastPathComponent)
  }

  /// The directory of the runs of commands that are started here.
  var runs: String { path + "/runs" }

  /// The program beside the test bundle, which is the process that runs now.
  static func program() throws -> String {
    let bundle = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
    let program = (bundle as NSString).deletingLastPathComponent + "/espalier"
    try #require(FileManager.default.isExecutableFile(atPath: program), "\(program) is not built")
    return program
  }

  /// Runs a command to its end.
  func espalier(_ arguments: String..., prefix: String = "") throws -> Outcome {
    try run(arguments, prefix: prefix)
  }

  /// Runs a command to its end; `prefix` is shell text before it, such as `ulimit -f 1;`.
  func run(
    _ arguments: [String], prefix: String = "", terminal: String? = nil,
    environment: [String: String] = [:]
  ) throws -> Outcome {
    try start(arguments, prefix: prefix, terminal: terminal, environment: environment).outcome()
  }

  /// Starts a command in a session of its own, without a terminal unless one is named.
  func start(
    _ arguments: [String], prefix: String = "", terminal: String? = nil,
    environment: [String: String] = [:]
  ) throws -> RunningCommand {
    count += 1
    let (out, complaints) = ("\(transcripts)/\(count).out", "\(transcripts)/\(count).err")
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, terminal ?? "/dev/null", O_RDWR, 0)
    posix_spawn_file_actions_addopen(&actions, 1, out, O_WRONLY | O_CREAT, 0o600)
    posix_spawn_file_actions_addopen(&actions, 2, complaints, O_WRONLY | O_CREAT, 0o600)
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    // The test's threads block signals that a command must get.
    var (none, all) = (sigset_t(), sigset_t())
    sigemptyset(&none)
    sigfillset(&all)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setsigdefault(&attributes, &all)
    let setSession: Int32 = 0x80
    posix_spawnattr_setflags(
      &attributes, Int16(setSession | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
    let words =
      ["sh", "-c", "cd \"$0\"; \(prefix) exec \"$@\"", path, try Self.program()] + arguments
    var settings = [
      "PATH": "/usr/bin:/bin", "HOME": path + "/home", "XDG_CACHE_HOME": path + "/cache",
      "XDG_STATE_HOME": path + "/state", "ESPALIER_RUNS": runs, "LANG": "C.UTF-8", "TERM": "dumb",
      "OPENBLAS_NUM_THREADS": "1", "ESPALIER_THREADS": "2", "SWIFT_BACKTRACE": "enable=no",
    ]
    settings.merge(environment) { $1 }
    var argv: [UnsafeMutablePointer<CChar>?] = words.map { (text: String) in strdup(text) } + [nil]
    var envp: [UnsafeMutablePointer<CChar>?] =
      settings.filter { !$0.value.isEmpty }.map { strdup("\($0.key)=\($0.value)") } + [nil]
    defer { for text in argv + envp { free(text) } }
    var pid: pid_t = 0
    let code = posix_spawn(&pid, "/bin/sh", &actions, &attributes, &argv, &envp)
    try #require(code == 0, "/bin/sh: \(String(cString: strerror(code)))")
    return RunningCommand(pid: pid, output: out, complaint: complaints)
  }

  /// Puts text into a file and gives its name.
  @discardableResult
  func put(_ text: String, _ name: String) throws -> String {
    try text.write(toFile: "\(path)/\(name)", atomically: false, encoding: .utf8)
    return name
  }

  func text(_ name: String) throws -> String {
    try String(contentsOfFile: "\(path)/\(name)", encoding: .utf8)
  }

  func bytes(_ name: String) throws -> Data {
    try Data(contentsOf: URL(fileURLWithPath: name.hasPrefix("/") ? name : "\(path)/\(name)"))
  }

  func exists(_ name: String) -> Bool {
    FileManager.default.fileExists(atPath: name.hasPrefix("/") ? name : "\(path)/\(name)")
  }

  /// Every file and directory here with its content, for "nothing was written".
  func everything() -> [String: Data] {
    var result: [String: Data] = [:]
    for name in FileManager.default.enumerator(atPath: path) ?? .init() {
      guard let name = name as? String else { continue }
      result[name] = (try? bytes(name)) ?? Data()
    }
    return result
  }

  /// Expects a command to refuse with one sentence that mentions some texts, and to write nothing.
  func expectRefusal(
    _ arguments: [String], code: Int32 = 1, mentions: [String], prefix: String = "",
    terminal: String? = nil, environment: [String: String] = [:],
    at location: SourceLocation = #_sourceLocation
  ) throws {
    let before = everything()
    let outcome = try run(
      arguments, prefix: prefix, terminal: terminal, environment: environment)
    let comment = Comment("espalier \(arguments.joined(separator: " ")): \(outcome.complaint)")
    #expect(outcome.code == code, comment, sourceLocation: location)
    #expect(outcome.output.isEmpty, comment, sourceLocation: location)
    let lines = outcome.complaint.split(separator: "\n", omittingEmptySubsequences: false)
    #expect(lines.count == 2 && lines.last == "", comment, sourceLocation: location)
    #expect(outcome.complaint.hasPrefix("Error: "), comment, sourceLocation: location)
    // The next step stands after the last semicolon.
    #expect(outcome.complaint.contains(";"), comment, sourceLocation: location)
    for text in mentions {
      #expect(
        outcome.complaint.contains(text), "\(comment), expected: \(text)", sourceLocation: location)
    }
    #expect(everything() == before, comment, sourceLocation: location)
  }
}

/// A command that has been started.
struct RunningCommand {
  let pid: Int32
  fileprivate let output, complaint: String

  /// Seconds after which a command that should have ended is killed and counts as hanging.
  private static let patience = 300.0

  /// Waits for the command's end.
  func outcome() throws -> Outcome {
    var status: Int32 = 0
    let deadline = Date().addingTimeInterval(Self.patience)
    while waitpid(pid, &status, WNOHANG) == 0 {
      if Date() > deadline {
        kill(pid, SIGKILL)
        waitpid(pid, &status, 0)
        Issue.record("the command hung and was killed")
        break
      }
      usleep(5_000)
    }
    let signal = status & 0x7f
    return Outcome(
      code: signal == 0 ? (status >> 8) & 0xff : 128 + signal,
      output: try String(contentsOfFile: output, encoding: .utf8),
      complaint: try String(contentsOfFile: complaint, encoding: .utf8))
  }
}

/// Waits until something has come true; a test that waits in vain fails.
func wait(for what: String, _ condition: () throws -> Bool) throws {
  let deadline = Date().addingTimeInterval(300)
  while try !condition() {
    try #require(Date() < deadline, "waited in vain for \(what)")
    usleep(5_000)
  }
}
