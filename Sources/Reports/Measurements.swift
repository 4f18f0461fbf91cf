import Evaluation
import Files
import Foundation
import Pictures
import Runs
import Sampling

/// Settings of the images that are evaluated or shown.
package struct DrawingSettings: Codable, Equatable, Sendable {
  /// Number of images per model that are judged.
  package var samples: Int
  /// Number of DDIM steps.
  package var steps: Int
  /// Classifier-free guidance scale.
  package var guidance = LatentSampler.ditDefaults.guidance
  /// Seed of the initial noise, the same for every model.
  package var seed: UInt64 = 0

  /// Allowed numbers of judged images.
  package static let sampleRange = ReportRequest.sampleRange
  /// Allowed numbers of denoising steps.
  package static let stepRange = ReportRequest.stepRange

  /// Makes settings with default guidance and seed.
  package init(samples: Int = 100, steps: Int = LatentSampler.ditDefaults.steps) {
    (self.samples, self.steps) = (samples, steps)
  }

  /// Whether the settings are valid.
  var isPossible: Bool {
    Self.sampleRange.contains(samples) && Self.stepRange.contains(steps) && guidance.isFinite
  }

  /// The sampler.
  var sampler: LatentSampler {
    var sampler = LatentSampler.ditDefaults
    (sampler.steps, sampler.guidance, sampler.seed) = (steps, guidance, seed)
    return sampler
  }
}

/// Evaluations of a graft and its teacher.
package struct JudgedPair: Codable, Sendable {
  /// The trained graft.
  package let graft: Evaluation
  /// The pretrained model.
  package let teacher: Evaluation
}

/// Image grid of one model in a file.
package struct SampleGrid: Codable, Equatable, Sendable {
  /// Content of the grid.
  package enum Role: String, Codable, CaseIterable, Sendable {
    /// The pretrained model.
    case teacher
    /// The graft before this training.
    case before
    /// The graft as trained.
    case after
    /// The absolute difference of graft and teacher.
    case difference
  }

  /// Content of the grid.
  package let role: Role
  /// Path of a PNG file relative to the run directory.
  package let path: String

  /// Makes a reference to a file.
  package init(role: Role, path: String) { (self.role, self.path) = (role, path) }
}

/// Measurements of a trained graft and its teacher, stored in the run's `report.json`.
///
/// A part is nil until it is computed; its note says why it cannot be computed.
package struct Measurements: Codable, Sendable {
  /// Version of the file format.
  package static let formatVersion = 1

  /// The file's version.
  package let espalierReport: Int
  /// Measured weights: path, size and change time of the file.
  package let weights: String
  /// Drawing settings.
  package let settings: DrawingSettings
  /// Metrics from the judge.
  package var judged: JudgedPair?
  /// Reason why `judged` is missing.
  package var judgedNote: String?
  /// Forward pass times.
  package var speed: PairedSpeed?
  /// Image grids from the same noise.
  package var grids: [SampleGrid]?
  /// Class name of each image of a grid.
  package var gridLabels: [String]?
  /// Reason why images are missing.
  package var gridsNote: String?

  /// Makes empty measurements of weights.
  package init(weights: String, settings: DrawingSettings) {
    espalierReport = Self.formatVersion
    (self.weights, self.settings) = (weights, settings)
  }

  /// Drawing settings of `judged`; nil if it is missing.
  var judgedOn: DrawingSettings? { judged == nil ? nil : settings }

  /// Path of the measurements of a run.
  package static func path(of run: RunDirectory) -> String { "\(run.path)/report.json" }

  /// Stamp of the current weights of a run; nil before its first checkpoint.
  package static func weightsStamp(of run: RunDirectory) throws -> String? {
    guard let path = try? run.trainedWeights() else { return nil }
    return "\(path.dropFirst(run.path.count + 1)) \(try AtomicFile.stamp(of: path))"
  }

  /// Reads the measurements of the current weights of a run; nil if there are none.
  ///
  /// - Throws: `FileError` for a damaged file or one of another version.
  package static func cached(_ run: RunDirectory) throws -> Measurements? {
    let path = path(of: run)
    guard FileManager.default.fileExists(atPath: path) else { return nil }
    let bytes = Data(try AtomicFile.read(path, limit: 16 << 20))
    guard let found = try? JSONDecoder.snakeCase.decode(Measurements.self, from: bytes),
      found.espalierReport == formatVersion, found.settings.isPossible
    else {
      throw FileError(
        "\(path): holds no measurements of version \(formatVersion); delete it to measure again")
    }
    return found.weights == (try weightsStamp(of: run)) ? found : nil
  }

  /// Writes the measurements to the run atomically.
  ///
  /// - Throws: `FileError` when the file cannot be written.
  package func save(to run: RunDirectory) throws {
    try AtomicFile.write(
      JSONEncoder.sorted(isPretty: true, snakeCase: true).encode(self), to: Self.path(of: run),
      followingLinks: false)
  }
}
