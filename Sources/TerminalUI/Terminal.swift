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
  private var decoder: KeyDecoder
  private var decoderDeadline: Int?
  private var queue: [TerminalEvent] = []
  private var layer = ImageLayer()
  private var encoder = SixelEncoder()
  private var frame: Frame?
  private var page = Color.default
  private var cells: [ScreenCell]?
  /// The answers to questions that were asked again, until the last of them has come.
  private var asking: TerminalCapabilities?
  private var usesMouse: Bool
  private var isOpen = true
  private var isGone = false
  /// Whether the window has a title of ours.
  private var hasTitle = false

  /// What is to be done with the terminal, whatever it can do.
  package struct Wishes: Equatable, Sendable {
    /// How images are to be drawn.
    package var graphics: GraphicsMode
    /// Which characters are to be drawn.
    package var symbols: SymbolSet
    /// Whether the mouse is this program's; otherwise the terminal selects text with it.
    package var mouse: Bool

    /// Makes wishes.
    package init(graphics: GraphicsMode = .auto, symbols: SymbolSet = .auto, mouse: Bool = true) {
      (self.graphics, self.symbols, self.mouse) = (graphics, symbols, mouse)
    }
  }

  /// Takes over the controlling terminal.
  ///
  /// - Parameters:
  ///   - wishes: How it is to be used.
  ///   - environment: TERM names the terminal's type; NO_COLOR, not empty, keeps text in the default colours;
  ///     ESCDELAY and SSH_CONNECTION decide how long an ESC waits for the rest of a key; TMUX tells of a multiplexer.
  /// - Throws: `TerminalError` if there is no terminal or its type is unknown or cannot position the cursor.
  package init(
    _ wishes: Wishes = Wishes(), environment: [String: String] = Terminal.environment()
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
    capabilities.encoding = CursesScreen.setLocale()
    capabilities.term = term
    capabilities.isMultiplexed = !(environment["TMUX"] ?? "").isEmpty
    capabilities.isConsole = device.isConsole || term.hasPrefix("linux")
    let signals = ct_watch_signals()
    var original = device.original
    ct_arm(device.descriptor, &original, "", 0)
    var decoder = KeyDecoder(escapeDelay: KeyDecoder.escapeDelay(environment))
    var typed: [KeyDecoder.Input] = []
    if !capabilities.isConsole {
      device.setKeyModes()
      typed = device.ask(&capabilities, decoder: &decoder, milliseconds: 1000)
      device.set(original)
    }
    ct_capture_output()
    let useColors = (environment["NO_COLOR"] ?? "").isEmpty
    let size = device.size()
    guard signals >= 0,
      let screen = CursesScreen(
        term: term, descriptor: device.descriptor, size: size, useColors: useColors)
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
    capabilities.choose(wishes.graphics, symbols: wishes.symbols)
    self.device = device
    self.screen = screen
    self.signals = signals
    self.capabilities = capabilities
    self.decoder = decoder
    self.size = size
    usesMouse = wishes.mouse
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
    if !isGone { device.write(layer.invalidate() + Self.modesOff + titleBytes) }
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
    if frame.page != page {
      page = frame.page
      forget()
      screen.setPage(page)
      screen.clearOnUpdate()
    }
    let cursorMoved = frame.cursor != self.frame?.cursor
    self.frame = frame
    let hadImages = !layer.isEmpty
    let new = layer.compose(frame, size: size, capabilities: capabilities)
    let changed = new != cells
    guard changed || cursorMoved || layer.pending else { return }
    update {
      show(new, keepsPixels: hadImages || !layer.isEmpty, cursor: frame.cursor)
      let start = TerminalDevice.now()
      while layer.pending, TerminalDevice.now() - start < 10 { drawPendingImage() }
    }
  }

  /// Lets the terminal show everything that is written meanwhile at once, if it can.
  private func update(_ body: () -> Void) {
    if capabilities.synchronizedUpdates { device.write("\u{1b}[?2026h") }
    body()
    if capabilities.synchronizedUpdates { device.write("\u{1b}[?2026l") }
  }

  private func show(_ new: [ScreenCell], keepsPixels: Bool, cursor: Frame.Position?) {
    device.write(layer.takeRemovals())
    screen.put(new, before: cells, columns: size.columns, keepsPixels: keepsPixels)
    if screen.takeRedraw() {
      screen.put(new, before: nil, columns: size.columns)
      _ = screen.takeRedraw()
    }
    cells = new
    screen.update(
      cursor: cursor.flatMap { cursor in
        (0..<size.columns).contains(cursor.column) && (0..<size.rows).contains(cursor.row)
          ? cursor : nil
      })
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
    device.write(layer.invalidate())
  }

  private func drawPendingImage() {
    guard let emission = layer.takeEmissions(limit: 1).first else { return }
    let bytes =
      capabilities.graphics == .kitty
      ? layer.kitty.draw(emission)
      : encoder.bytes(
        of: emission.image, width: emission.width, height: emission.height,
        colors: capabilities.sixelColors
      ).flatMap { sixels in
        capabilities.passesSixels
          ? TmuxPane.ask()?.bytes(of: emission, sixels: sixels)
          : ImageLayer.bytes(of: emission, sixels: sixels)
      }
    if let bytes {
      device.write(bytes)
    } else {
      capabilities.graphics = .blocks
      repaint()
    }
  }

  // MARK: - Wishes and questions

  /// Writes bytes that move no cursor and draw nothing.
  func write(_ bytes: [UInt8]) {
    if isOpen, !isGone { device.write(bytes) }
  }

  /// Keeps the title of the window for the end, once.
  func keepTitle() {
    guard !hasTitle, isOpen, !isGone else { return }
    hasTitle = true
    device.write(Announcement.keepsTitle)
    arm()
  }

  /// Uses the terminal in another way from now on; `render` shows the last frame so.
  package func wish(_ wishes: Wishes) {
    guard isOpen, !isGone else { return }
    if wishes.mouse != usesMouse {
      usesMouse = wishes.mouse
      device.write(Self.mouse(on: usesMouse))
      arm()
    }
    var chosen = capabilities
    chosen.choose(wishes.graphics, symbols: wishes.symbols)
    adopt(chosen)
  }

  /// Asks the terminal about itself anew; `found` events tell what has changed.
  package func probe() {
    guard isOpen, !isGone, !capabilities.isConsole else { return }
    asking = capabilities.unanswered
    device.write(TerminalDevice.questions(isMultiplexed: capabilities.isMultiplexed))
  }

  /// Takes in an answer that comes while the terminal is in use.
  private func take(_ reply: TerminalReply) {
    var known = asking ?? capabilities
    known.note(reply)
    if asking != nil, !known.answered {
      asking = known
      return
    }
    asking = nil
    known.choose(known.wantedGraphics, symbols: known.wantedSymbols)
    // Colours have changed; which ones, the terminal has to be asked.
    if case .colorScheme = reply { device.write("\u{1b}]11;?\u{1b}\\") }
    adopt(known)
  }

  private func adopt(_ new: TerminalCapabilities) {
    guard new != capabilities else { return }
    let before = capabilities
    let last = frame
    if new.graphics != before.graphics || new.symbols != before.symbols
      || new.cell(size) != before.cell(size) || new.usesPlaceholders != before.usesPlaceholders
    {
      forget()
      screen.clearOnUpdate()
    }
    capabilities = new
    if new.reportsColorScheme != before.reportsColorScheme
      || (new.graphics == .kitty) != (before.graphics == .kitty)
    {
      device.write(Self.colorScheme(on: new.reportsColorScheme))
      arm()
    }
    if frame == nil, let last { render(last) }
    queue.removeAll { if case .found = $0 { true } else { false } }
    queue.append(.found(new))
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
        update(drawPendingImage)
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
      case .key(.control("c")): queue.append(.signal(SIGINT))
      case .key(let key): queue.append(.key(key))
      case .mouse(let event): queue.append(.mouse(event))
      case .paste(let text): queue.append(.paste(text))
      case .reply(let reply): take(reply)
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
    device.write(layer.invalidate() + Self.modesOff)
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
    if usesMouse { device.write(Self.mouse(on: true)) }
    if capabilities.reportsColorScheme { device.write(Self.colorScheme(on: true)) }
    arm()
  }

  private func arm() {
    var original = device.original
    restoreBytes().withUnsafeBytes { buffer in
      ct_arm(
        device.descriptor, &original, buffer.bindMemory(to: CChar.self).baseAddress, buffer.count)
    }
  }

  /// Presses, releases and drags (1002), in numbers without limit (1006).
  private static func mouse(on: Bool) -> String {
    on ? "\u{1b}[?1002h\u{1b}[?1006h" : "\u{1b}[?1002l\u{1b}[?1006l"
  }

  private static func colorScheme(on: Bool) -> String { "\u{1b}[?2031\(on ? "h" : "l")" }

  private static var modesOff: [UInt8] {
    Array(("\u{1b}[?2004l" + mouse(on: false) + colorScheme(on: false)).utf8)
  }

  /// What gives the window its own title back.
  private var titleBytes: [UInt8] { hasTitle ? Array(Announcement.restoresTitle.utf8) : [] }

  /// What puts the screen right from any state, in the middle of an image too.
  private func restoreBytes() -> [UInt8] {
    var bytes = Array("\u{1b}\\\u{1b}[?2026l".utf8) + Self.modesOff + titleBytes
    if capabilities.graphics == .kitty { bytes += layer.kitty.crashBytes() }
    for name in ["sgr0", "op", "cnorm", "rmkx", "rmcup"] {
      // Padding such as $<50> is meant for curses, not for the terminal.
      bytes += Array(
        (CursesScreen.capability(name) ?? "").replacing(/\$<[^>]*>/, with: "").utf8)
    }
    return bytes + Array("\r".utf8)
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
    for name in ["TERM", "NO_COLOR", "ESCDELAY", "SSH_CONNECTION", "SSH_TTY", "TMUX"] {
      if let value = getenv(name) { result[name] = String(cString: value) }
    }
    return result
  }
}
