import Files
import Foundation

/// A host that is reached by ssh, without questions and with its key known beforehand.
package struct SSHHost: Equatable, Sendable {
  /// Destination as ssh takes it.
  package let destination: String
  /// Further options of ssh.
  package let options: [String]

  /// Makes a host.
  package init(destination: String, options: [String] = []) {
    (self.destination, self.options) = (destination, options)
  }

  /// Options that hold for every connection; ssh takes the first value of each.
  private static let fixed = [
    "-T", "-oBatchMode=yes", "-oStrictHostKeyChecking=yes", "-oConnectTimeout=20",
    "-oServerAliveInterval=10", "-oServerAliveCountMax=3",
  ]

  /// Command line that runs a program at the host.
  ///
  /// - Parameters:
  ///   - words: The program and its arguments.
  ///   - pythonPath: Folder of Python packages at the host.
  /// - Returns: The words.
  package func command(_ words: [String], pythonPath: String) -> [String] {
    let settings = "PYTHONPATH=\(Self.quoted(pythonPath)) PYTHONDONTWRITEBYTECODE=1"
    return connecting("exec env \(settings) \(words.map(Self.quoted).joined(separator: " "))")
  }

  /// Command line that unpacks an archive from standard input into a folder at the host.
  func receiving(at folder: String) -> [String] {
    let (place, draft) = (Self.quoted(folder), Self.quoted("\(folder).tmp"))
    return connecting(
      "rm -rf \(draft) && mkdir -p \(draft) && tar -x -f - -C \(draft) && rm -rf \(place)"
        + " && mv \(draft) \(place)")
  }

  private func connecting(_ text: String) -> [String] {
    ["ssh"] + Self.fixed + options + ["--", destination, text]
  }

  /// A word for the shell of the host, which alone knows what `~/` stands for.
  static func quoted(_ word: String) -> String {
    if word == "~" { return "\"$HOME\"" }
    guard word.hasPrefix("~/") else {
      return "'\(word.replacing("'", with: #"'\''"#))'"
    }
    return "\"$HOME\"/\(quoted(String(word.dropFirst(2))))"
  }
}

extension TorchPackage {
  /// Name of the package's folder at a host, which tells its version by its content.
  ///
  /// - Throws: `FileError` if the package is not beside this program or cannot be read.
  package static func remoteName() throws -> String {
    guard let folder = directory?.appending(path: "espalier_torch").path else {
      throw FileError(
        "the package of the PyTorch engine is not beside this program; install it anew")
    }
    let names = (FileManager.default.enumerator(atPath: folder)?.compactMap { $0 as? String } ?? [])
      .filter { $0.hasSuffix(".py") }.sorted()
    let digest = try ContentHash.sha256(paths: names.map { "\(folder)/\($0)" })
    return ".espalier_torch-\(digest.prefix(16))"
  }
}
