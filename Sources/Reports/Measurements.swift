import Evaluation
import Files
import Foundation
import Pictures
import Runs
import Sampling

/// How images are drawn where they are measured or shown.
package struct DrawingSettings: Codable, Equatable, Sendable {
  /// Images that the judge sees of each model.
  package var samples: Int
  /// Denoising steps of DDIM.
  package var steps: Int
  /// Scale of classifier-free guidance.
  package var guidance = LatentSampler.ditDefaults.guidance
  /// Seed of the start noise, the same for every model.
  package var seed: UInt64 = 0

  /// How many images the judge may be shown.
  package static let sampleRange = 10...1_000_000
  /// How many denoising steps there may be.
  package static let stepRange = 1...1000

  /// Settings with the usual guidance and seed.
  package init(samples: Int = 100, steps: Int = LatentSampler.ditDefaults.steps) {
    (self.samples, self.steps) = (samples, steps)
  }

  /// Whether something can be drawn with them.
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

/// The judge's view of a graft and of its teacher.
package struct JudgedPair: Codable, Sendable {
  /// The trained graft.
  package let graft: Evaluation
  /// The pretrained model.
  package let teacher: Evaluation
}

/// Images of one model in a file.
package struct SampleGrid: Codable, Equatable, Sendable {
  /// What is shown.
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

  /// What is shown.
  package let role: Role
  /// A PNG file relative to the run directory.
  package let path: String

  /// Names a file.
  package init(role: Role, path: String) { (self.role, self.path) = (role, path) }
}

/// What was computed about a trained graft and its teacher: the run's `report.json`.
///
/// Each part is there or not yet computed, or cannot be, which its note says.
package struct Measurements: Codable, Sendable {
  /// The version of the file that this code writes and reads.
  package static let formatVersion = 1

  /// The file's version.
  package let espalierReport: Int
  /// Which weights were measured: path, size and time of change of the file.
  package let weights: String
  /// How images were drawn.
  package let settings: DrawingSettings
  /// Agreement, Fréchet distance and the like.
  package var judged: JudgedPair?
  /// Why there is no judgement.
  package var judgedNote: String?
  /// Time of a forward pass.
  package var speed: PairedSpeed?
  /// Images from the same noise.
  package var grids: [SampleGrid]?
  /// The class of each image of a grid.
  package var gridLabels: [String]?
  /// Why there are no images, or not all.
  package var gridsNote: String?

  /// Nothing measured yet of some weights.
  package init(weights: String, settings: DrawingSettings) {
    espalierReport = Self.formatVersion
    (self.weights, self.settings) = (weights, settings)
  }

  /// How the images of the judgement were drawn; nil without one.
  var judgedOn: DrawingSettings? { judged == nil ? nil : settings }

  /// Where a run keeps its measurements.
  package static func path(of run: RunDirectory) -> String { "\(run.path)/report.json" }

  /// Which weights a run has now, or nil before its first checkpoint.
  package static func weightsStamp(of run: RunDirectory) throws -> String? {
    guard let path = try? run.trainedWeights() else { return nil }
    return "\(path.dropFirst(run.path.count + 1)) \(try AtomicFile.stamp(of: path))"
  }

  /// What was measured of the weights that a run has now; nil when nothing was, or of earlier ones.
  ///
  /// - Throws: `RunError` for a damaged file or one of another version.
  package static func cached(_ run: RunDirectory) throws -> Measurements? {
    let path = path(of: run)
    guard FileManager.default.fileExists(atPath: path) else { return nil }
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    decoder.nonConformingFloatDecodingStrategy = .texts
    let bytes = Data(try AtomicFile.read(path, limit: 16 << 20))
    guard let found = try? decoder.decode(Measurements.self, from: bytes),
      found.espalierReport == formatVersion, found.settings.isPossible
    else {
      throw RunError(
        "\(path): holds no measurements of version \(formatVersion); delete it to measure again")
    }
    return found.weights == (try weightsStamp(of: run)) ? found : nil
  }

  /// Writes them beside the run, in one piece.
  ///
  /// - Throws: `FileError` when the file cannot be written.
  package func save(to run: RunDirectory) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    encoder.keyEncodingStrategy = .convertToSnakeCase
    encoder.nonConformingFloatEncodingStrategy = .texts
    try AtomicFile.write(
      encoder.encode(self), to: Self.path(of: run), followingLinks: false)
  }
}
