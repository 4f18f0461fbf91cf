import Foundation
import TerminalUI
import Testing

/// Texts that are made by the program and kept in files of the repository.
enum Recorded {
  /// Holds a text against its file.
  ///
  /// With `ESPALIER_RECORD=1` a file that differs is written anew, and the test fails all the same, so that no run
  /// both records and passes.
  static func check(_ text: String, at url: URL) throws {
    let stored = try? String(contentsOf: url, encoding: .utf8)
    if stored != text, ProcessInfo.processInfo.environment["ESPALIER_RECORD"] == "1" {
      try FileManager.default.createDirectory(
        at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
      try Data(text.utf8).write(to: url)
      Issue.record("\(url.lastPathComponent) was written anew; look at what changed in it")
    } else {
      #expect(text == stored, "\(url.lastPathComponent): ESPALIER_RECORD=1 writes it anew")
    }
  }
}

extension Frame {
  /// The frame as a file can hold it: its text, then the cells of each row that are not in the default style, the
  /// images and the cursor.
  var snapshot: String {
    var lines = [text(), "", "styles"]
    for row in 0..<rows {
      let cells = cells[(row * columns)..<((row + 1) * columns)].map(\.style)
      let runs = cells.indices.filter { $0 == 0 || cells[$0] != cells[$0 - 1] }
      let texts = zip(runs, runs.dropFirst() + [columns]).compactMap { start, end in
        cells[start] == Style()
          ? nil
          : "\(end - start == 1 ? "\(start)" : "\(start)-\(end - 1)") \(cells[start].snapshot)"
      }
      if !texts.isEmpty { lines.append("\(row): " + texts.joined(separator: ", ")) }
    }
    lines += images.map {
      "image \($0.id): \($0.picture.width)x\($0.picture.height) pixels at \($0.column),\($0.row)"
        + " in \($0.columns)x\($0.rows) cells"
    }
    if let cursor { lines.append("cursor at \(cursor.column),\(cursor.row)") }
    return lines.joined(separator: "\n") + "\n"
  }
}

extension Style {
  /// The style in words: "cyan on 236 bold".
  fileprivate var snapshot: String {
    func name(_ color: Color) -> String {
      switch color {
      case .index(let index): "\(index)"
      case .rgb(let red, let green, let blue): "rgb(\(red) \(green) \(blue))"
      default: "\(color)"
      }
    }
    var words: [String] = []
    if foreground != .default { words.append(name(foreground)) }
    if background != .default { words.append("on \(name(background))") }
    if bold { words.append("bold") }
    if dim { words.append("dim") }
    if underline { words.append("underline") }
    if reverse { words.append("reverse") }
    return words.joined(separator: " ")
  }
}
