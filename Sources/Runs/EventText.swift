import Foundation

extension RunDirectory {
  /// Last events and output lines of the worker.
  package func lastLines(bytes limit: UInt64 = 131_072) -> [String] {
    var offset = logSize - min(logSize, limit)
    // A truncated first line is skipped.
    let events = readEvents(after: &offset).compactMap(\.line)
    return logTail().split(separator: "\n").map(String.init) + events
  }
}

extension Event {
  /// The event as a line of text with its local time; nil for a heartbeat.
  package var line: String? {
    guard let text = kind.text else { return nil }
    var seconds = time_t(time)
    var parts = tm()
    localtime_r(&seconds, &parts)
    return String(format: "%02d:%02d:%02d  ", parts.tm_hour, parts.tm_min, parts.tm_sec) + text
  }
}

extension EventKind {
  fileprivate var text: String? {
    func short(_ value: Double) -> String { String(format: "%.4g", value) }
    switch self {
    case .started(let pid, let steps): return "process \(pid) begins, \(steps) steps in all"
    case .heartbeat: return nil
    case .step(let step, let total, let loss, _, let rate, _, _, _):
      return "step \(step)/\(total)  loss \(short(loss))  \(short(rate)) steps/s"
    case .heldOut(let step, let loss, let losses):
      return "step \(step)  held-out loss \(short(loss ?? losses.mean ?? .nan))"
    case .checkpointed(let step, let path): return "step \(step)  checkpoint \(path)"
    case .paused(let step, let reason):
      return "step \(step)  paused\(reason.map { ": \($0)" } ?? "")"
    case .resumed(let step): return "step \(step)  goes on"
    case .progress(let done, let total, let label, _): return "\(label) \(done)/\(total)"
    case .sampled(let role, let path, _, _, _): return "\(role.rawValue) in \(path)"
    case .message(let text): return text
    case .ranks(let report): return report.text
    case .resources(let step, let resources):
      let silent = resources.silent.map(String.init).joined(separator: ", ")
      return "step \(step)  memory \(String(format: "%.3g", Double(resources.memory) / 1e9)) GB"
        + (silent.isEmpty ? "" : "  silent ranks: \(silent)")
    case .finished(let outcome, let text): return "\(outcome.rawValue): \(text)"
    }
  }
}
