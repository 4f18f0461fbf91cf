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
      case .listFiles(let text, let kind):
        return [.filesListed(text: text, Self.paths(beginning: text, of: kind))]
      default: break
      }
      return []
    } catch {
      return [.settingNotSaved("\(error)")]
    }
  }

  /// Folders and files of a kind whose paths begin with a text, as typed, a slash after folders.
  private static func paths(beginning text: String, of kind: FileKind) -> [String] {
    let typed = text.lastIndex(of: "/").map { String(text[...$0]) } ?? ""
    let start = text.dropFirst(typed.count)
    let folder = AtomicFile.absolute(typed.isEmpty ? "." : typed)
    let names = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
    let known = kind.names.filter { $0.hasPrefix(text) }
    return known
      + names.sorted().compactMap { name in
        guard name.hasPrefix(start), start.hasPrefix(".") || !name.hasPrefix(".") else {
          return nil
        }
        var isFolder: ObjCBool = false
        guard FileManager.default.fileExists(atPath: "\(folder)/\(name)", isDirectory: &isFolder)
        else { return nil }
        if isFolder.boolValue { return "\(typed)\(name)/" }
        return kind.suffixes.contains(where: name.hasSuffix) ? typed + name : nil
      }
  }
}

/// Files whose names can be completed.
package enum FileKind: Equatable, Sendable {
  /// Plans.
  case plan
  /// Weights of models, and the shipped model.
  case model

  /// Ends of the files' names.
  fileprivate var suffixes: [String] {
    self == .plan ? [".json"] : [".safetensors", ".pt", ".pth", ".ckpt", ".bin"]
  }

  /// Names that stand for no path.
  fileprivate var names: [String] { self == .plan ? [] : ["demo"] }
}
