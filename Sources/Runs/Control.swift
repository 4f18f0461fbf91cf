import Foundation

/// What a person can ask of a running worker.
package enum Control: String, Codable, CaseIterable, Sendable {
  /// Wait after the current step.
  case pause
  /// Go on.
  case resume
  /// Write a checkpoint and stop.
  case cancel
}

/// One line of a run's `control.jsonl`: `{"request":"pause","t":…,"v":1}`.
struct ControlRecord: Codable {
  static let formatVersion = 1

  var version: Int
  var time: Double
  var request: Control

  init(_ request: Control) {
    self.version = Self.formatVersion
    self.time = Date().timeIntervalSince1970
    self.request = request
  }

  private enum CodingKeys: String, CodingKey {
    case version = "v"
    case time = "t"
    case request
  }

  init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: CodingKeys.self)
    version = try container.decode(Int.self, forKey: .version)
    time = try container.decode(Double.self, forKey: .time, in: FileNumber.times)
    request = try container.decode(Control.self, forKey: .request)
  }
}
