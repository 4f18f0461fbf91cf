import Files
import Foundation

/// Part of a histogram: a range of values, its lower edge included, and the share of values in it.
package struct HistogramBin: Codable, Equatable, Sendable {
  /// Lower edge; 0 with `high` 0 for values of nearly no magnitude.
  package let low: Double
  /// Upper edge.
  package let high: Double
  /// Share of all finite values.
  package let share: Double

  /// Makes a bin.
  package init(low: Double, high: Double, share: Double) {
    (self.low, self.high, self.share) = (low, high, share)
  }
}

/// Channel of an operator's output with large activations.
package struct ChannelOutlier: Codable, Equatable, Sendable {
  /// Index of the channel.
  package let channel: Int
  /// Root mean square of its activations.
  package let rms: Double
  /// Largest magnitude of its activations.
  package let maxAbs: Double

  /// Makes an outlier.
  package init(channel: Int, rms: Double, maxAbs: Double) {
    (self.channel, self.rms, self.maxAbs) = (channel, rms, maxAbs)
  }

  private enum CodingKeys: String, CodingKey {
    case channel, rms
    case maxAbs = "max_abs"
  }
}

/// Channels of an operator's output.
package struct ChannelSummary: Codable, Equatable, Sendable {
  /// A channel is an outlier from this multiple of the median root mean square on.
  package static let outlierRatio = 6.0
  /// Most channels listed.
  package static let limit = 8

  /// Median over the channels of their root mean square.
  package let medianRMS: Double
  /// Number of channels of at least `outlierRatio` times the median.
  package let outliers: Int
  /// The channels of the largest root mean square, descending, outliers or not.
  package let largest: [ChannelOutlier]

  /// Makes a summary from the root mean square and the largest magnitude of every channel.
  package init(rms: [Double], maxAbs: [Double], medianRMS: Double) {
    self.medianRMS = medianRMS
    outliers = medianRMS > 0 ? rms.count { $0 >= Self.outlierRatio * medianRMS } : 0
    largest = rms.indices.sorted { (rms[$1], $0) < (rms[$0], $1) }.prefix(Self.limit).map {
      ChannelOutlier(channel: $0, rms: rms[$0], maxAbs: maxAbs[$0])
    }
  }

  private enum CodingKeys: String, CodingKey {
    case medianRMS = "median_rms"
    case outliers, largest
  }
}

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
  /// Histogram in ascending order; its bins widen with the magnitude.
  package var histogram: [HistogramBin]
  /// Channels, the largest ones by name.
  package var channels: ChannelSummary

  /// Makes statistics from known values.
  package init(
    mean: Double, variance: Double, maxAbs: Double, kurtosis: Double,
    histogram: [HistogramBin] = [],
    channels: ChannelSummary = ChannelSummary(rms: [], maxAbs: [], medianRMS: 0)
  ) {
    self.mean = mean
    self.variance = variance
    self.maxAbs = maxAbs
    self.kurtosis = kurtosis
    (self.histogram, self.channels) = (histogram, channels)
  }

  private enum CodingKeys: String, CodingKey {
    case mean, variance
    case maxAbs = "max_abs"
    case kurtosis, histogram, channels
  }
}

/// Analysis of one block of a pretrained model.
package struct BlockAnalysis: Codable, Equatable, Sendable {
  /// Output of attention before the gate.
  package var attention: ActivationSummary
  /// Output of the MLP before the gate.
  package var mlp: ActivationSummary
  /// Mean attention mass within each of `bands` (L_k, section 3.4 of the paper); empty without
  /// softmax attention.
  package var locality: [Double]
  /// L_k of every head (heads x bands).
  package var localityPerHead: [[Double]]
  /// L_k for every k from 0 to tokens - 1.
  package var within: [Double]

  /// Makes an analysis of a block.
  package init(
    attention: ActivationSummary, mlp: ActivationSummary, locality: [Double],
    localityPerHead: [[Double]] = [], within: [Double] = []
  ) {
    self.attention = attention
    self.mlp = mlp
    self.locality = locality
    (self.localityPerHead, self.within) = (localityPerHead, within)
  }

  private enum CodingKeys: String, CodingKey {
    case attention, mlp, locality
    case localityPerHead = "locality_per_head"
    case within
  }

  /// The smallest half width whose band holds a share of the attention; nil without softmax
  /// attention.
  package func window(holding share: Double) -> Int? {
    within.firstIndex { $0 >= share - 1e-9 }
  }
}

/// Analysis of a pretrained model, cached on disk by the digest of its weights.
package struct ModelAnalysis: Codable, Equatable, Sendable {
  /// Version of the cache file format.
  package static let formatVersion = 2
  /// Share of the attention that a suggested window holds.
  package static let windowShare = 0.9

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
  ///
  /// Files of other versions have other names.
  package static func cachePath(
    modelHash: String,
    environment: [String: String] = ProcessInfo.processInfo.environment
  ) -> String {
    let name = modelHash.filter { $0.isASCII && ($0.isLetter || $0.isNumber) }.prefix(64)
    let folder = UserDirectory.cache.path(environment: environment)
    return "\(folder)/analysis-v\(formatVersion)-\(name).json"
  }

  /// Path of the picture of a block's mean attention maps, beside the cache file at `path`: one
  /// square for each head, one below the other, the square root of the weight as brightness.
  package static func mapPath(beside path: String, block: Int) -> String {
    "\(path.dropLast(".json".count))-maps/\(block).png"
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
      analysis.blocks.allSatisfy({ block in
        let lists = block.localityPerHead + (block.locality.isEmpty ? [] : [block.locality])
        return lists.allSatisfy { $0.count == analysis.bands.count }
      })
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
