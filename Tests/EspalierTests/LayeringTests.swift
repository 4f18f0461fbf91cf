import Foundation
import Testing

/// Holds the sources against the layers of the architecture.
@Suite struct LayeringTests {
  /// What each target may import of ours and of the system libraries; arrows point downwards only.
  static let layers: [String: Set<String>] = [
    "TensorCore": ["CKernels", "COpenBLAS", "COneDNN"],
    "Autograd": ["TensorCore", "CKernels"],
    "Nn": ["Autograd", "TensorCore", "CKernels", "Checkpoints"],
    "Checkpoints": ["CSystem", "CPng", "CJpeg", "CZlib"],
    "Plans": ["Checkpoints"],
    "Runs": ["Plans", "Checkpoints", "CSystem"],
    "Operators": ["Plans", "Nn", "Autograd", "TensorCore", "CKernels"],
    "ImageSources": ["Checkpoints"],
    "Models": [
      "Operators", "Plans", "Checkpoints", "Nn", "Autograd", "TensorCore", "CKernels",
    ],
    "OfficialFormat": ["Models", "Plans", "Checkpoints", "Yams"],
    "Sampling": ["TensorCore"],
    "Analysis": ["TensorCore", "CKernels", "COpenBLAS"],
    "Grafting": [
      "Analysis", "Sampling", "Models", "Operators", "Plans", "Checkpoints", "ImageSources", "Nn",
      "Autograd", "TensorCore", "CKernels", "Assets",
    ],
    "Parity": [
      "Grafting", "Analysis", "Sampling", "Models", "Operators", "Plans", "Checkpoints", "Nn",
      "Autograd", "TensorCore",
    ],
    "Jobs": [
      "Runs", "Grafting", "Analysis", "Sampling", "Models", "Operators", "Plans", "Checkpoints",
      "ImageSources", "Nn", "Autograd", "TensorCore", "Assets",
    ],
    "Reports": ["Runs", "Grafting", "Models", "Plans", "Checkpoints", "TensorCore"],
    "TerminalUI": ["CNcurses", "CSixel", "CTerminal"],
    "Explorer": ["TerminalUI", "Runs", "Plans", "Checkpoints"],
    "espalier": [
      "Explorer", "TerminalUI", "Jobs", "Reports", "Parity", "OfficialFormat", "Runs", "Grafting",
      "Analysis", "Sampling", "Models", "Operators", "Plans", "Checkpoints", "ImageSources", "Nn",
      "Autograd",
      "TensorCore", "Assets", "ArgumentParser",
    ],
  ]

  /// Modules of the toolchain, open to all.
  static let system: Set<String> = ["Foundation", "Dispatch", "Synchronization", "Glibc"]

  /// What holds tensors, from the bottom up; the terminal's side must never reach it.
  static let numeric: Set<String> = [
    "CKernels", "COpenBLAS", "COneDNN", "TensorCore", "Autograd", "Nn", "Operators", "Models",
    "Sampling",
    "Analysis", "Grafting", "Parity", "Jobs", "Reports",
  ]

  struct Source {
    let target, name, text: String
    var lines: [Substring] { text.split(separator: "\n", omittingEmptySubsequences: false) }

    /// The modules that the file imports, whatever stands around the name.
    var imports: [String] {
      lines.compactMap { line in
        let words = line.split(separator: " ").map(String.init)
        guard let at = words.firstIndex(of: "import"), at + 1 < words.count,
          words[..<at].allSatisfy({
            $0.hasPrefix("@") || ["public", "package", "internal", "private"].contains($0)
          })
        else { return nil }
        let kinds = ["struct", "class", "enum", "protocol", "func", "var", "let", "typealias"]
        let named =
          kinds.contains(words[at + 1]) ? words.dropFirst(at + 2) : words.dropFirst(at + 1)
        return named.first?.split(separator: ".").first.map(String.init)
      }
    }
  }

  static func sources() throws -> [Source] {
    let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .deletingLastPathComponent().deletingLastPathComponent().appending(path: "Sources").path
    let names = try FileManager.default.subpathsOfDirectory(atPath: root)
    return try names.filter { name in
      [".swift", ".c", ".h"].contains { name.hasSuffix($0) }
    }.sorted().map { name in
      Source(
        target: name.split(separator: "/").first.map(String.init) ?? "", name: name,
        text: try String(contentsOfFile: "\(root)/\(name)", encoding: .utf8))
    }
  }

  @Test func importsPointDownwards() throws {
    let swift = try Self.sources().filter { $0.name.hasSuffix(".swift") }
    #expect(Set(swift.map(\.target)) == Set(Self.layers.keys))
    #expect(swift.filter { $0.imports.isEmpty }.count < swift.count / 2, "imports are not found")
    for source in swift {
      let allowed = Self.system.union(Self.layers[source.target] ?? [])
      for module in source.imports where !allowed.contains(module) {
        Issue.record("Sources/\(source.name) imports \(module)")
      }
    }
  }

  @Test func layersHaveNoCycles() {
    func below(_ target: String, _ path: [String]) -> Set<String> {
      guard !path.contains(target) else {
        Issue.record("\((path + [target]).joined(separator: " > ")) is a cycle")
        return []
      }
      return (Self.layers[target] ?? []).reduce(into: [target]) {
        $0.formUnion(below($1, path + [target]))
      }
    }
    for target in ["Explorer", "TerminalUI", "Runs", "Plans", "Checkpoints", "ImageSources"] {
      #expect(below(target, []).isDisjoint(with: Self.numeric), "\(target) reaches tensors")
    }
    #expect(below("espalier", []).isSuperset(of: Self.numeric))
  }

  /// The table is the manifest's: no target is declared with other dependencies.
  @Test func manifestAgrees() throws {
    let manifest = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .deletingLastPathComponent().deletingLastPathComponent().appending(path: "Package.swift")
    let words = try String(contentsOf: manifest, encoding: .utf8)
      .split(whereSeparator: \.isWhitespace).joined(separator: " ")
    for (target, layer) in Self.layers {
      let starts = [
        "library(\"\(target)\", [", "library( \"\(target)\", [",
        "name: \"\(target)\", dependencies: [",
      ]
      let found = starts.compactMap { words.range(of: $0)?.upperBound }.first
      let start = try #require(found, "\(target) is not declared")
      let end = words[start...].firstIndex(of: "]") ?? words.endIndex
      let names = words[start..<end].split(separator: "\"", omittingEmptySubsequences: false)
        .enumerated()
        .compactMap { $0.offset % 2 == 1 ? String($0.element) : nil }
      let declared = Set(names).subtracting(["swift-argument-parser"])
      #expect(declared == layer, "\(target)")
    }
  }

  @Test func filesAreShort() throws {
    for source in try Self.sources() {
      #expect(source.lines.count - 1 <= 400, "Sources/\(source.name)")
    }
  }

  @Test func nothingCrashesOnInput() throws {
    for source in try Self.sources() where source.name.hasSuffix(".swift") {
      for (number, line) in source.lines.enumerated() {
        for word in ["try!", "fatalError(", "as!", "!."]
        where line.contains(word) && !line.contains("//") {
          Issue.record("Sources/\(source.name):\(number + 1) has \(word)")
        }
      }
    }
  }
}
