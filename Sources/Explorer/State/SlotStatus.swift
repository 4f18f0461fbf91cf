import Plans
import Runs

/// Where a slot stands between the teacher's operator and a distilled replacement.
package enum SlotPhase: Equatable, Sendable, CaseIterable {
  /// The teacher's own operator and weights.
  case pristine
  /// Replaced, not trained.
  case edited
  /// In a run that has not begun.
  case queued
  /// In a run that is going on or paused.
  case training
  /// Trained to the end.
  case trained
  /// Trained, but the plan changed since.
  case stale
  /// In a run that failed, was cancelled or lost.
  case failed

  /// The mark in the grid; no two are alike.
  package var mark: String {
    switch self {
    case .pristine: "·"
    case .edited: "*"
    case .queued: "~"
    case .training: "▶"
    case .trained: "✓"
    case .stale: "!"
    case .failed: "✗"
    }
  }

  /// The mark in words.
  package var meaning: String {
    switch self {
    case .pristine: "the teacher's own"
    case .edited: "edited, not trained"
    case .queued: "queued"
    case .training: "training"
    case .trained: "trained"
    case .stale: "changed since training"
    case .failed: "not finished"
    }
  }
}

/// What the grid says about one slot.
package struct SlotStatus: Equatable, Sendable {
  /// Where it stands.
  package let phase: SlotPhase
  /// Its newest training loss, when it is or was trained as it is now.
  package let loss: Double?

  /// States where a slot stands.
  package init(phase: SlotPhase, loss: Double?) {
    self.phase = phase
    self.loss = loss
  }
}

extension AppState {
  /// Where a slot stands, from the plan and the followed run.
  package func status(of slot: SlotID) -> SlotStatus {
    guard let spec = plan.edits[slot] else { return SlotStatus(phase: .pristine, loss: nil) }
    guard let focus = runs.focus, let trained = focus.plan?.edits[slot] else {
      return SlotStatus(phase: .edited, loss: nil)
    }
    guard trained == spec else { return SlotStatus(phase: .stale, loss: nil) }
    let loss = focus.history.losses[slot]?.last?.value
    return SlotStatus(phase: phase(of: runs.focusRecord?.state), loss: loss)
  }

  private func phase(of state: RunState?) -> SlotPhase {
    switch state {
    case nil, .queued: .queued
    case .running, .paused: .training
    case .done: .trained
    case .cancelled, .failed, .lost: .failed
    }
  }
}

extension Slot {
  /// The slot's name on the screen.
  package var title: String {
    switch self {
    case .attention: "attention"
    case .mlp: "MLP"
    }
  }

  /// The noun for counting slots of this kind.
  package var slotName: String { "\(title) slot" }
}

extension OperatorCatalog {
  /// The short label of an operator, or its bare name when the catalog does not know it.
  package static func label(_ spec: OperatorSpec) -> String {
    descriptor(named: spec.name)?.label(spec) ?? spec.name
  }
}

extension ModelReference {
  /// What an operator costs in one slot of the model; nothing when it cannot be built in it.
  package func cost(_ spec: OperatorSpec) -> OperatorCost {
    guard let descriptor = OperatorCatalog.descriptor(named: spec.name),
      descriptor.refusal(of: spec, shape: shape) == nil
    else { return OperatorCost() }
    return descriptor.cost(spec, shape: shape)
  }
}

extension GraftPlan {
  /// The short label of the operator in a slot.
  package func label(of slot: SlotID) -> String { OperatorCatalog.label(spec(slot)) }
}
