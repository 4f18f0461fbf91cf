import Foundation

/// A quantity recorded at training steps besides the losses.
package enum StepMeasure: String, Codable, CodingKeyRepresentable, CaseIterable, Sendable {
  /// Learning rate; with rates by site the highest.
  case learningRate = "learning_rate"
  /// Norm of the gradient of all trained parameters, before clipping.
  case gradientNorm = "gradient_norm"
  /// Training samples per second.
  case samplesPerSecond = "samples_per_second"
  /// Resident memory of the worker in bytes.
  case residentMemory = "resident_memory"

  /// The measures that an event has as members of their own names; the learning rate is a part of every step.
  static let members: [StepMeasure] = [.gradientNorm, .samplesPerSecond, .residentMemory]

  /// The name in TensorBoard.
  var tag: String {
    switch self {
    case .learningRate: "learning_rate"
    case .gradientNorm: "gradient_norm"
    case .samplesPerSecond: "speed/samples_per_second"
    case .residentMemory: "memory/resident_bytes"
    }
  }

  /// Resident memory of this process in bytes; nil where the system does not say.
  package static func ownResidentMemory() -> Double? {
    guard let text = try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8) else {
      return nil
    }
    let fields = text.split(separator: " ")
    return fields.count > 1 ? Double(fields[1]).map { $0 * Double(getpagesize()) } : nil
  }
}
