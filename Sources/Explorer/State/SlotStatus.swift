import Plans
import Runs

/// The state of a slot between the teacher's operator and a distilled replacement.
package enum SlotPhase: Equatable, Sendable, CaseIterable {
  /// The teacher's own operator and weights.
  case pristine
  /// Replaced, not trained.
  case edited
  /// Not trained, but fitted in closed form for the preview on the screen.
  case fitted
  /// Trained by itself, in the model's library.
  case ready
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
    case .fitted: "≈"
    case .ready: "◇"
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
    case .fitted: "fitted for the preview, not trained"
    case .ready: "ready in the library, trained by itself"
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
  /// Its state; a slot of parallel blocks has the state of its pair.
  package let phase: SlotPhase
  /// The newest training loss, when it is or was trained as it is now; of a pair it is in the first slot.
  package let loss: Double?

  /// Makes a status.
  package init(phase: SlotPhase, loss: Double?) {
    self.phase = phase
    self.loss = loss
  }
}

extension AppState {
  /// The status of a slot, from the plan and the followed run.
  package func status(of slot: SlotID) -> SlotStatus {
    guard let site = plan.site(of: slot) else { return SlotStatus(phase: .pristine, loss: nil) }
    // A graft without its teacher holds all its weights itself.
    if missingTeacher != nil { return SlotStatus(phase: .trained, loss: nil) }
    let source = weights.source(of: site)
    guard let focus = runs.focus, let trained = focus.plan,
      trained.model.contentHash == plan.model.contentHash, plan.agrees(with: trained, at: site)
    else {
      let wasTrained = site.slots.contains { runs.focus?.plan?.site(of: $0) != nil }
      let phase: SlotPhase =
        if let source {
          self.phase(of: source)
        } else if isFitted(site) {
          .fitted
        } else {
          wasTrained ? .stale : .edited
        }
      return SlotStatus(phase: phase, loss: nil)
    }
    let loss = site.firstSlot == slot ? focus.history.losses[site]?.last?.value : nil
    let state = runs.focusRecord?.state
    // An ended run without weights does not hide those of another one.
    let isOver = state?.isEnded ?? false
    let ended = isOver ? source.map { phase(of: $0) } : nil
    return SlotStatus(phase: ended ?? phase(of: state), loss: loss)
  }

  /// Whether the preview on the screen shows a site as it is in the plan, with fitted output layers.
  private func isFitted(_ site: GraftSite) -> Bool {
    guard let shown = preview.shown?.changes,
      site.slots.allSatisfy({ shown.edits[$0] == plan.edits[$0] })
    else { return false }
    switch site {
    case .slot(let id):
      guard let spec = plan.edits[id] else { return false }
      return OperatorCatalog.descriptor(named: spec.name)?.hasOutputLayer(spec) ?? false
    case .pair(let pair):
      return plan.parallel[pair] == .projection && shown.parallel[pair] == .projection
    }
  }

  /// The site that the cursor is in, edited or not.
  package var selectedSite: GraftSite { plan.site(of: cursor) ?? .slot(cursor) }

  /// The site that the cursor is in as the followed run has it; nil when it is not in the run.
  package var trainedSite: GraftSite? { runs.focus?.plan?.site(of: cursor) }

  private func phase(of source: PlanWeights.Source) -> SlotPhase {
    source.kind == .library ? .ready : phase(of: source.state)
  }

  private func phase(of state: RunState?) -> SlotPhase {
    switch state {
    case nil, .queued, .pending: .queued
    case .starting, .running, .paused, .frozen, .unreachable, .detached: .training
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

  /// How much the plan changes: "3 slots", "1 pair of blocks", "3 slots and 2 pairs of blocks".
  package var extent: String {
    var parts: [String] = []
    if !edits.isEmpty || parallel.isEmpty { parts.append(Format.count(edits.count, "slot")) }
    if parallel.count == 1 { parts.append("1 pair of blocks") }
    if parallel.count > 1 { parts.append("\(parallel.count) pairs of blocks") }
    return parts.joined(separator: " and ")
  }
}
