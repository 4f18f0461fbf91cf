import CSystem
import Files
import Foundation

/// Unique identity of a process across hosts, boots, containers, programs and reused process IDs.
///
/// Read from Linux's `/proc` (proc(5)).
package struct ProcessIdentity: Codable, Equatable, Sendable {
  /// Host name.
  package let host: String
  /// The kernel's random ID of the boot.
  package let bootID: String
  /// PID namespace (pid_namespaces(7)).
  package let pidNamespace: String
  /// Process ID.
  package let pid: Int32
  /// Start time in clock ticks since boot.
  package let startTime: UInt64
  /// User ID of its owner.
  package let owner: UInt32
  /// The program and its arguments.
  package let command: [String]

  /// State of a process.
  package enum Presence: Equatable, Sendable {
    /// Running.
    case running
    /// Stopped by a signal such as SIGSTOP.
    case stopped
    /// Ended, including zombies.
    case gone
    /// Unknown: on another host, boot or container, or hidden by the kernel.
    case unseen
  }

  /// Reads the identity of a process of this host and namespace that is not reaped; nil if there is
  /// none.
  package init?(pid: Int32) {
    guard let facts = OpenProcess(pid)?.facts() else { return nil }
    self = facts.identity
  }

  /// Reads the identity of a newly started child, which may have ended already.
  ///
  /// - Parameters:
  ///   - pid: The process ID.
  ///   - command: Its program and arguments, which the kernel shows only after exec and until the
  ///     end.
  init?(child pid: Int32, startedAs command: [String]) {
    guard let process = OpenProcess(pid), var facts = process.facts() else { return nil }
    while facts.identity.command.isEmpty, process.isUnderWay {
      usleep(200)
      if let later = process.facts() { facts = later }
    }
    let found = facts.identity
    self.init(
      pid: pid, startTime: found.startTime, owner: found.owner,
      command: found.command.isEmpty ? command : found.command)
  }

  /// Current state of the process.
  package var presence: Presence {
    guard isHere else { return .unseen }
    guard let process = OpenProcess(pid) else { return errno == ESRCH ? .gone : .unseen }
    guard let facts = process.facts() else { return process.isUnderWay ? .unseen : .gone }
    guard facts.identity == self, facts.state != "Z", facts.state != "X" else { return .gone }
    return facts.state == "T" ? .stopped : .running
  }

  /// Whether it is known to be alive.
  package var isAlive: Bool {
    switch presence {
    case .running, .stopped: true
    case .gone, .unseen: false
    }
  }

  /// Whether its process ID is valid on this host and in this namespace.
  package var isHere: Bool {
    host == Self.host && bootID == Self.bootID && pidNamespace == Self.pidNamespace
  }

  /// Sends a signal to exactly this process if it belongs to this user; never to process 1.
  ///
  /// - Throws: `FileError` when it has ended, is elsewhere, or belongs to another user.
  package func signal(_ number: Int32) throws {
    _ = try signalled(number)
  }

  /// Kills the process and waits for its end.
  ///
  /// - Parameter patience: Timeout in seconds.
  /// - Throws: `FileError` when it cannot be signalled or does not end.
  func kill(patience: Int32 = 60) throws {
    guard try signalled(SIGKILL).waitForEnd(seconds: patience) else {
      throw FileError(
        "process \(pid): was killed but has not ended after \(patience) s, perhaps because a disk does not"
          + " answer; look again with 'espalier runs'")
    }
  }

  private func signalled(_ number: Int32) throws -> OpenProcess {
    guard isHere else {
      throw FileError(
        "process \(pid): belongs to host \(host) or to another container, from where this one cannot"
          + " be signalled; steer the run from there")
    }
    guard owner == geteuid() else {
      throw FileError("process \(pid): belongs to user \(owner); steer the run as that user")
    }
    guard pid > 1, let process = OpenProcess(pid), process.facts()?.identity == self else {
      throw FileError(
        "process \(pid): is not the worker that was noted, which has ended; look again with"
          + " 'espalier runs'")
    }
    guard process.signal(number) else {
      throw FileError(
        "process \(pid): cannot be signalled (\(String(cString: strerror(errno)))); look again with"
          + " 'espalier runs'")
    }
    return process
  }

  private enum CodingKeys: String, CodingKey {
    case host
    case bootID = "boot_id"
    case pidNamespace = "pid_namespace"
    case pid
    case startTime = "start_time"
    case owner, command
  }

  fileprivate init(pid: Int32, startTime: UInt64, owner: UInt32, command: [String]) {
    (host, bootID, pidNamespace) = (Self.host, Self.bootID, Self.pidNamespace)
    (self.pid, self.startTime, self.owner, self.command) = (pid, startTime, owner, command)
  }

  /// Host name; empty if unknown.
  static var host: String {
    var name = [CChar](repeating: 0, count: 256)
    guard gethostname(&name, name.count - 1) == 0 else { return "" }
    return String(decoding: name.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
  }

  private static var bootID: String {
    let text = kernelFile("/proc/sys/kernel/random/boot_id") ?? []
    return String(decoding: text, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
  }

  private static var pidNamespace: String {
    (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/ns/pid")) ?? ""
  }
}

/// Process held by a descriptor (pidfd_open(2)), so that its process ID cannot be reused between a
/// check and a signal.
private struct OpenProcess: ~Copyable {
  private let descriptor: Int32
  private let pid: Int32

  /// Opens a process that is not reaped; nil with `errno` on failure.
  init?(_ pid: Int32) {
    guard pid > 0 else {
      errno = ESRCH
      return nil
    }
    let opened = csys_open_process(pid)
    guard opened >= 0 else { return nil }
    (descriptor, self.pid) = (opened, pid)
  }

  deinit { close(descriptor) }

  /// Its process ID in `/proc`, possibly of another namespace; nil when it is reaped or not
  /// visible.
  private var number: Int32? {
    guard let text = kernelFile("/proc/self/fdinfo/\(descriptor)") else { return nil }
    let line = text.split(separator: UInt8(ascii: "\n")).first { $0.starts(with: "Pid:".utf8) }
    let value = line.flatMap {
      Int32(String(decoding: $0.dropFirst(4), as: UTF8.self).trimmingCharacters(in: .whitespaces))
    }
    return value.flatMap { $0 > 0 ? $0 : nil }
  }

  /// Reads its state (one letter) and identity from `/proc`.
  func facts() -> (state: Character, identity: ProcessIdentity)? {
    guard let number, let line = kernelFile("/proc/\(number)/stat"),
      let words = kernelFile("/proc/\(number)/cmdline")
    else { return nil }
    // Fields are counted after the name, which may contain any characters.
    let fields = String(decoding: line, as: UTF8.self).split(separator: ")").last?
      .split(separator: " ")
    var status = stat()
    guard let fields, fields.count > 19, let state = fields[0].first,
      let startTime = UInt64(fields[19]), stat("/proc/\(number)", &status) == 0,
      // The data belong to this process if it still has the process ID.
      self.number == number
    else { return nil }
    let command = words.split(separator: 0, omittingEmptySubsequences: false).dropLast()
      .map { String(decoding: $0, as: UTF8.self) }
    return (
      state,
      ProcessIdentity(pid: pid, startTime: startTime, owner: status.st_uid, command: command)
    )
  }

  /// Whether it has not ended.
  var isUnderWay: Bool { !waitForEnd(seconds: 0) }

  /// Waits for its end; false on timeout.
  func waitForEnd(seconds: Int32) -> Bool {
    var ended = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    var count = poll(&ended, 1, seconds * 1000)
    while count < 0, errno == EINTR { count = poll(&ended, 1, seconds * 1000) }
    return count > 0
  }

  func signal(_ number: Int32) -> Bool { csys_signal_process(descriptor, number) == 0 }
}

/// Reads a file of `/proc`, whose size is not known.
private func kernelFile(_ path: String) -> [UInt8]? {
  let descriptor = open(path, O_RDONLY | O_CLOEXEC)
  guard descriptor >= 0 else { return nil }
  defer { close(descriptor) }
  var bytes = [UInt8](repeating: 0, count: 4096)
  var size = 0
  while true {
    let moved = bytes.withUnsafeMutableBytes { buffer in
      read(descriptor, buffer.baseAddress.map { $0 + size }, buffer.count - size)
    }
    if moved < 0, errno == EINTR { continue }
    guard moved > 0 else { return moved == 0 ? Array(bytes[..<size]) : nil }
    size += moved
    if size == bytes.count { bytes.append(contentsOf: repeatElement(0, count: size)) }
  }
}
