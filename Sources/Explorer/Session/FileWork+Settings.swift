import Files
import Foundation

extension FileWork {
  /// Keeps a setting or a command line, or reads names of files.
  func keep(_ effect: Effect) -> [Action] {
    do {
      switch effect {
      case .saveSetting(let key, let value, let path):
        try Configuration.save(key, value, to: path)
      case .keepCommand(let line, let path): try CommandHistory.keep(line, at: path)
      case .listFiles(let text): return [.filesListed(text: text, Self.paths(beginning: text))]
      default: break
      }
      return []
    } catch {
      return [.settingNotSaved("\(error)")]
    }
  }

  /// Folders and plans whose paths begin with a text, as typed, a slash after folders.
  private static func paths(beginning text: String) -> [String] {
    let typed = text.lastIndex(of: "/").map { String(text[...$0]) } ?? ""
    let start = text.dropFirst(typed.count)
    let folder = AtomicFile.absolute(typed.isEmpty ? "." : typed)
    let names = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
    return names.sorted().compactMap { name in
      guard name.hasPrefix(start), start.hasPrefix(".") || !name.hasPrefix(".") else { return nil }
      var isFolder: ObjCBool = false
      guard FileManager.default.fileExists(atPath: "\(folder)/\(name)", isDirectory: &isFolder)
      else { return nil }
      if isFolder.boolValue { return "\(typed)\(name)/" }
      return name.hasSuffix(".json") ? typed + name : nil
    }
  }
}
