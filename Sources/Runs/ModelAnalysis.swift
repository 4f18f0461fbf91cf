import Files
import Foundation

/// Statistics of one operator's output over samples, timesteps, tokens and channels.
package struct ActivationSummary: Codable, Equatable, Sendable {
  /// Mean.
  package var mean: Double
  /// Variance, dividing by the count.
  package var variance: Double
  /// Largest magnitude.
  package var maxAbs: Double
  /// Fourth central moment over the squared variance; 3 for a normal distribution.
  package var kurtosis: Double

  /// States the statistics.
  package init(mean: Double, variance: Double, maxAbs: Double, kurtosis: Double) {
    self.mean = mean
    self.variance = variance
    self.maxAbs = maxAbs
    self.kurtosis = kurtosis
  }

  private enum CodingKeys: String, CodingKey {
    case mean, variance
    case maxAbs = "max_abs"
    case kurtosis
  }
}

/// What is known of one block of a pretrained model.
package struct BlockAnalysis: Codable, Equatable, Sendable {
  /// The attention's output, before the gate.
  package var attention: ActivationSummary
  /// The MLP's output, before the gate.
  package var mlp: ActivationSummary
  /// Mean attention mass within each band of tokens (L_k, paper section 3.4), as `bands` lists them.
  package var locality: [Double]

  /// States what is known.
  package init(attention: ActivationSummary, mlp: ActivationSummary, locality: [Double]) {
    self.attention = attention
    self.mlp = mlp
    self.locality = locality
  }
}

/// The analysis of a pretrained model, cached on disk by the digest of its weights.
package struct ModelAnalysis: Codable, Equatable, Sendable {
  /// The version of the cache file that this code writes and reads.
  package static let formatVersion = 1

  /// The file's version.
  package let version: Int
  /// The SHA-256 digest of the model's weights.
  package var modelHash: String
  /// The half widths k of the locality bands, ascending.
  package var bands: [Int]
  /// The half width that the paper reports.
  package var paperBand: Int
  /// Images that were averaged over.
  package var samples: Int
  /// Diffusion timesteps that were averaged over.
  package var timesteps: [Int]
  /// Block by block.
  package var blocks: [BlockAnalysis]

  /// States an analysis.
  package init(
    modelHash: String, bands: [Int], paperBand: Int = 32, samples: Int, timesteps: [Int],
    blocks: [BlockAnalysis]
  ) {
    self.version = Self.formatVersion
    self.modelHash = modelHash
    self.bands = bands
    self.paperBand = paperBand
    self.samples = samples
    self.timesteps = timesteps
    self.blocks = blocks
  }

  private enum CodingKeys: String, CodingKey {
    case version = "espalier_analysis"
    case modelHash = "model_hash"
    case bands
    case paperBand = "paper_band"
    case samples, timesteps, blocks
  }

  /// Where a model's analysis is cached: below `$XDG_CACHE_HOME`, else `~/.cache`.
  package static func cachePath(
    modelHash: String,
    environment: [String: String] = ProcessInfo.processInfo.environment
  ) -> String {
    var cache = "\(environment["HOME"] ?? "/tmp")/.cache"
    if let chosen = environment["XDG_CACHE_HOME"], chosen.hasPrefix("/") { cache = chosen }
    let name = modelHash.filter { $0.isASCII && ($0.isLetter || $0.isNumber) }.prefix(64)
    return "\(cache)/espalier/analysis-\(name).json"
  }

  /// Reads a cache file.
  ///
  /// - Throws: `FileError` when it cannot be read, `RunError` when it is damaged or belongs to
  ///   another version.
  package static func load(path: String) throws -> ModelAnalysis {
    let bytes = try AtomicFile.read(path, limit: 16 << 20)
    let analysis: ModelAnalysis
    do {
      analysis = try JSONDecoder().decode(ModelAnalysis.self, from: Data(bytes))
    } catch {
      throw RunError("\(path): is no analysis (\(reason(error))); delete it to compute it again")
    }
    guard analysis.version == formatVersion,
      analysis.blocks.allSatisfy({ $0.locality.count == analysis.bands.count })
    else {
      throw RunError(
        "\(path): is an analysis of version \(analysis.version) or incomplete, expected version"
          + " \(formatVersion); delete it to compute it again")
    }
    return analysis
  }

  /// Writes a cache file, in one piece or not at all, making its directory.
  ///
  /// - Throws: `FileError` when it cannot be written.
  package func save(to path: String) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    try AtomicFile.makeDirectory(AtomicFile.directory(of: path))
    try AtomicFile.write(encoder.encode(self), to: path)
  }
}
