import Files
import Foundation

/// Counts of evaluations with step caching, kept in a file for each part of a drawing, so that an interrupted one ends
/// in the same share.
package final class StepReuseLog {
  /// Counts the evaluations of this process.
  package let reuse: StepReuse
  private let folder: String
  private var kept = [0, 0]

  /// Keeps counts in a folder of one drawing.
  package init(_ reuse: StepReuse = StepReuse(), keptIn folder: String) {
    (self.reuse, self.folder) = (reuse, folder)
  }

  private static let prefix = "reuse-"

  /// Keeps what was counted since the last part, before the part itself is kept.
  ///
  /// - Parameter first: Index of the first sample of the part.
  /// - Throws: `FileError` if the file cannot be written.
  package func keep(partAt first: Int) throws {
    let counts = [reuse.evaluations, reuse.reused]
    let own = zip(counts, kept).map { $0 - $1 }
    try AtomicFile.write(try JSONEncoder().encode(own), to: "\(folder)/\(Self.prefix)\(first).json")
    kept = counts
  }

  /// The share of reused evaluations of all parts in a folder, as text; nil without counts.
  package static func text(in folder: String) -> String? {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
    let counts = names.filter { $0.hasPrefix(prefix) }.compactMap { name -> [Int]? in
      guard let bytes = try? AtomicFile.read("\(folder)/\(name)", limit: 1 << 10) else {
        return nil
      }
      return try? JSONDecoder().decode([Int].self, from: Data(bytes))
    }.filter { $0.count == 2 }
    let evaluations = counts.reduce(0) { $0 + $1[0] }
    guard evaluations > 0 else { return nil }
    return StepReuse.text(Double(counts.reduce(0) { $0 + $1[1] }) / Double(evaluations))
  }
}

extension StepReuse {
  /// A share of reused evaluations as provenance states it.
  package static func text(_ share: Double) -> String { String(format: "%.4f", share) }
}
