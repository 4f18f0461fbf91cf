import CTerminal
import Glibc

/// Why the explorer cannot use the terminal.
package struct TerminalError: Error, CustomStringConvertible {
  /// One sentence: what is wrong and what to do.
  package let description: String
}

/// The terminal as a descriptor: bytes, modes and size.
struct TerminalDevice {
  let descriptor: Int32
  /// The modes found at the start, to be put back.
  let original: termios

  /// Opens the controlling terminal.
  init() throws(TerminalError) {
    descriptor = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY)
    var modes = termios()
    guard descriptor >= 0, isatty(descriptor) == 1, tcgetattr(descriptor, &modes) == 0 else {
      if descriptor >= 0 { Glibc.close(descriptor) }
      throw TerminalError(
        description:
          "espalier explore needs a terminal; run it in one, or use the commands that need none"
          + " (espalier --help lists them)")
    }
    original = modes
  }

  func closeDescriptor() { Glibc.close(descriptor) }

  /// Sets modes; `drain` waits until pending output is written.
  func set(_ modes: termios) {
    var modes = modes
    while tcsetattr(descriptor, TCSADRAIN, &modes) != 0 && errno == EINTR {}
  }

  /// The present modes with one key a read, no echo, and Ctrl-C, Ctrl-Z still signals.
  func setKeyModes() {
    var modes = termios()
    guard tcgetattr(descriptor, &modes) == 0 else { return }
    modes.c_iflag &= ~tcflag_t(IXON | IXOFF | ICRNL | INLCR | IGNCR | ISTRIP | PARMRK)
    modes.c_lflag &= ~tcflag_t(ECHO | ECHONL | ICANON | IEXTEN)
    modes.c_lflag |= tcflag_t(ISIG)
    set(modes)
  }

  /// Writes all of the bytes; false if the terminal is gone.
  @discardableResult
  func write(_ bytes: [UInt8]) -> Bool {
    bytes.withUnsafeBytes { buffer in
      var offset = 0
      while offset < buffer.count {
        let count = Glibc.write(
          descriptor, buffer.baseAddress?.advanced(by: offset), buffer.count - offset)
        if count > 0 {
          offset += count
        } else if errno == EAGAIN {
          var wait = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
          poll(&wait, 1, 1000)
        } else if errno != EINTR {
          return false
        }
      }
      return true
    }
  }

  func write(_ text: String) { write(Array(text.utf8)) }

  /// What can be read now, empty at the end of input; nil if nothing can.
  func read() -> [UInt8]? {
    var buffer = [UInt8](repeating: 0, count: 4096)
    let count = Glibc.read(descriptor, &buffer, buffer.count)
    if count < 0 { return errno == EINTR || errno == EAGAIN ? nil : [] }
    return Array(buffer[..<count])
  }

  /// Whether input is there, after at most so many milliseconds.
  func waitForInput(milliseconds: Int) -> Bool {
    var wait = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    return poll(&wait, 1, Int32(clamping: max(0, milliseconds))) > 0
  }

  /// The size; 80 x 24 if the terminal does not know.
  func size() -> Size {
    var (rows, columns, width, height): (Int32, Int32, Int32, Int32) = (0, 0, 0, 0)
    guard ct_window_size(descriptor, &rows, &columns, &width, &height) == 0, rows > 0, columns > 0
    else { return Size(columns: 80, rows: 24) }
    return Size(
      columns: Int(columns), rows: Int(rows), window: PixelSize(Int(width), Int(height)))
  }

  /// Milliseconds of a clock that only goes forward.
  static func now() -> Int {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return time.tv_sec * 1000 + time.tv_nsec / 1_000_000
  }

  /// Whether this is a virtual console of Linux.
  var isConsole: Bool { ct_is_console(descriptor) != 0 }

  /// The questions about a terminal; DA1, which every terminal answers, comes last and ends the answers.
  ///
  /// - Parameters:
  ///   - isMultiplexed: Also asks the terminal around a multiplexer, whose answer may come after the end.
  ///   - asksEncoding: Also writes a character of two bytes and asks where the cursor is; the line is erased.
  /// - Returns: The bytes to write.
  static func questions(isMultiplexed: Bool, asksEncoding: Bool = false) -> [UInt8] {
    func kitty(_ number: Int, _ keys: String = "") -> [UInt8] {
      Array("\u{1b}_Gi=\(number),s=1,v=1,a=q,t=d,f=24\(keys);AAAA\u{1b}\\".utf8)
    }
    var bytes = asksEncoding ? Array("\r\u{e9}\u{1b}[6n\r\u{1b}[K".utf8) : []
    // Background and preferred scheme, name, cell in pixels, sixel registers and geometry, modes.
    bytes += Array(
      ("\u{1b}]11;?\u{1b}\\\u{1b}[?996n\u{1b}[>0q\u{1b}[16t\u{1b}[?1;1;0S\u{1b}[?2;1;0S"
        + "\u{1b}[?2026$p\u{1b}[?2031$p\u{1b}[?1006$p").utf8)
    bytes += kitty(TerminalCapabilities.directQuery)
    // Terminals that do not know of placeholders refuse a question with their key.
    if isMultiplexed {
      bytes += KittyGraphics.passed(kitty(TerminalCapabilities.aroundQuery, ",U=1"))
    }
    return bytes + Array("\u{1b}[c".utf8)
  }

  /// Asks the terminal about itself.
  ///
  /// - Parameters:
  ///   - capabilities: Filled with the answers.
  ///   - decoder: Takes the bytes; answers that come later are swallowed by it too.
  ///   - milliseconds: How long to wait at most.
  /// - Returns: What was typed meanwhile.
  func ask(
    _ capabilities: inout TerminalCapabilities, decoder: inout KeyDecoder, milliseconds: Int
  ) -> [KeyDecoder.Input] {
    let asksEncoding = capabilities.encoding != "UTF-8"
    decoder.expectsPosition = asksEncoding
    write(
      Self.questions(isMultiplexed: capabilities.isMultiplexed, asksEncoding: asksEncoding))
    let deadline = Self.now() + milliseconds
    var typed: [KeyDecoder.Input] = []
    while !capabilities.answered, Self.now() < deadline {
      guard waitForInput(milliseconds: deadline - Self.now()) else { continue }
      guard let bytes = read() else { continue }
      if bytes.isEmpty { break }
      for input in bytes.flatMap({ decoder.feed($0) }) {
        if case .reply(let reply) = input {
          capabilities.note(reply)
        } else if typed.count < 4096 {
          typed.append(input)
        }
      }
    }
    return typed
  }
}
