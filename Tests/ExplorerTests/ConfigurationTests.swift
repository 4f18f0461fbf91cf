import Foundation
import Plans
import Runs
import TerminalUI
import TestSupport
import Testing

import Explorer

@Suite struct ConfigurationTests {
  private func scratch(_ text: String? = nil) throws -> String {
    let folder = NSTemporaryDirectory() + "config-\(UUID().uuidString)"
    let path = "\(folder)/espalier/config.yaml"
    if let text {
      try FileManager.default.createDirectory(
        atPath: "\(folder)/espalier", withIntermediateDirectories: true)
      try Data(text.utf8).write(to: URL(filePath: path))
    }
    return path
  }

  @Test func theFileIsWhereXDGSays() {
    #expect(
      Configuration.path(environment: ["XDG_CONFIG_HOME": "/a/b"]) == "/a/b/espalier/config.yaml")
    #expect(
      Configuration.path(environment: ["HOME": "/home/x", "XDG_CONFIG_HOME": "relative"])
        == "/home/x/.config/espalier/config.yaml")
  }

  @Test func aFileIsReadWithItsComments() throws {
    let path = try scratch(
      """
      ---
      # mine
      theme: light   # at work
      mouse: false
      "graphics": 'blocks'

      keys:
        # Q is easier here
        grid.distil: Q Ctrl-T
        grid.settings: none
        help.escape: Esc
      """)
    let read = try Configuration.load(path)
    #expect(read.settings.theme == .light && !read.settings.mouse)
    #expect(read.settings.graphics == .blocks && read.settings.symbols == .auto)
    let table = read.keys.bindings
    #expect(KeyBinding.match(["Q"], in: .grid, of: table) == .command(.distil))
    #expect(KeyBinding.match([.control("t")], in: .grid, of: table) == .command(.distil))
    #expect(KeyBinding.match(["d"], in: .grid, of: table) == .none)
    #expect(KeyBinding.match([","], in: .grid, of: table) == .none)
    let hint = table.first { $0.context == .grid && $0.command == .distil }?.hint
    #expect(hint?.keys == "Q")
    #expect(try Configuration.load(try scratch()).settings == ExplorerSettings())
  }

  @Test(arguments: [
    ("theme: blue", 1, "theme: expected \"auto\""), ("\n\nmouse: maybe", 3, "mouse: expected true"),
    ("colour: red", 1, "colour: unknown key"), ("theme light", 1, "expected key: value"),
    ("keys:\n  grid.fly: x", 2, "grid has no command fly"),
    ("keys:\n  sky.distil: x", 2, "places are grid"),
    ("keys:\n  grid.distil: Ctrl-", 2, "is no key"),
    ("keys:\n  grid.distil: j", 2, "is down already"),
    ("keys:\n  grid.distil: g", 2, "is first already"), ("themes:\n  a: b", 1, "unknown section"),
    ("  theme: dark", 1, "no known section"),
  ])
  func aRefusedLineIsNamed(text: String, line: Int, sentence: String) throws {
    let path = try scratch(text)
    let error = #expect(throws: PlanError.self) { try Configuration.load(path) }
    let message = error.map { "\($0)" } ?? ""
    #expect(message.hasPrefix("\(path):\(line): ") && message.contains(sentence), "\(message)")
  }

  @Test func aSavedSettingLeavesTheRestOfTheFile() throws {
    let path = try scratch("# mine\ntheme: light # at work\n\n# my keys\nkeys:\n  grid.distil: Q\n")
    try Configuration.save("theme", "dark", to: path)
    try Configuration.save("mouse", "false", to: path)
    let text = try String(contentsOfFile: path, encoding: .utf8)
    #expect(text.hasPrefix("# mine\ntheme: dark # at work\n"))
    #expect(text.hasSuffix("mouse: false\n\n# my keys\nkeys:\n  grid.distil: Q\n"))
    #expect(text.contains("\n# whether clicks"))
    let read = try Configuration.load(path)
    #expect(read.settings.theme == .dark && !read.settings.mouse)
    #expect(KeyBinding.match(["Q"], in: .grid, of: read.keys.bindings) == .command(.distil))
    // A new file, in a folder that is not there yet.
    let fresh = try scratch()
    try Configuration.save("theme", "mono", to: fresh)
    #expect(try Configuration.load(fresh).settings.theme == .mono)
  }

  @Test func everyKeyOfTheTableCanBeWritten() {
    for binding in KeyBinding.all {
      for sequence in binding.keys {
        let text = sequence.map(\.label).joined()
        var map = KeyMap()
        let command = "\(binding.context.rawValue).\(binding.command.rawValue)"
        #expect(throws: Never.self, "\(command): \(text)") { try map.set(command, to: text) }
        #expect(
          KeyBinding.match(sequence, in: binding.context, of: map.bindings)
            == .command(binding.command))
      }
    }
    #expect(Key(named: "Alt-Shift-Up") == .modified([.alt, .shift], .up))
    #expect(Key(named: "F30") == nil && Key(named: "Hyper-x") == nil && Key(named: "") == nil)
  }

  @Test func aSettingIsUsedAndKeptAtOnce() {
    var state = Samples.state()
    state.configuration.path = "/c/config.yaml"
    press(&state, ",")
    let effects = press(&state, .enter)
    #expect(state.configuration.settings.theme == .dark)
    #expect(
      effects == [
        .wish(Terminal.Wishes()), .saveSetting(key: "theme", value: "dark", path: "/c/config.yaml"),
      ])
    press(&state, "h", "h")
    #expect(state.configuration.settings.theme == .mono)
    let mouse = press(&state, "j", "j", "j", " ")
    #expect(mouse.contains(.wish(Terminal.Wishes(mouse: false))))
    press(&state, "j", .enter)
    #expect(state.chart.series == .all, "used at once")
    press(&state, .escape)
    #expect(state.overlay == nil)
  }

  @Test func changedKeysRuleEverywhere() throws {
    var state = Samples.busy(Samples.small)
    try state.configuration.keys.set("grid.undo", to: "Z")
    try state.configuration.keys.set("grid.distil", to: "F5")
    press(&state, .function(5))
    #expect(state.keyContext == .form)
    press(&state, .escape, "d")
    #expect(state.notice == .note("d is not a key here; ? shows the keys"))
    state.notice = nil
    let bar = ExplorerView.frame(state).text().split(separator: "\n").last.map(String.init) ?? ""
    #expect(bar.contains("F5 distil") && bar.contains("Z undo"))
    press(&state, "?")
    #expect(ExplorerView.frame(state).text().contains("press") == false)
    let lines = HelpText.lines(width: 70, table: state.configuration.keys.bindings)
    #expect(lines.contains { if case .key("F5", _, ":distil") = $0 { true } else { false } })
  }

  @Test func commandLinesOutliveTheExplorer() throws {
    let path = try scratch() + "/commands"
    var history = CommandHistory(path: path)
    #expect(history.lines.isEmpty)
    for line in ["undo", "series all", "undo"] { try keep(line, path) }
    history = CommandHistory(path: path)
    #expect(history.lines == ["series all", "undo"])
    for number in 0..<600 { history.add("\(number)") }
    #expect(history.lines.count == 500 && history.lines.last == "599")
    #expect(
      CommandHistory.path(environment: ["XDG_STATE_HOME": "/s"]) == "/s/espalier/commands")
  }

  private func keep(_ line: String, _ path: String) throws {
    let files = FileWork(
      launcher: try RunLauncher(root: NSTemporaryDirectory() + "runs-\(UUID().uuidString)"),
      model: Samples.model, codeVersion: "test")
    #expect(files.perform(.keepCommand(line, path: path)).isEmpty)
  }

  @Test func foldersAndPlansAreListed() throws {
    let folder = URL(filePath: try scratch("theme: dark")).deletingLastPathComponent()
    for name in ["a.json", "ab.json", "b.txt", ".hidden.json"] {
      try Data("{}".utf8).write(to: folder.appending(path: name))
    }
    try FileManager.default.createDirectory(
      at: folder.appending(path: "adir"), withIntermediateDirectories: true)
    let files = FileWork(
      launcher: try RunLauncher(root: NSTemporaryDirectory() + "runs-\(UUID().uuidString)"),
      model: Samples.model, codeVersion: "test")
    let text = "\(folder.path)/a"
    #expect(
      files.perform(.listFiles(text)) == [
        .filesListed(text: text, ["a.json", "ab.json", "adir/"].map { "\(folder.path)/\($0)" })
      ])
    let hidden = "\(folder.path)/."
    #expect(
      files.perform(.listFiles(hidden))
        == [.filesListed(text: hidden, ["\(folder.path)/.hidden.json"])])
  }
}
