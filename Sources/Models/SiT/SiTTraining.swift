import Checkpoints
import Files
import Plans

/// What a file tells of the training of a SiT, whose tensors are those of a DiT, and of REPA, which trains a SiT
/// with data at time 0 and noise at time 1 and keeps projectors beside it.
struct SiTTraining {
  /// Key prefix of REPA's projectors, which sampling does not use.
  static let projectors = "projectors."

  private let weights: ModelWeights
  /// Whether the file has REPA's projectors.
  let hasProjectors: Bool
  /// Whether the model was trained with data at time 0.
  let reversesTime: Bool

  init(_ weights: ModelWeights) {
    self.weights = weights
    hasProjectors = weights.tensors.names.contains { $0.hasPrefix(Self.projectors) }
    let prediction = Self.argument("prediction", weights.tensors)?.lowercased()
    reversesTime = hasProjectors || prediction == "v"
  }

  /// What was left out or turned round, in sentences.
  func notes(for family: ModelFamily) -> [String] {
    let leftOut =
      "\(weights.path): 'projectors.*' were trained by REPA beside the model, which does not need them;"
      + " they are left out"
    let turned =
      "\(weights.path): REPA trains with data at time 0 and noise at time 1; times and velocities are turned"
      + " round (the configuration can state \"reversed_time\": false)"
    return (hasProjectors ? [leftOut] : [])
      + (reversesTime && family.prediction == .velocity ? [turned] : [])
  }

  /// Whether the arguments of the training are those of a SiT.
  ///
  /// - Throws: `FileError` for processes other than that of the published model.
  var isStatedByArguments: Bool {
    get throws(FileError) {
      func argument(_ name: String) -> String? { Self.argument(name, weights.tensors) }
      let (path, prediction) = (argument("path_type"), argument("prediction"))
      if let model = argument("model") {
        if model.hasPrefix("DiT") || model.hasPrefix("LightningDiT") { return false }
        guard model.hasPrefix("SiT") || path != nil || prediction != nil else { return false }
      } else if path == nil, prediction == nil {
        return false
      }
      for (key, found, expected) in [
        ("path_type", path, ["linear"]), ("prediction", prediction, ["velocity", "v"]),
      ] {
        guard let found, !expected.contains(found.lowercased()) else { continue }
        throw FileError(
          "\(weights.path): 'args.\(key)' is '\(found.prefix(40))', expected '\(expected[0])', as the published"
            + " SiT has it; use a model of that process")
      }
      return true
    }
  }

  /// An argument of the training, if the file keeps it as text.
  static func argument(_ name: String, _ tensors: StateDict) -> String? {
    guard case .text(let text) = tensors.values["args.\(name)"] else { return nil }
    return text
  }
}
