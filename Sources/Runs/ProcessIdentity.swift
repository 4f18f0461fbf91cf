import Foundation

/// A process that cannot be mistaken for a later one with the same number.
///
/// Number, start time and boot together: the kernel reuses process numbers, and start times begin
/// anew with each boot. Read from Linux's `/proc` (proc(5)).
package struct ProcessIdentity: Codable, Equatable, Sendable {
  /// The process number.
  package let pid: Int32
  /// When it started, in clock ticks since boot.
  package let startTime: UInt64
  /// The kernel's random name of this boot.
  package let bootID: String

  /// Names a process.
  package init(pid: Int32, startTime: UInt64, bootID: String) {
    self.pid = pid
    self.startTime = startTime
    self.bootID = bootID
  }

  /// The identity of a living process, or `nil` when there is none with that number.
  package init?(pid: Int32) {
    guard let found = Self.stat(of: pid)?.startTime, let boot = Self.boot else { return nil }
    self.init(pid: pid, startTime: found, bootID: boot)
  }

  /// Whether this very process still lives; one that only waits to be reaped does not.
  package var isAlive: Bool {
    ProcessIdentity(pid: pid) == self
  }

  /// Whether this process cannot tell if it lives, because it belongs to another boot or host.
  package var isForeign: Bool { bootID != Self.boot }

  /// Whether it lives and is stopped, by SIGSTOP or the like.
  package var isStopped: Bool { isAlive && Self.stat(of: pid)?.state == "T" }

  /// Sends a signal to the process and all of its group if it leads one, as workers do.
  ///
  /// - Throws: `RunError` when the process is gone or belongs to somebody else.
  package func signal(_ number: Int32) throws {
    let group = getpgid(pid) == pid
    guard isAlive, kill(group ? -pid : pid, number) == 0 else {
      throw RunError(
        "process \(pid): cannot be signalled"
          + " (\(isAlive ? String(cString: strerror(errno)) : "it has ended"));"
          + " look again with 'espalier runs'")
    }
  }

  private enum CodingKeys: String, CodingKey {
    case pid
    case startTime = "start_time"
    case bootID = "boot_id"
  }

  private static var boot: String? {
    text("/proc/sys/kernel/random/boot_id")?.trimmingCharacters(in: .whitespacesAndNewlines)
  }

  /// Fields 3 and 22 of the status line; fields are counted from behind the name, which may hold
  /// anything.
  private static func stat(of pid: Int32) -> (state: Substring, startTime: UInt64)? {
    guard pid > 0, let line = text("/proc/\(pid)/stat"), let name = line.lastIndex(of: ")") else {
      return nil
    }
    let fields = line[line.index(after: name)...].split(separator: " ")
    guard fields.count > 19, fields[0] != "Z", fields[0] != "X" else { return nil }
    return UInt64(fields[19]).map { (fields[0], $0) }
  }

  /// A file of `/proc`, which states no size.
  private static func text(_ path: String) -> String? {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var bytes = [UInt8](repeating: 0, count: 4096)
    let moved = read(descriptor, &bytes, bytes.count)
    return moved > 0 ? String(decoding: bytes[..<moved], as: UTF8.self) : nil
  }
}
