import CSystem
import Files
import Foundation

/// Starts programs that outlive their parent process.
enum DetachedProcess {
  /// Starts a program in a new session.
  ///
  /// Standard input is empty, output is appended to a file, no other descriptor is inherited, and
  /// signal handling is the default; closing the terminal does not affect it.
  ///
  /// - Parameters:
  ///   - executable: Path of the program.
  ///   - arguments: Arguments without the program name.
  ///   - environment: Environment variables.
  ///   - log: File of its output.
  ///   - inherited: Descriptor passed as `RunDirectory.inheritedLock`.
  /// - Returns: The process ID.
  /// - Throws: `FileError` when the program cannot be started.
  static func start(
    _ executable: String, _ arguments: [String], environment: [String: String], log: String,
    inherited: Int32? = nil
  ) throws -> Int32 {
    var status = stat()
    let output = open(
      log, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0o666)
    defer { close(output) }
    guard output >= 0, fstat(output, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
      let reason = output < 0 ? String(cString: strerror(errno)) : "no regular file"
      throw FileError("\(log): cannot be written to (\(reason)); remove it or check the disk")
    }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    posix_spawn_file_actions_adddup2(&actions, output, 1)
    posix_spawn_file_actions_adddup2(&actions, output, 2)
    let lock = RunDirectory.inheritedLock
    if let inherited { posix_spawn_file_actions_adddup2(&actions, inherited, lock) }
    csys_close_from(&actions, inherited == nil ? lock : lock + 1)

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

    let words = ([executable] + arguments).map { (text: String) in strdup(text) } + [nil]
    let variables = environment.map { strdup("\($0.key)=\($0.value)") } + [nil]
    defer { for text in words + variables { free(text) } }
    var pid: pid_t = 0
    let code = posix_spawn(&pid, executable, &actions, &attributes, words, variables)
    guard code == 0 else {
      throw FileError(
        "\(executable): the worker cannot be started (\(String(cString: strerror(code))));"
          + " check that the program is there and executable")
    }
    return pid
  }

  /// `POSIX_SPAWN_SETSID` of glibc's spawn.h, hidden from Swift by a feature test macro.
  private static let setSession: Int32 = 0x80
}
