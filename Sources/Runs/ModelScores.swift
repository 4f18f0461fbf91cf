import Plans

extension SlotScores {
  /// Makes the scores of a model's slots from what is known of it.
  ///
  /// `l1` to `l128` are the localities of a block's attention, and `window` its suggested half width, for both slots
  /// of the block; `mean`, `var`, `max`, `kurt` and `outliers` are statistics of the slot's output; `loss` and
  /// `held-out` the last losses of the slot's site in a run.
  ///
  /// - Parameters:
  ///   - analysis: Statistics of the model; nil if it was not measured.
  ///   - history: Losses of a run; nil for none.
  ///   - remedy: How to obtain the statistics.
  package init(analysis: ModelAnalysis?, history: RunHistory? = nil, remedy: String) {
    self.init(remedy: analysis == nil ? remedy : nil)
    for (block, measured) in (analysis?.blocks ?? []).enumerated() {
      for slot in Slot.allCases {
        let id = SlotID(block: block, slot: slot)
        for (band, share) in zip(analysis?.bands ?? [], measured.locality) {
          self["l\(band)", default: [:]][id] = share
        }
        let window = measured.window(holding: ModelAnalysis.windowShare)
        if let window { self["window", default: [:]][id] = Double(window) }
        let statistics = slot == .attention ? measured.attention : measured.mlp
        self["mean", default: [:]][id] = statistics.mean
        self["var", default: [:]][id] = statistics.variance
        self["max", default: [:]][id] = statistics.maxAbs
        self["kurt", default: [:]][id] = statistics.kurtosis
        self["outliers", default: [:]][id] = Double(statistics.channels.outliers)
      }
    }
    for (name, losses) in [("loss", history?.losses ?? [:]), ("held-out", history?.heldOut ?? [:])]
    {
      for (site, series) in losses {
        guard let last = series.last?.value else { continue }
        for slot in site.slots { self[name, default: [:]][slot] = last }
      }
    }
  }
}
