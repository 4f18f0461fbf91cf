import Plans
import Runs

/// Options of a run that are no part of its plan.
package struct RunOptions: Equatable, Sendable {
  /// Whether it waits in the queue.
  package var isQueued = false
  /// Priority in the queue.
  package var priority = 0
  /// Identifiers of runs that must be done before it begins.
  package var after: [String] = []
  /// Time limit of each worker in seconds.
  package var timeout: Double?
  /// Command after its end.
  package var onDone: String?
  /// Precision of large matrix products, `fp32` or `bf16`.
  package var precision: String?

  /// Name of the engine; nil for the native one.
  package var engine: String?

  /// No options.
  package init() {}

  /// Key of the field for the origin of weights.
  static let weights = "run.weights"
  /// Key of the field for the engine, and the choice of the one that a run had.
  static let (engine, sameEngine) = ("run.engine", "as before")
  /// Key of the field for the queue.
  static let queue = "run.queue"
  /// Key of the field for the run that must be done before.
  static let after = "run.after"
  /// Name of the native engine.
  static let native = "native"
  /// Choice of no such run.
  static let noOther = "no other run"
  /// Choice of weights of all runs that trained the same operators.
  static let matching = "matching runs"
  /// Choice of fresh weights.
  static let fresh = "none, all fresh"

  /// The choice of an engine, by the names of those besides the native one; no field without any.
  static func engineFields(_ engines: [String]) -> [Form.Field] {
    guard !engines.isEmpty else { return [] }
    return [
      Form.Field(
        Self.engine, "engine", Self.native, .choice([Self.native] + engines),
        summary: "what does the job: this program, or an engine of engines.yaml; ←→ chooses")
    ]
  }

  /// Fields for the less common options; `others` are titles of runs that it can wait for.
  static func fields(isQueued: Bool, others: [String] = []) -> [Form.Field] {
    let priorities = QueuePlace.priorities
    let priority = Form.Field(
      "run.priority", "priority", 0,
      in: Double(priorities.lowerBound)...Double(priorities.upperBound), isInteger: true,
      summary: "place in the queue; higher ones go first")
    let before = Form.Field(
      Self.after, "begin after", noOther, .choice([noOther] + others),
      summary: "a run that must be done before this one begins")
    return (isQueued ? [priority] : [])
      + (others.isEmpty ? [] : [before]) + [
        Form.Field(
          "run.precision", "precision", "auto", .choice(["auto", "fp32", "bf16"]),
          summary: "what large matrix products multiply in"),
        Form.Field(
          "run.timeout", "time limit", 0, in: 0...3e9, isInteger: false,
          unit: "seconds, 0 for none",
          summary: "seconds after which the worker saves a checkpoint and stops"),
        Form.Field(
          "run.on_done", "command at its end", "", .text,
          summary: "for /bin/sh -c, with ESPALIER_RUN and ESPALIER_OUTCOME set"),
      ]
  }

  /// The options of a form.
  init(_ form: Form) {
    let waits = form.text(Self.after).map { $0 != Self.noOther } ?? false
    isQueued = form.text(Self.queue) == "1" || waits
    priority = form.values["run.priority"].map { Int($0) } ?? 0
    timeout = form.values["run.timeout"].flatMap { $0 > 0 ? $0 : nil }
    onDone = form.text("run.on_done").flatMap { $0.isEmpty ? nil : $0 }
    engine = form.text(Self.engine).flatMap { $0 == Self.native ? nil : $0 }
    let hidden = form.more.first { $0.key == "run.precision" }?.text.text
    precision = (form.text("run.precision") ?? hidden).flatMap { $0 == "auto" ? nil : $0 }
  }
}
