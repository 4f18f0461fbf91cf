import Plans
import Runs

/// What is known of the teacher in one block, over the whole screen.
package struct EvidencePane: Equatable, Sendable {
  /// What is shown.
  package enum Page: CaseIterable, Equatable, Sendable {
    /// Locality of all blocks and heads, and the mean attention of a head.
    case attention
    /// Histogram and channels of an operator's output.
    case activations
  }

  /// What is shown.
  package var page = Page.attention
  /// The head shown; nil for the mean over the heads.
  package var head: Int?
  /// Mean attention maps of the block `mapBlock`: of all heads, then of each.
  package var maps: [Picture] = []
  /// The block whose maps were read.
  package var mapBlock: Int?

  /// The first page.
  package init() {}
}

extension AppState {
  /// The statistics of the teacher that there are.
  var teacher: ModelAnalysis? {
    if case .ready(let analysis) = analysis { return analysis }
    return knownAnalysis
  }

  /// Opens the evidence on the cursor's slot.
  mutating func openEvidence() -> [Effect] {
    var pane = EvidencePane()
    if cursor.slot == .mlp { pane.page = .activations }
    overlays.append(.evidence(pane))
    return [.readAttentionMaps(block: cursor.block)]
  }

  /// Acts in the evidence.
  mutating func performInEvidence(_ command: Command, count: Int?) -> [Effect] {
    guard case .evidence(var pane) = overlay else { return [] }
    let times = count ?? 1
    switch command {
    case .next, .previous, .first, .last:
      let old = cursor.block
      let offset = command == .next ? times : -times
      cursor.block =
        command == .first
        ? 0 : command == .last ? depth - 1 : min(max(0, cursor.block + offset), depth - 1)
      return cursor.block == old ? [] : [.readAttentionMaps(block: cursor.block)]
    case .left, .right: cursor.slot = cursor.slot == .attention ? .mlp : .attention
    case .evidencePage: pane.page = pane.page == .attention ? .activations : .attention
    case .nextHead, .previousHead:
      let heads = teacher?.block(cursor.block)?.localityPerHead.count ?? 0
      // One place more than heads: that of their mean.
      let place = (pane.head ?? -1) + 1 + (command == .nextHead ? 1 : heads)
      pane.head = place % (heads + 1) == 0 ? nil : place % (heads + 1) - 1
    case .windowShare:
      let shares = [0.5, 0.8, 0.9, 0.95, 0.99]
      windowShare = shares.first { $0 > windowShare } ?? shares[0]
    default:
      overlays.removeLast()
      return []
    }
    replaceTop(.evidence(pane))
    return []
  }

  /// Takes in the attention maps that were read, unless another block is shown by now.
  mutating func receiveMaps(block: Int, _ maps: [Picture]) {
    for place in overlays.indices {
      guard case .evidence(var pane) = overlays[place], block == cursor.block else { continue }
      (pane.maps, pane.mapBlock) = (maps, block)
      overlays[place] = .evidence(pane)
    }
  }
}

extension Overlay {
  /// Whether it is the evidence.
  var isEvidence: Bool {
    if case .evidence = self { true } else { false }
  }
}
