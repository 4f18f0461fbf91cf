import Foundation
import Testing

/// Holds the sources against the manifest and the manifest against the documented architecture.
@Suite struct LayeringTests {
  /// Modules of the toolchain, open to all.
  static let toolchain: Set<String> = ["Foundation", "Dispatch", "Synchronization", "Glibc"]

  /// Targets that hold tensors; the terminal's side must never reach them.
  static let numeric: Set<String> = [
    "CKernels", "COpenBLAS", "COneDNN", "TensorCore", "Autograd", "Nn", "Operators", "Models",
    "Sampling", "Datasets", "Analysis", "Evaluation", "Training", "Grafting", "Parity", "Jobs",
    "Reports",
  ]

  static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    .deletingLastPathComponent().deletingLastPathComponent()

  struct Source {
    let target, name, text: String
    var lines: [Substring] { text.split(separator: "\n", omittingEmptySubsequences: false) }

    /// The modules that the file imports, with or without attributes, access and kind.
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
    let folder = root.appending(path: "Sources").path
    let names = try FileManager.default.subpathsOfDirectory(atPath: folder)
    return try names.filter { name in
      [".swift", ".c", ".h"].contains { name.hasSuffix($0) }
    }.sorted().map { name in
      Source(
        target: name.split(separator: "/").first.map(String.init) ?? "", name: name,
        text: try String(contentsOfFile: "\(folder)/\(name)", encoding: .utf8))
    }
  }

  /// The dependencies that the manifest declares for each target of `Sources`.
  static func declared() throws -> [String: Set<String>] {
    let manifest = try String(
      contentsOf: root.appending(path: "Package.swift"), encoding: .utf8)
    let targets = Set(try sources().filter { $0.name.hasSuffix(".swift") }.map(\.target))
    var result: [String: Set<String>] = [:]
    for target in targets {
      let pattern = #"(?:library\(|name:)\s*"\#(target)",\s*(?:dependencies:\s*)?\[(?s:(.*?))\]"#
      let match = try #require(
        try Regex(pattern).firstMatch(in: manifest), "\(target) is not declared")
      let text = try #require(match.output[1].substring)
      let names = text.split(separator: "\"", omittingEmptySubsequences: false).enumerated()
        .compactMap { $0.offset % 2 == 1 ? String($0.element) : nil }
      result[target] = Set(names).subtracting(["swift-argument-parser"])
    }
    return result
  }

  /// A target declares what its files import, neither less nor more.
  @Test func declaredDependenciesAreImported() throws {
    let sources = try Self.sources().filter { $0.name.hasSuffix(".swift") }
    for (target, declared) in try Self.declared() {
      let imported = Set(sources.filter { $0.target == target }.flatMap(\.imports))
        .subtracting(Self.toolchain)
      #expect(imported == declared, "\(target)")
    }
  }

  @Test func terminalNeverReachesTensors() throws {
    let declared = try Self.declared()
    func below(_ target: String) -> Set<String> {
      (declared[target] ?? []).reduce(into: [target]) { $0.formUnion(below($1)) }
    }
    for target in ["Explorer", "TerminalUI", "Runs", "Plans", "Checkpoints", "Pictures", "Files"] {
      #expect(below(target).isDisjoint(with: Self.numeric), "\(target) reaches tensors")
    }
    #expect(below("espalier").isSuperset(of: Self.numeric))
  }

  /// The table of targets in the documentation: each imports only what stands in rows below its own.
  @Test func documentedOrderHolds() throws {
    let text = try String(
      contentsOf: Self.root.appending(path: "docs/ARCHITECTURE.md"), encoding: .utf8)
    let rows = text.split(separator: "\n").drop { !$0.hasPrefix("| target |") }.dropFirst(2)
      .prefix { $0.hasPrefix("|") }
    let order = rows.map { row in
      row.split(separator: "|")[0].split(separator: "`", omittingEmptySubsequences: false)
        .enumerated().compactMap { $0.offset % 2 == 1 ? String($0.element) : nil }
    }
    let declared = try Self.declared()
    #expect(Set(order.joined()).isSuperset(of: declared.keys), "a target has no row")
    for (index, targets) in order.enumerated() {
      let below = Set(order[(index + 1)...].joined())
      for target in targets {
        let known = (declared[target] ?? []).intersection(order.joined())
        #expect(known.isSubset(of: below), "\(target) imports \(known.subtracting(below))")
      }
    }
  }

  /// Lines of documents have at most 120 columns; tables of measurements may be wider.
  @Test func documentsHaveShortLines() throws {
    let names = try FileManager.default.subpathsOfDirectory(atPath: Self.root.path).filter {
      $0.hasSuffix(".md") && !$0.hasPrefix(".") && !$0.hasPrefix("shared")
    }
    #expect(names.count > 20)
    for name in names {
      let text = try String(contentsOf: Self.root.appending(path: name), encoding: .utf8)
      let isMeasured = name.hasPrefix("Benchmarks/") || name.hasPrefix("Assets/")
      for (index, line) in text.split(separator: "\n", omittingEmptySubsequences: false)
        .enumerated()
      where line.count > 120 && !(isMeasured && line.hasPrefix("|")) {
        Issue.record("\(name):\(index + 1) has \(line.count) columns")
      }
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

  /// A release build cannot test what only such imports reach.
  @Test func testsUsePackageAccess() throws {
    let tests = try FileManager.default.subpathsOfDirectory(
      atPath: Self.root.appending(path: "Tests").path
    ).filter { $0.hasSuffix(".swift") }
    #expect(tests.count > 100)
    for name in tests {
      let text = try String(contentsOf: Self.root.appending(path: "Tests/\(name)"), encoding: .utf8)
      #expect(!text.contains("@" + "testable"), "Tests/\(name)")
    }
  }

  /// Weights are written inside `Parameter.update`, never through the tensor that `value` gives.
  @Test func noWeightIsWrittenPastItsUpdate() throws {
    let write = try Regex(
      #"\.value\.((assign|fill)\(|rows\(.*\)\.(assign|fill)\(|pointer\b)|\.value\[[^\]]*\] *[-+*/]?=[^=]"#
    )
    #expect("weight.value.rows(0..<2).assign(x)".contains(write))
    #expect("weight.value[3] += 1".contains(write) && !"weight.value[3] == 1".contains(write))
    for source in try Self.sources() where Self.numeric.contains(source.target) {
      for (number, line) in source.lines.enumerated() where line.contains(write) {
        Issue.record("Sources/\(source.name):\(number + 1) writes to the memory of a weight")
      }
    }
  }
}
