import Plans
import Runs

extension ActivationSummary {
  /// One number with its names.
  struct Row: Equatable, Sendable {
    /// The whole name.
    let name: String
    /// A name of at most four letters.
    let short: String
    /// The number.
    let value: Double
  }

  /// The numbers in the order of the screen.
  var rows: [Row] {
    [
      Row(name: "mean", short: "mean", value: mean),
      Row(name: "variance", short: "var", value: variance),
      Row(name: "max |x|", short: "max", value: maxAbs),
      Row(name: "kurtosis", short: "kurt", value: kurtosis),
    ]
  }
}

extension BlockAnalysis {
  /// The statistics of one slot's output.
  func statistics(of slot: Slot) -> ActivationSummary {
    slot == .attention ? attention : mlp
  }
}

extension AppState {
  /// The window that holds the chosen share of the attention in all of these slots; nil where that is not known.
  func suggestedWindow(for slots: [SlotID]) -> Int? {
    let windows = slots.filter { $0.slot == .attention }.map { slot in
      teacher?.block(slot.block)?.window(holding: windowShare)
    }
    guard !windows.isEmpty, windows.allSatisfy({ $0 != nil }) else { return nil }
    return windows.compactMap(\.self).max()
  }

  /// An operator as its form begins: with a suggested window instead of the paper's, where it has one.
  func suggestedSpec(_ descriptor: OperatorDescriptor, for slots: [SlotID]) -> OperatorSpec {
    var spec = descriptor.defaultSpec
    guard let window = suggestedWindow(for: slots) else { return spec }
    for field in descriptor.fields where field.key.hasPrefix("window_") {
      let range = field.range ?? 0...Double(window)
      spec.config[field.key] = min(max(Double(window), range.lowerBound), range.upperBound)
    }
    return spec
  }
}

extension ModelAnalysis {
  /// One block's statistics, or nil beyond the last.
  func block(_ index: Int) -> BlockAnalysis? {
    blocks.indices.contains(index) ? blocks[index] : nil
  }

  /// The share of attention within the paper's band in one block, or nil when it was not measured.
  func share(block index: Int) -> Double? {
    guard let band = bands.firstIndex(of: paperBand), let block = block(index),
      block.locality.indices.contains(band)
    else { return nil }
    return block.locality[band]
  }

  /// The share within each band, averaged over all blocks.
  var meanLocality: [Double] {
    guard !blocks.isEmpty else { return [] }
    return bands.indices.map { band in
      let shares = blocks.compactMap { block in
        block.locality.indices.contains(band) ? block.locality[band] : nil
      }
      return shares.isEmpty ? .nan : shares.reduce(0, +) / Double(shares.count)
    }
  }
}
