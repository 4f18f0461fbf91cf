/// Settings of a plan outside the sections.
package struct PlanSchema: SettingsSchema {
  package static let table = SettingsTable(PlanSchema())

  package let name = Setting(
    "name", "untitled", "the plan's name", .required)
  package let seed = Setting(
    "seed", UInt64(0), "seed of the fresh weights and of the training samples", .required)
}

/// Plan of a grafted model: replacement operators, parallel blocks, and training settings.
///
/// The plan file (see `json()`) has the same content.
@dynamicMemberLookup
package struct GraftPlan: Equatable, Sendable {
  /// Version of the file format.
  package static let formatVersion = 1

  var settings = Settings<PlanSchema>()
  /// The model that is edited.
  package var model: ModelReference
  /// Replacement operators by slot; all other slots keep the original operator and weights.
  ///
  /// Omitted settings of an operator are filled in, so that equal operators have equal entries.
  package var edits: [SlotID: OperatorSpec] = [:] {
    didSet { edits = edits.mapValues { $0.normalized(for: model.shape) } }
  }
  /// Disjoint pairs of parallel blocks; all other blocks are sequential (depth to width, section 6
  /// of the paper).
  package var parallel: [BlockPair: ParallelMerge] = [:]
  /// Training data of both stages; nil selects the procedural images.
  package var data: DataSettings?
  /// Settings of stage 1.
  package var stage1: Stage1Settings
  /// Settings of stage 2.
  package var stage2 = Stage2Settings()

  /// Makes a plan without edits.
  package init(named name: String, model: ModelReference) {
    self.model = model
    stage1 = Stage1Settings(hiddenSize: model.shape.hiddenSize)
    self.name = name
    applyFamilyDefaults()
  }

  /// Settings outside the sections: name and seed.
  package subscript<Value>(dynamicMember path: KeyPath<PlanSchema, Setting<Value>>) -> Value {
    get { settings[dynamicMember: path] }
    set { settings[dynamicMember: path] = newValue }
  }

  /// Operator of a slot in this plan.
  package func spec(_ id: SlotID) -> OperatorSpec {
    edits[id] ?? model.shape.original(id.slot)
  }

  /// Cost of the whole model before and after the edits, per image and forward pass.
  ///
  /// - Precondition: the plan is valid.
  package func cost() -> (original: OperatorCost, edited: OperatorCost) {
    var (original, edited) = (model.shape.surroundingCost, model.shape.surroundingCost)
    for slot in Slot.allCases {
      let operators = cost(of: slot)
      original = original + operators.original
      edited = edited + operators.edited
    }
    for merge in parallel.values { edited = edited + model.shape.mergeCost(merge) }
    return (original, edited)
  }

  /// Cost of the operators of one kind of slot in all blocks, before and after the edits; the
  /// paper's Table 4 states changes relative to these sums.
  ///
  /// - Precondition: the plan is valid.
  package func cost(of slot: Slot) -> (original: OperatorCost, edited: OperatorCost) {
    let original = model.shape.original(slot)
    // The explorer asks for every frame, and most blocks have the same operator.
    var known = [original: model.shape.operatorCost(original)]
    func cost(_ spec: OperatorSpec) -> OperatorCost {
      let cost = known[spec] ?? model.shape.operatorCost(spec)
      known[spec] = cost
      return cost
    }
    return (0..<model.shape.depth).reduce(into: (OperatorCost(), OperatorCost())) { sums, block in
      sums.0 = sums.0 + cost(original)
      sums.1 = sums.1 + cost(edits[SlotID(block: block, slot: slot)] ?? original)
    }
  }
}

extension ModelShape {
  /// Cost of an operator in this model.
  ///
  /// - Precondition: the operator is in the catalog.
  package func operatorCost(_ spec: OperatorSpec) -> OperatorCost {
    guard let descriptor = OperatorCatalog.descriptor(named: spec.name) else {
      preconditionFailure("unknown operator \(spec.name)")
    }
    return descriptor.cost(spec, shape: self)
  }

  /// Cost of the model without operators: embeddings, adaLN conditioning, attention to captions, final layer.
  var surroundingCost: OperatorCost {
    self.family.condition == .captions ? captionedSurroundingCost : labelledSurroundingCost
  }

  /// Counted from PixArt-sigma (`PixArtMS.py`), with captions of full length; position table and null caption are
  /// constants there.
  private var captionedSurroundingCost: OperatorCost {
    let (width, depth, channels) = (self.hiddenSize, self.depth, self.captionChannels)
    let patch = self.patchSize * self.patchSize
    let (embedding, output) = (self.inChannels * patch * width, patch * outChannels * width)
    let perImage = 256 * width + width * width + 6 * width * width
    let caption = channels * width + width * width
    // Queries and output of the attention to captions, and its keys and values.
    let (crossImage, crossCaption) = (2 * width * width, 2 * width * width)
    let biases = 11 * width + patch * outChannels + depth * 4 * width
    let tables = depth * 6 * width + 2 * width
    let (tokens, length) = (Double(tokens), Double(ModelFamily.captionTokens))
    let perToken = Double(embedding + output + depth * crossImage)
    let perCaptionToken = Double(caption + depth * crossCaption)
    return OperatorCost(
      parameters: embedding + output + perImage + caption
        + depth * (crossImage + crossCaption) + biases + tables,
      core: 4 * Double(depth) * tokens * length * Double(width),
      projections: 2 * (tokens * perToken + length * perCaptionToken + Double(perImage)),
      activations: tokens * Double(width * (1 + 2 * depth) + patch * outChannels)
        + length * Double(width * (2 + 2 * depth)) + Double(8 * width))
  }

  /// Counted from the official DiT (facebookresearch/DiT, `models.py`); elementwise norms and gates
  /// are not counted, as in the paper's tables.
  private var labelledSurroundingCost: OperatorCost {
    let (width, depth) = (self.hiddenSize, self.depth)
    let patch = self.patchSize * self.patchSize
    let embedding = self.inChannels * patch * width
    let timestep = 256 * width + width * width
    let chunks = self.blockShift ? 6 : 4
    let conditioning = depth * chunks * width * width + 2 * width * width
    let output = patch * outChannels * width
    let norms = self.rmsNorm ? (2 * depth + 1) * width : 0
    let biases = 3 * width + depth * chunks * width + 2 * width + patch * outChannels + norms
    let tables = tokens * width + labelRows * width
    let (perToken, perImage) = (Double(embedding + output), Double(timestep + conditioning))
    return OperatorCost(
      parameters: embedding + timestep + conditioning + output + biases + tables,
      projections: 2 * (Double(tokens) * perToken + perImage),
      activations: Double(tokens * (width + patch * outChannels) + (chunks * depth + 4) * width))
  }
}

extension GraftPlan {
  /// Validates the plan against the architecture of its model.
  ///
  /// - Throws: `PlanError` with the key, the expectation and the value found.
  package func validate() throws(PlanError) {
    try settings.validate(at: "")
    try model.path.check(in: nil, at: "model.path")
    try model.contentHash.check(in: nil, at: "model.content_hash")
    try model.validate()
    for (id, spec) in edits.sorted(by: { $0.key < $1.key }) {
      try checkBlocks(of: .slot(id), key: "\(id)")
      try Self.check(spec, at: id, shape: model.shape)
    }
    if let pair = parallel.keys.min(), !model.shape.family.hasParallelBlocks {
      throw PlanError(
        key: "parallel",
        "block \(pair.second) is in a pair, and a \(model.shape.family.title) has no parallel blocks,"
          + " because its blocks also attend to the caption; remove the pairs")
    }
    for pair in parallel.keys.sorted() {
      try checkBlocks(of: .pair(pair), key: "parallel")
      guard parallel[BlockPair(first: pair.second)] == nil else {
        throw PlanError(
          key: "parallel", "block \(pair.second) is in two pairs; remove one of them")
      }
    }
    try data?.validate()
    try stage1.validate(at: "stage1")
    for (site, own) in stage1.overrides.sorted(by: { $0.key < $1.key }) {
      try check(own, at: site)
    }
    try stage2.validate(for: model.shape)
  }

  private static func check(
    _ spec: OperatorSpec, at id: SlotID, shape: ModelShape
  ) throws(PlanError) {
    let fitting = OperatorCatalog.fitting(id.slot).map(\.name).joined(separator: ", ")
    guard let descriptor = OperatorCatalog.descriptor(named: spec.name) else {
      throw PlanError(
        key: "\(id).operator",
        "unknown operator \(spec.name.prefix(60).debugDescription), expected one of \(fitting);"
          + " correct the name")
    }
    guard descriptor.slots.contains(id.slot) else {
      let slots = descriptor.slots.map(\.rawValue).sorted().joined(separator: " or ")
      throw PlanError(
        key: "\(id).operator",
        "\(spec.name) fits the \(slots) slot, expected one of \(fitting) here;"
          + " move it or choose another")
    }
    if let (key, message) = descriptor.refusal(of: spec, shape: shape) {
      throw PlanError(key: "\(id).\(key)", message)
    }
  }

  private func check(_ own: SiteOverride, at site: GraftSite) throws(PlanError) {
    let key = "stage1.overrides.\(site)"
    try checkBlocks(of: site, key: key)
    try Stage1Schema.check(stage1.settings(for: site), at: key)
    try own.steps.check(in: 1...Double(stage1.steps), at: "\(key).steps")
    try own.epochs.check(in: 1...Double(stage1.epochs), at: "\(key).epochs")
    switch site {
    case .pair(let pair):
      guard own.isGateScaled == nil else {
        throw PlanError(
          key: "\(key).gate_scaled", "a pair has no gate behind it; remove the setting")
      }
      guard let start = own.initialization, start != .own else { return }
      guard start == .ridge, parallel[pair] == .projection else {
        throw PlanError(
          key: "\(key).init",
          start == .ridge
            ? "only a projection can be fitted, and the merge is"
              + " \(parallel[pair]?.rawValue ?? "none"); remove the setting or change the merge"
            : "a pair starts from the model's own weights, expected \"own\" or \"ridge\"; change it"
        )
      }
    case .slot(let id):
      guard let start = own.initialization, let spec = edits[id],
        let descriptor = OperatorCatalog.descriptor(named: spec.name)
      else { return }
      if start.isTransferred, !descriptor.isTransferable {
        throw PlanError(
          key: "\(key).init",
          "\(spec.name) has no place for weights of the original, expected"
            + " \(descriptor.hasOutputLayer(spec) ? "\"own\" or \"ridge\"" : "\"own\""); change it or"
            + " choose another operator")
      }
      if start.isTransferred, let reason = descriptor.transferRefusal(spec, model.shape) {
        throw PlanError(key: "\(key).init", reason)
      }
      if start.isFitted, !descriptor.hasOutputLayer(spec) {
        throw PlanError(
          key: "\(key).init",
          "\(spec.name) as it is set has no layer that could be fitted, expected \"own\"; change it or"
            + " choose another operator")
      }
    }
  }

  private func checkBlocks(of site: GraftSite, key: String) throws(PlanError) {
    let depth = model.shape.depth
    if let block = site.blocks.first(where: { !(0..<depth).contains($0) }) {
      throw PlanError(
        key: key, "the model has blocks 0 to \(depth - 1), found \(block); correct the number")
    }
  }
}
