import Foundation
import TerminalUI
import Testing

/// What curses sends, written to a file in a terminal's place.
@MainActor @Suite("Curses screen", .serialized)
struct CursesScreenTests {
  private let size = Size(columns: 80, rows: 24)

  /// A screen of lines that all differ, the line of `row` being that of number `row + offset` in `moved`.
  private func cells(moved: Range<Int>, by offset: Int) -> [ScreenCell] {
    (0..<size.rows).flatMap { row -> [ScreenCell] in
      let number = moved.contains(row) ? row + offset : row
      let text = "line \(number) \(String(repeating: String(number * 7919 % 100), count: 25))"
      return (0..<size.columns).map { column in
        let character = Array(text).indices.contains(column) ? Array(text)[column] : " "
        return ScreenCell(character: character)
      }
    }
  }

  /// The bytes that follow when six lines move by one.
  private func bytes(keepsPixels: Bool) throws -> String {
    let path = NSTemporaryDirectory() + "curses-\(UUID().uuidString)"
    defer { try? FileManager.default.removeItem(atPath: path) }
    let descriptor = open(path, O_RDWR | O_CREAT, 0o600)
    defer { close(descriptor) }
    let screen = try #require(
      CursesScreen(
        term: "xterm-256color", descriptor: descriptor, size: size, useColors: false))
    screen.resize(size)
    let first = cells(moved: 0..<0, by: 0)
    screen.put(first, before: nil, columns: size.columns)
    screen.update(cursor: nil)
    let start = lseek(descriptor, 0, SEEK_END)
    let second = cells(moved: 10..<16, by: -1)
    screen.put(second, before: first, columns: size.columns, keepsPixels: keepsPixels)
    screen.update(cursor: nil)
    let sent = try Data(contentsOf: URL(fileURLWithPath: path))[start...]
    screen.close()
    return String(decoding: sent, as: UTF8.self)
  }

  /// Everything that is sent for a screen of a size whose lines change at random.
  private func session(_ size: Size, term: String) throws -> String {
    let path = NSTemporaryDirectory() + "curses-\(UUID().uuidString)"
    defer { try? FileManager.default.removeItem(atPath: path) }
    let descriptor = open(path, O_RDWR | O_CREAT, 0o600)
    defer { close(descriptor) }
    let screen = try #require(
      CursesScreen(term: term, descriptor: descriptor, size: size, useColors: true))
    screen.resize(size)
    var before: [ScreenCell]?
    var state: UInt64 = 3
    for step in 0..<60 {
      var cells = before ?? [ScreenCell](repeating: ScreenCell(), count: size.columns * size.rows)
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      let first = Int(state >> 40) % max(1, size.rows - 12)
      // Blocks of lines move, as lists and logs do.
      for row in first..<min(size.rows, first + 12) {
        let text = Array("\(row + step) " + String(repeating: "line ", count: 10))
        for column in 0..<min(size.columns, text.count) {
          cells[row * size.columns + column] = ScreenCell(character: text[column])
        }
      }
      screen.put(cells, before: before, columns: size.columns, keepsPixels: true)
      screen.update(cursor: nil)
      before = cells
    }
    screen.close()
    return String(decoding: try Data(contentsOf: URL(fileURLWithPath: path)), as: UTF8.self)
  }

  /// Images scroll with the lines of a scrolling region.
  @Test(arguments: ["xterm-256color", "tmux-256color", "linux"])
  func noRegionButTheWholeScreenIsSet(term: String) throws {
    for size in [Size(columns: 120, rows: 40), Size(columns: 40, rows: 10), self.size] {
      let sent = try session(size, term: term)
      #expect(sent.count > 1000)
      for region in sent.matches(of: /\x1b\[(\d*);?(\d*)r/) {
        #expect(
          region.1.isEmpty || region.1 == "1" && Int(region.2) == size.rows,
          "\(term) \(size.columns)x\(size.rows): region \(region.0.dropFirst())")
      }
    }
  }

  @Test func theEnvironmentIsAsBefore() throws {
    setenv("LINES", "17", 1)
    unsetenv("COLUMNS")
    defer { unsetenv("LINES") }
    _ = try bytes(keepsPixels: true)
    #expect(getenv("LINES").map { String(cString: $0) } == "17" && getenv("COLUMNS") == nil)
  }

  @Test func linesMoveByScrollingOnlyWithoutImages() throws {
    let scrolls = "\u{1b}M"
    #expect(try bytes(keepsPixels: false).contains(scrolls))
    let sent = try bytes(keepsPixels: true)
    #expect(!sent.contains(scrolls) && sent.firstMatch(of: /\[\d+;\d+r/) == nil)
    #expect(sent.contains("9") && sent.count > 6 * 20)
  }
}
