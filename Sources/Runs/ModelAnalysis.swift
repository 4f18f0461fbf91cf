import Files
import Foundation

/// Statistics of the output of an operator over samples, timesteps, tokens and channels.
package struct ActivationSummary: Codable, Equatable, Sendable {
  /// Mean.
  package var mean: Double
  /// Population variance.
  package var variance: Double
  /// Largest magnitude.
  package var maxAbs: Double
  /// Fourth central moment divided by the squared variance; 3 for a normal distribution.
  package var kurtosis: Double

  /// Makes statistics from known values.
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

/// Analysis of one block of a pretrained model.
package struct BlockAnalysis: Codable, Equatable, Sendable {
  /// Output of attention before the gate.
  package var attention: ActivationSummary
  /// Output of the MLP before the gate.
  package var mlp: ActivationSummary
  /// Mean attention mass within each of `bands` (L_k, section 3.4 of the paper).
  package var locality: [Double]

  /// Makes an analysis of a block.
  package init(attention: ActivationSummary, mlp: ActivationSummary, locality: [Double]) {
    self.attention = attention
    self.mlp = mlp
    self.locality = locality
  }
}

/// Analysis of a pretrained model, cached on disk by the digest of its weights.
package struct ModelAnalysis: Codable, Equatable, Sendable {
  /// Version of the cache file format.
  package static let formatVersion = 1

  /// The file's version.
  package let version: Int
  /// The SHA-256 digest of the model's weights.
  package var modelHash: String
  /// The half widths k of the locality bands, ascending.
  package var bands: [Int]
  /// Half width reported in the paper.
  package var paperBand: Int
  /// Number of images averaged over.
  package var samples: Int
  /// Diffusion timesteps averaged over.
  package var timesteps: [Int]
  /// Analyses of the blocks.
  package var blocks: [BlockAnalysis]

  /// Makes an analysis from known values.
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

  /// Path of the cache file of a model, in `$XDG_CACHE_HOME`, otherwise `~/.cache`.
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
  /// - Throws: `FileError` when it cannot be read, is damaged or belongs to another version.
  package static func load(path: String) throws -> ModelAnalysis {
    let bytes = try AtomicFile.read(path, limit: 16 << 20)
    let analysis: ModelAnalysis
    do {
      analysis = try JSONDecoder().decode(ModelAnalysis.self, from: Data(bytes))
    } catch {
      throw FileError("\(path): is no analysis (\(reason(error))); delete it to compute it again")
    }
    guard analysis.version == formatVersion,
      analysis.blocks.allSatisfy({ $0.locality.count == analysis.bands.count })
    else {
      throw FileError(
        "\(path): is an analysis of version \(analysis.version) or incomplete, expected version"
          + " \(formatVersion); delete it to compute it again")
    }
    return analysis
  }

  /// Writes a cache file atomically and creates its directory.
  ///
  /// - Throws: `FileError` when it cannot be written.
  package func save(to path: String) throws {
    try AtomicFile.makeDirectory(AtomicFile.directory(of: path))
    try AtomicFile.write(JSONEncoder.sorted().encode(self), to: path)
  }
}
