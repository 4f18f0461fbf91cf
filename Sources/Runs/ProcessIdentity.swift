import CSystem
import Foundation

/// A process that is told from every other one: of another host, boot or container, of another program,
/// and from a later one with the same number.
///
/// Read from Linux's `/proc` (proc(5)).
package struct ProcessIdentity: Codable, Equatable, Sendable {
  /// The host's name.
  package let host: String
  /// The kernel's random name of this boot.
  package let bootID: String
  /// The namespace in which its number counts (pid_namespaces(7)).
  package let pidNamespace: String
  /// The process number.
  package let pid: Int32
  /// When it started, in clock ticks since boot.
  package let startTime: UInt64
  /// The user that it works for.
  package let owner: UInt32
  /// The program and its arguments.
  package let command: [String]

  /// What can be told of a process.
  package enum Presence: Equatable, Sendable {
    /// It lives.
    case running
    /// It lives and is stopped, by SIGSTOP or the like.
    case stopped
    /// It has ended; one that only waits to be reaped has, too.
    case gone
    /// It belongs to another host, boot or container, or the kernel does not tell.
    case unseen
  }

  /// The identity of a process of this host and namespace that is not reaped; `nil` for none.
  package init?(pid: Int32) {
    guard let facts = OpenProcess(pid)?.facts() else { return nil }
    self = facts.identity
  }

  /// The identity of a child that was started just now, and has perhaps ended already.
  ///
  /// - Parameters:
  ///   - pid: The process number.
  ///   - command: What it was started as, which the kernel shows a moment later and forgets at its end.
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

  /// What has become of the process.
  package var presence: Presence {
    guard isHere else { return .unseen }
    guard let process = OpenProcess(pid) else { return errno == ESRCH ? .gone : .unseen }
    guard let facts = process.facts() else { return process.isUnderWay ? .unseen : .gone }
    guard facts.identity == self, facts.state != "Z", facts.state != "X" else { return .gone }
    return facts.state == "T" ? .stopped : .running
  }

  /// Whether it is known to live.
  package var isAlive: Bool {
    switch presence {
    case .running, .stopped: true
    case .gone, .unseen: false
    }
  }

  /// Whether its number means something here.
  package var isHere: Bool {
    host == Self.host && bootID == Self.bootID && pidNamespace == Self.pidNamespace
  }

  /// Sends a signal to this very process of this user, never to the first one of a system or container.
  ///
  /// - Throws: `RunError` when it is gone, elsewhere, or somebody else's.
  package func signal(_ number: Int32) throws {
    _ = try signalled(number)
  }

  /// Kills the process and waits until it is gone.
  ///
  /// - Parameter patience: Seconds after which it counts as stuck.
  /// - Throws: `RunError` when it cannot be signalled or does not end.
  func kill(patience: Int32 = 60) throws {
    guard try signalled(SIGKILL).waitForEnd(seconds: patience) else {
      throw RunError(
        "process \(pid): was killed but has not ended after \(patience) s, perhaps because a disk does not"
          + " answer; look again with 'espalier runs'")
    }
  }

  private func signalled(_ number: Int32) throws -> OpenProcess {
    guard isHere else {
      throw RunError(
        "process \(pid): belongs to host \(host) or to another container, from where this one cannot"
          + " be signalled; steer the run from there")
    }
    guard owner == geteuid() else {
      throw RunError("process \(pid): belongs to user \(owner); steer the run as that user")
    }
    guard pid > 1, let process = OpenProcess(pid), process.facts()?.identity == self else {
      throw RunError(
        "process \(pid): is not the worker that was noted, which has ended; look again with"
          + " 'espalier runs'")
    }
    guard process.signal(number) else {
      throw RunError(
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

  /// Empty where the kernel does not tell, like the others.
  private static var host: String {
    var name = [UInt8](repeating: 0, count: 256)
    let code = name.withUnsafeMutableBytes { buffer in
      buffer.baseAddress.map {
        gethostname($0.assumingMemoryBound(to: CChar.self), buffer.count - 1)
      }
    }
    return code == 0 ? String(decoding: name.prefix { $0 != 0 }, as: UTF8.self) : ""
  }

  private static var bootID: String {
    let text = kernelFile("/proc/sys/kernel/random/boot_id") ?? []
    return String(decoding: text, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
  }

  private static var pidNamespace: String {
    (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/ns/pid")) ?? ""
  }
}

/// A process that is held by a descriptor (pidfd_open(2)), so that its number cannot pass to another one
/// between a look and a signal.
private struct OpenProcess: ~Copyable {
  private let descriptor: Int32
  private let pid: Int32

  /// Holds a process that is not reaped; `nil` with `errno` for none, or where it cannot be held.
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

  /// Its number in `/proc`, which may be that of another namespace; nil when it is reaped or not shown.
  private var number: Int32? {
    guard let text = kernelFile("/proc/self/fdinfo/\(descriptor)") else { return nil }
    let line = text.split(separator: UInt8(ascii: "\n")).first { $0.starts(with: "Pid:".utf8) }
    let value = line.flatMap {
      Int32(String(decoding: $0.dropFirst(4), as: UTF8.self).trimmingCharacters(in: .whitespaces))
    }
    return value.flatMap { $0 > 0 ? $0 : nil }
  }

  /// What `/proc` says about it: state, as one letter, and identity.
  func facts() -> (state: Character, identity: ProcessIdentity)? {
    guard let number, let line = kernelFile("/proc/\(number)/stat"),
      let words = kernelFile("/proc/\(number)/cmdline")
    else { return nil }
    // The fields are counted from behind the name, which may hold anything.
    let fields = String(decoding: line, as: UTF8.self).split(separator: ")").last?
      .split(separator: " ")
    var status = stat()
    guard let fields, fields.count > 19, let state = fields[0].first,
      let startTime = UInt64(fields[19]), stat("/proc/\(number)", &status) == 0,
      // All of it was about this process if it still has the number.
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

  /// Waits for its end; false when it has not come.
  func waitForEnd(seconds: Int32) -> Bool {
    var ended = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    var count = poll(&ended, 1, seconds * 1000)
    while count < 0, errno == EINTR { count = poll(&ended, 1, seconds * 1000) }
    return count > 0
  }

  func signal(_ number: Int32) -> Bool { csys_signal_process(descriptor, number) == 0 }
}

/// The bytes of a file of `/proc`, which states no size.
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
