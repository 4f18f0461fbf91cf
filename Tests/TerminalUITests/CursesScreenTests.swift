import Foundation
import Testing

@testable import TerminalUI

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
      CursesScreen(term: "xterm-256color", descriptor: descriptor, useColors: false))
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

  @Test func linesMoveByScrollingOnlyWithoutImages() throws {
    let scrolls = "\u{1b}M"
    #expect(try bytes(keepsPixels: false).contains(scrolls))
    let sent = try bytes(keepsPixels: true)
    #expect(!sent.contains(scrolls) && sent.firstMatch(of: /\[\d+;\d+r/) == nil)
    #expect(sent.contains("9") && sent.count > 6 * 20)
  }
}
