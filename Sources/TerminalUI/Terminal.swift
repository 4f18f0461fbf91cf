import CTerminal
import Glibc

/// The terminal, taken over by curses: frames go out, keys and other events come in.
///
/// One a process, on the main thread only. It is given back on `close()`, at exit, after a fatal signal and while
/// the program is stopped (Ctrl-Z). Output of libraries to standard output and error is kept and shown afterwards.
package final class Terminal {
  /// What the terminal can do and how images are drawn.
  package private(set) var capabilities: TerminalCapabilities
  /// The present size.
  package private(set) var size: Size

  private let device: TerminalDevice
  private let screen: CursesScreen
  private let signals: Int32
  private let restoreBytes: [UInt8]
  private var decoder: KeyDecoder
  private var decoderDeadline: Int?
  private var queue: [TerminalEvent] = []
  private var layer = ImageLayer()
  private var encoder = SixelEncoder()
  private var frame: Frame?
  private var cells: [ScreenCell]?
  private var isOpen = true
  private var isGone = false

  /// Takes over the controlling terminal.
  ///
  /// - Parameters:
  ///   - graphics: How images are to be drawn.
  ///   - environment: TERM names the terminal's type; NO_COLOR, not empty, keeps text in the default colours;
  ///     ESCDELAY and SSH_CONNECTION decide how long an ESC waits for the rest of a key.
  /// - Throws: `TerminalError` if there is no terminal or its type is unknown or cannot position the cursor.
  package init(
    graphics: GraphicsMode = .auto, environment: [String: String] = Terminal.environment()
  ) throws(TerminalError) {
    let device = try TerminalDevice()
    let term = environment["TERM"] ?? ""
    do {
      try Self.check(term: term, descriptor: device.descriptor)
    } catch {
      device.closeDescriptor()
      throw error
    }
    var capabilities = TerminalCapabilities()
    CursesScreen.setLocale()
    let signals = ct_watch_signals()
    var original = device.original
    ct_arm(device.descriptor, &original, "", 0)
    var decoder = KeyDecoder(escapeDelay: KeyDecoder.escapeDelay(environment))
    var typed: [KeyDecoder.Input] = []
    if !term.hasPrefix("linux") {
      device.setKeyModes()
      typed = device.ask(&capabilities, decoder: &decoder, milliseconds: 1000)
      device.set(original)
    }
    ct_capture_output()
    let useColors = (environment["NO_COLOR"] ?? "").isEmpty
    guard signals >= 0,
      let screen = CursesScreen(
        term: term, descriptor: device.descriptor, useColors: useColors)
    else {
      ct_release_output()
      ct_disarm()
      ct_unwatch_signals()
      device.closeDescriptor()
      throw TerminalError(
        description: "curses cannot use the terminal type \(term); set TERM to what your terminal"
          + " is, for example TERM=xterm-256color")
    }
    capabilities.colors = screen.palette.colors
    capabilities.choose(graphics)
    self.device = device
    self.screen = screen
    self.signals = signals
    self.capabilities = capabilities
    self.decoder = decoder
    size = device.size()
    restoreBytes = Self.restoreBytes()
    enterModes()
    screen.resize(size)
    take(typed)
    noteDecoderDeadline()
  }

  deinit { close() }

  /// Gives the terminal back as it was; later calls do nothing.
  package func close() {
    guard isOpen else { return }
    isOpen = false
    if !isGone { device.write("\u{1b}[?2004l") }
    screen.close()
    var original = device.original
    tcsetattr(device.descriptor, TCSADRAIN, &original)
    ct_disarm()
    ct_release_output()
    ct_unwatch_signals()
    device.closeDescriptor()
  }

  // MARK: - Output

  /// Shows a frame: sends what differs from the one before, nothing if nothing does.
  ///
  /// A frame of another size than the terminal's is cut or padded. Images are drawn after the text; if several
  /// have to be encoded, some of them during the next calls of `nextEvent`.
  package func render(_ frame: Frame) {
    guard isOpen, !isGone, frame != self.frame else { return }
    let cursorMoved = frame.cursor != self.frame?.cursor
    self.frame = frame
    let hadImages = !layer.isEmpty
    let new = layer.compose(frame, size: size, capabilities: capabilities)
    let changed = new != cells
    guard changed || cursorMoved || layer.pending else { return }
    if capabilities.synchronizedUpdates { device.write("\u{1b}[?2026h") }
    screen.put(new, before: cells, columns: size.columns, keepsPixels: hadImages || !layer.isEmpty)
    if screen.takeRedraw() {
      screen.put(new, before: nil, columns: size.columns)
      _ = screen.takeRedraw()
    }
    cells = new
    screen.update(
      cursor: frame.cursor.flatMap { cursor in
        (0..<size.columns).contains(cursor.column) && (0..<size.rows).contains(cursor.row)
          ? cursor : nil
      })
    let start = TerminalDevice.now()
    while layer.pending, TerminalDevice.now() - start < 10 { drawPendingImage() }
    if capabilities.synchronizedUpdates { device.write("\u{1b}[?2026l") }
  }

  /// Clears the terminal and sends the last frame and every image again.
  package func repaint() {
    guard isOpen, !isGone else { return }
    let last = frame
    forget()
    screen.clearOnUpdate()
    if let last { render(last) }
  }

  private func forget() {
    frame = nil
    cells = nil
    layer.invalidate()
  }

  private func drawPendingImage() {
    guard let emission = layer.takeEmissions(limit: 1).first else { return }
    guard
      let sixels = encoder.bytes(
        of: emission.image, width: emission.width, height: emission.height,
        colors: capabilities.sixelColors)
    else {
      capabilities.graphics = .blocks
      repaint()
      return
    }
    device.write(ImageLayer.bytes(of: emission, sixels: sixels))
  }

  // MARK: - Input

  /// Waits for the next event.
  ///
  /// - Parameter timeoutMilliseconds: After this time without an event `tick` is returned; negative waits without end.
  /// - Returns: The event; `hangup`, again and again, when the terminal is gone.
  package func nextEvent(timeoutMilliseconds: Int) -> TerminalEvent {
    let deadline = timeoutMilliseconds < 0 ? Int.max : TerminalDevice.now() + timeoutMilliseconds
    while true {
      if !queue.isEmpty { return queue.removeFirst() }
      if isGone || !isOpen { return .hangup }
      var wait = deadline == Int.max ? Int.max : max(0, deadline - TerminalDevice.now())
      if let decoderDeadline { wait = min(wait, max(0, decoderDeadline - TerminalDevice.now())) }
      if layer.pending { wait = 0 }

      var watched = [device.descriptor, signals].map {
        pollfd(fd: $0, events: Int16(POLLIN), revents: 0)
      }
      let ready = poll(
        &watched, nfds_t(watched.count), wait == Int.max ? -1 : Int32(clamping: wait))
      if ready > 0 {
        if watched[1].revents != 0 { takeSignals() }
        if watched[0].revents != 0 { takeInput() }
        continue
      }
      if let due = decoderDeadline, TerminalDevice.now() >= due {
        decoderDeadline = nil
        take(decoder.timeOut())
      } else if layer.pending {
        drawPendingImage()
      } else if TerminalDevice.now() >= deadline {
        return .tick
      }
    }
  }

  private func takeInput() {
    guard let bytes = device.read() else { return }
    if bytes.isEmpty {
      isGone = true
      return
    }
    take(bytes.flatMap { decoder.feed($0) })
    noteDecoderDeadline()
  }

  private func noteDecoderDeadline() {
    decoderDeadline = decoder.timeoutMilliseconds.map { TerminalDevice.now() + $0 }
  }

  private func take(_ inputs: [KeyDecoder.Input]) {
    for input in inputs {
      switch input {
      case .key(let key):
        if key == .control("l") { repaint() }
        queue.append(.key(key))
      case .paste(let text): queue.append(.paste(text))
      case .reply(.cellSize(let cell)):
        let before = capabilities.cell(size)
        capabilities.note(.cellSize(cell))
        if capabilities.cell(size) != before { takeSize() }
      case .reply: break
      }
    }
  }

  private func takeSignals() {
    var hasNewSize = false
    for signal in postedSignals() {
      switch signal {
      case SIGWINCH: hasNewSize = true
      case SIGTSTP: suspend()
      case SIGCONT:
        // Stopped from outside, perhaps: the shell has changed modes and screen meanwhile.
        screen.enter()
        enterModes()
        hasNewSize = true
      case SIGHUP: isGone = true
      default: queue.append(.signal(signal))
      }
    }
    if hasNewSize && !isGone { takeSize() }
  }

  private func postedSignals() -> [Int32] {
    var bytes = [UInt8](repeating: 0, count: 64)
    let count = read(signals, &bytes, bytes.count)
    ct_signals_read()
    return count > 0 ? bytes[..<count].map { Int32($0) } : []
  }

  private func takeSize() {
    size = device.size()
    forget()
    screen.resize(size)
    screen.clearOnUpdate()
    if capabilities.reportedCell != nil { device.write("\u{1b}[16t") }
    queue.removeAll {
      if case .resize = $0 { true } else { false }
    }
    queue.append(.resize(size))
  }

  // MARK: - Taking and giving back

  /// Gives the terminal back and stops this process until it is continued, as Ctrl-Z does.
  package func suspend() {
    guard isOpen, !isGone else { return }
    device.write("\u{1b}[?2004l")
    screen.leave()
    device.set(device.original)
    ct_disarm()
    ct_stop_self()
    // The SIGCONT that ended the stop is answered here; requests to end that came meanwhile still count.
    for signal in postedSignals() where [SIGINT, SIGTERM].contains(signal) {
      queue.append(.signal(signal))
    }
    screen.enter()
    enterModes()
    takeSize()
  }

  /// Sets the modes that go beyond curses', and makes sure that a crash would undo them.
  private func enterModes() {
    device.setKeyModes()
    CursesScreen.keepModes()
    device.write("\u{1b}[?2004h")
    var original = device.original
    restoreBytes.withUnsafeBytes { buffer in
      ct_arm(
        device.descriptor, &original, buffer.bindMemory(to: CChar.self).baseAddress, buffer.count)
    }
  }

  /// What puts the screen right from any state, in the middle of an image too.
  private static func restoreBytes() -> [UInt8] {
    var text = "\u{1b}\\\u{1b}[?2026l\u{1b}[?2004l"
    for name in ["sgr0", "op", "cnorm", "rmkx", "rmcup"] {
      // Padding such as $<50> is meant for curses, not for the terminal.
      text += (CursesScreen.capability(name) ?? "").replacing(/\$<[^>]*>/, with: "")
    }
    return Array((text + "\r").utf8)
  }

  private static func check(term: String, descriptor: Int32) throws(TerminalError) {
    let advice = "set TERM to what your terminal is, for example TERM=xterm-256color"
    if term.isEmpty {
      throw TerminalError(description: "the variable TERM is not set; \(advice)")
    }
    switch CursesScreen.find(term: term, descriptor: descriptor) {
    case 1: break
    case 0:
      throw TerminalError(description: "the terminal type TERM=\(term) is unknown; \(advice)")
    default:
      throw TerminalError(
        description: "there is no terminfo database to look up TERM=\(term) in; install the"
          + " packages ncurses-base and ncurses-term")
    }
    guard CursesScreen.capability("cup") != nil else {
      throw TerminalError(
        description: "the terminal type TERM=\(term) cannot position the cursor; \(advice)")
    }
  }

  /// The process' environment.
  package static func environment() -> [String: String] {
    var result: [String: String] = [:]
    for name in ["TERM", "NO_COLOR", "ESCDELAY", "SSH_CONNECTION", "SSH_TTY"] {
      if let value = getenv(name) { result[name] = String(cString: value) }
    }
    return result
  }
}
