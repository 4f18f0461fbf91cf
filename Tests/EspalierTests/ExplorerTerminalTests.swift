import Foundation
import Plans
import Testing

/// The explorer in a terminal of its own: a pseudo-terminal whose other end is the test.
@Suite struct ExplorerTerminalTests {
  /// The end of a pseudo-terminal that a person and a screen would have.
  private final class Screen {
    private let master: Int32
    let path: String
    private(set) var shown = Data()

    init(columns: UInt16, rows: UInt16, width: UInt16, height: UInt16) throws {
      master = Glibc.open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC)
      // TIOCSPTLCK and TIOCGPTN: unlock the other end, and give its number.
      var (isLocked, number): (Int32, Int32) = (0, 0)
      try #require(ioctl(master, 0x4004_5431, &isLocked) == 0)
      try #require(ioctl(master, 0x8004_5430, &number) == 0)
      path = "/dev/pts/\(number)"
      var size = winsize(ws_row: rows, ws_col: columns, ws_xpixel: width, ws_ypixel: height)
      try #require(ioctl(master, UInt(TIOCSWINSZ), &size) == 0)
    }

    deinit { close(master) }

    func type(_ text: String) {
      _ = Array(text.utf8).withUnsafeBytes { write(master, $0.baseAddress, $0.count) }
    }

    /// Takes in what is sent for some milliseconds, or until it holds a text.
    func look(for text: String? = nil, milliseconds: Int32 = 60_000) throws {
      let deadline = Date().addingTimeInterval(Double(milliseconds) / 1000)
      let start = shown.count
      while Date() < deadline {
        if let text, shown[start...].range(of: Data(text.utf8)) != nil { return }
        var wait = pollfd(fd: master, events: Int16(POLLIN), revents: 0)
        guard poll(&wait, 1, 20) > 0 else { continue }
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        let count = read(master, &buffer, buffer.count)
        if count <= 0 { break }
        shown += buffer[..<count]
      }
      if let text { Issue.record("waited in vain for \(text)") }
    }
  }

  /// Opens the explorer on the tiny model and waits for its first frame.
  private func open(
    _ scratch: Scratch, _ screen: Screen, _ arguments: [String]? = nil,
    replies: String = "\u{1b}[?64c", waitingFor text: String,
    graphics: String = "sixel", environment: [String: String] = [:]
  ) throws -> RunningCommand {
    let subject = try arguments ?? [scratch.tinyModel()]
    let command = try scratch.start(
      ["explore"] + subject + ["--graphics", graphics], terminal: screen.path,
      environment: ["TERM": "xterm-256color"].merging(environment) { $1 })
    try screen.look(for: "\u{1b}[c")
    screen.type(replies)
    try screen.look(for: text)
    return command
  }

  /// Collects a command of a test that has failed: left behind, it would hide the end of later ones.
  private func end(_ command: RunningCommand) {
    guard waitpid(command.pid, nil, WNOHANG) == 0 else { return }
    kill(command.pid, SIGKILL)
    waitpid(command.pid, nil, 0)
  }

  private func leave(_ scratch: Scratch, _ screen: Screen, _ command: RunningCommand) throws {
    screen.type("q")
    try screen.look(for: "\u{1b}[?1049l")
    let outcome = try command.outcome()
    #expect(outcome.code == 0, "\(outcome.complaint)")
    // The analysis that the explorer has started must not outlive its directory.
    for id in try FileManager.default.contentsOfDirectory(atPath: scratch.runs) {
      _ = try scratch.espalier("runs", "cancel", id, "--hard")
    }
  }

  /// What was not saved outlives a kill and a lost connection, and is offered at the next start.
  @Test(arguments: [SIGKILL, SIGHUP])
  func unsavedEditsOutliveTheExplorer(signal: Int32) throws {
    let scratch = try Scratch()
    _ = try scratch.tinyModel()
    for name in ["plan.json", "other.json"] {
      let made = try scratch.espalier("plan", "new", name, "--model", "model.safetensors")
      #expect(made.code == 0, "\(made.complaint)")
    }
    func screen() throws -> Screen { try Screen(columns: 80, rows: 24, width: 0, height: 0) }
    let folder = scratch.path + "/state/espalier/recovery"
    func kept() -> [String] {
      ((try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? [])
        .filter { $0.hasSuffix(".json") }
        .compactMap { try? String(contentsOfFile: "\(folder)/\($0)", encoding: .utf8) }
    }
    let first = try screen()
    let killed = try open(scratch, first, ["--plan", "plan.json"], waitingFor: "help")
    defer { end(killed) }
    first.type("=seed=77\r")
    try wait(for: "the kept edits") { kept().contains { $0.contains("seed\\\": 77") } }
    #expect(kill(killed.pid, signal) == 0)
    _ = try killed.outcome()
    #expect(kept().count == 1)
    #expect(try GraftPlan.load(path: scratch.path + "/plan.json").seed == 0)

    // Another plan is opened as it is.
    let second = try screen()
    let other = try open(scratch, second, ["--plan", "other.json"], waitingFor: "help")
    try leave(scratch, second, other)
    #expect(second.shown.range(of: Data("unsaved changes".utf8)) == nil)

    let third = try screen()
    let again = try open(scratch, third, [], waitingFor: "unsaved changes of")
    defer { end(again) }
    third.type("y")
    try third.look(for: "are back")
    third.type("w")
    try third.look(for: "saved ")
    try wait(for: "the saved plan") {
      try GraftPlan.load(path: scratch.path + "/plan.json").seed == 77
    }
    try wait(for: "nothing kept") { kept().isEmpty }
    try leave(scratch, third, again)

    // The next start without arguments offers what was shown.
    let fourth = try screen()
    let last = try open(scratch, fourth, [], waitingFor: "The last session showed")
    defer { end(last) }
    fourth.type("y")
    // The explorer starts again on the session's model; keys from before that would be lost.
    try fourth.look(for: "help")
    try leave(scratch, fourth, last)
  }

  /// The teacher of a graft is gone: the graft is shown by itself, and said to be.
  @Test func aGraftWithoutItsTeacherOpens() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan()
    let made = try scratch.espalier(
      "convert", "model.safetensors", "--plan", "plan.json", "--fresh", "--to", "graft.safetensors")
    #expect(made.code == 0, "\(made.complaint)")
    try FileManager.default.removeItem(atPath: scratch.path + "/model.safetensors")
    let screen = try Screen(columns: 80, rows: 24, width: 0, height: 0)
    let command = try open(
      scratch, screen, ["graft.safetensors"], waitingFor: "is not there")
    screen.type("d")
    try screen.look(for: "--teacher")
    screen.type("s")
    try screen.look(for: "sampling")
    try leave(scratch, screen, command)
  }

  @Test func hostileSizesAndAnswers() throws {
    let scratch = try Scratch()
    let screen = try Screen(columns: 65535, rows: 65535, width: 65535, height: 65535)
    let numbers = "9223372036854775807;9223372036854775807"
    let command = try open(
      scratch, screen,
      replies: "\u{1b}[6;\(numbers)t\u{1b}[?1;0;\(numbers)S\u{1b}[?2;0;\(numbers)S\u{1b}[?64;4c",
      waitingFor: "help")
    screen.type("\u{1b}[6;1;\(numbers)t\u{1b}[6;0;-1t\u{1b}[?2;0;0;0S")
    try screen.look(milliseconds: 300)
    let status = try String(contentsOfFile: "/proc/\(command.pid)/status", encoding: .utf8)
    let memory = status.firstMatch(of: /VmHWM:\s+(\d+) kB/).flatMap { Int($0.1) } ?? .max
    #expect(memory < 400_000)
    try leave(scratch, screen, command)
  }

  @Test func slowKeysAndPastesAreNoCommands() throws {
    let scratch = try Scratch()
    let screen = try Screen(columns: 80, rows: 24, width: 0, height: 0)
    let command = try open(scratch, screen, waitingFor: "help")
    // Taken for keys, these would leave the explorer or be refused.
    for piece in ["\u{1b}", "[C", "\u{1b}[", "C", "\u{1b}[200~qC", "y\nq", "\u{1b}[20", "1~"] {
      screen.type(piece)
      try screen.look(milliseconds: 700)
    }
    // C has been taken for no key: there is no training that it could cancel, and nothing says so.
    #expect(screen.shown.range(of: Data("no training".utf8)) == nil)
    screen.type(":")
    try screen.look(for: "Tab completes")
    for piece in ["\u{1b}[200~qu", "it\n", "\u{1b}[201~"] {
      screen.type(piece)
      try screen.look(milliseconds: 300)
    }
    screen.type("\u{1b}")
    try screen.look(for: "hjkl")
    try leave(scratch, screen, command)
  }

  @Test func kittyImagesComeAndGoWithTheAnswers() throws {
    let scratch = try Scratch()
    let screen = try Screen(columns: 100, rows: 30, width: 1000, height: 600)
    let isOK = "\u{1b}_Gi=31;OK\u{1b}\\"
    let command = try open(
      scratch, screen, replies: isOK + "\u{1b}[?64c", waitingFor: "hjkl", graphics: "auto")
    screen.type("T")
    try screen.look(for: "\u{1b}_Ga=p,")
    #expect(screen.shown.range(of: Data("\u{1b}_Ga=t,".utf8)) != nil)
    try screen.look(milliseconds: 700)
    // Nothing changes on the page: nothing is sent.
    let count = screen.shown.count
    try screen.look(milliseconds: 1500)
    #expect(screen.shown.count == count)
    // Asked anew, the terminal no longer takes images: they are freed, and cells drawn.
    screen.type("\u{c}")
    try screen.look(for: "a=q")
    screen.type("\u{1b}[?64c")
    try screen.look(for: "▀")
    #expect(screen.shown[count...].range(of: Data("\u{1b}_Ga=d,d=I,".utf8)) != nil)
    // An answer that comes late counts too.
    screen.type(isOK)
    try screen.look(for: "\u{1b}_Ga=p,")
    let shown = screen.shown.count
    screen.type("\u{1b}")
    try screen.look(for: "hjkl")
    try leave(scratch, screen, command)
    #expect(screen.shown[shown...].range(of: Data("\u{1b}_Ga=d,d=I,".utf8)) != nil)
  }

  @Test func aTerminalThatReadsNoUTF8GetsASCII() throws {
    let scratch = try Scratch()
    let screen = try Screen(columns: 80, rows: 30, width: 0, height: 0)
    // Two bytes have moved the cursor by two cells.
    let command = try open(
      scratch, screen, replies: "\u{1b}[1;3R\u{1b}[?64c", waitingFor: "help", graphics: "auto",
      environment: ["LANG": "C"])
    screen.type("T")
    try screen.look(for: "ANSI_X3.4-1968")
    screen.type("\u{1b}")
    try screen.look(for: "Enter")
    try leave(scratch, screen, command)
    #expect(screen.shown.filter { $0 > 0x7f } == Data("é".utf8), "nothing but the question")
  }

  @Test func keysWithModifiersAndTheMouse() throws {
    let scratch = try Scratch()
    let screen = try Screen(columns: 80, rows: 24, width: 0, height: 0)
    let command = try open(scratch, screen, waitingFor: "help")
    #expect(screen.shown.range(of: Data("\u{1b}[?1002h".utf8)) != nil)
    screen.type("\u{1b}x")
    try screen.look(for: "Alt-x is not a key here")
    screen.type("\u{1b}[27;5;13~")
    try screen.look(for: "is not a key here")
    // The first click selects the second block, the second one is Enter.
    screen.type("\u{1b}[<0;5;4M\u{1b}[<0;5;4m\u{1b}[<0;5;4M")
    try screen.look(for: "operator for")
    screen.type("\u{1b}")
    try screen.look(for: "hjkl")
    try leave(scratch, screen, command)
    #expect(screen.shown.range(of: Data("\u{1b}[?1002l".utf8)) != nil)
  }

  @Test func aWrongConfigurationIsRefusedByLine() throws {
    let scratch = try Scratch()
    let screen = try Screen(columns: 80, rows: 24, width: 0, height: 0)
    try FileManager.default.createDirectory(
      atPath: "\(scratch.path)/home/.config/espalier", withIntermediateDirectories: true)
    try scratch.put("mouse: true\ntheme: blue\n", "home/.config/espalier/config.yaml")
    let command = try scratch.start(
      ["explore", try scratch.tinyModel()], terminal: screen.path,
      environment: ["TERM": "xterm-256color"])
    let outcome = try command.outcome()
    #expect(outcome.code == 1)
    #expect(
      outcome.complaint.contains("config.yaml:2: theme: expected \"auto\""), "\(outcome.complaint)")
  }
}
