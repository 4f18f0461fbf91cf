import Foundation

/// Starts workers that outlive whoever starts them.
package enum WorkerLauncher {
  /// Starts `executable worker RUN_DIR`, which prints to the run's `log.txt`.
  ///
  /// - Returns: The worker's process number, also noted in the run directory.
  /// - Throws: `RunError` when the program cannot be started; the run then stays queued.
  @discardableResult
  package static func start(executable: String, run: RunDirectory) throws -> Int32 {
    let pid = try spawn(executable, ["worker", run.path], log: run.logPath)
    // The worker notes itself too; noted here, it is known even if it dies at once.
    if let identity = ProcessIdentity(pid: pid), run.worker() == nil { try run.record(identity) }
    return pid
  }

  /// Starts a program in a session of its own.
  ///
  /// It reads nothing, prints to the end of a file, inherits no other descriptor, and has default signal
  /// handling, so that closing the terminal does not reach it.
  ///
  /// - Parameters:
  ///   - executable: The program's file.
  ///   - arguments: What follows its name.
  ///   - settings: What differs in its environment.
  ///   - log: The file that it prints to.
  /// - Returns: The process number.
  /// - Throws: `RunError` when the program cannot be started.
  static func spawn(
    _ executable: String, _ arguments: [String], settings: [String: String] = [:], log: String
  ) throws -> Int32 {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    posix_spawn_file_actions_addopen(&actions, 1, log, O_WRONLY | O_CREAT | O_APPEND, 0o666)
    posix_spawn_file_actions_adddup2(&actions, 1, 2)
    for descriptor in openDescriptors() where descriptor > 2 {
      posix_spawn_file_actions_addclose(&actions, descriptor)
    }

    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    sigemptyset(&none)
    var all = sigset_t()
    sigfillset(&all)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setsigdefault(&attributes, &all)
    let flags = setSession | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF
    posix_spawnattr_setflags(&attributes, Int16(flags))

    let variables = ProcessInfo.processInfo.environment.merging(settings) { $1 }
    let words = ([executable] + arguments).map { (text: String) in strdup(text) } + [nil]
    let environment = variables.map { strdup("\($0.key)=\($0.value)") } + [nil]
    defer { for text in words + environment { free(text) } }
    var pid: pid_t = 0
    let code = posix_spawn(&pid, executable, &actions, &attributes, words, environment)
    guard code == 0 else {
      throw RunError(
        "\(executable): the worker cannot be started (\(String(cString: strerror(code))));"
          + " check that the program is there and executable")
    }
    return pid
  }

  /// The file of the program that runs now.
  ///
  /// - Throws: `RunError` when the system does not tell.
  package static func currentExecutable() throws -> String {
    var bytes = [UInt8](repeating: 0, count: 4096)
    let count = bytes.withUnsafeMutableBytes { buffer in
      buffer.withMemoryRebound(to: CChar.self) { characters in
        characters.baseAddress.map { readlink("/proc/self/exe", $0, characters.count) } ?? 0
      }
    }
    guard count > 0 else {
      throw RunError("/proc/self/exe: cannot be read, which starting workers needs; mount /proc")
    }
    return String(decoding: bytes[..<count], as: UTF8.self)
  }

  /// `POSIX_SPAWN_SETSID` of glibc's spawn.h, which its feature test hides from Swift.
  private static let setSession: Int32 = 0x80

  /// The descriptors that this process has open, from `/proc`.
  private static func openDescriptors() -> [Int32] {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd")) ?? []
    return names.compactMap { Int32($0) }
  }

  /// Collects a finished child, so that it does not stay behind as a zombie; never waits.
  ///
  /// - Returns: Whether the child has ended.
  @discardableResult
  package static func reap(_ pid: Int32) -> Bool {
    var status: Int32 = 0
    return waitpid(pid, &status, WNOHANG) != 0
  }
}
