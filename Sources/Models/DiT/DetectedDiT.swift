import Checkpoints
import Files
import Operators
import Plans

/// Architecture and replacement operators of a DiT, SiT or LightningDiT, inferred from names and shapes of tensors in
/// the official naming.
struct DetectedDiT {
  let shape: ModelShape
  /// The operator of every slot, without settings that do not affect shapes.
  let operators: [SlotID: OperatorSpec]
  /// Changes to the pretrained model.
  let changes: GraftPlan.Changes
  /// Assumptions, in sentences.
  let notes: [String]

  /// Reads a state dict.
  ///
  /// - Throws: `FileError` that names the missing or mismatched tensor.
  init(in file: any TensorFile, stated: StatedShape = StatedShape()) throws(FileError) {
    let tensors = OfficialTensors(file: file)
    var notes: [String] = []
    try DetectedBlocks.requireKnownParts(in: file)
    let patch = try tensors.shape("x_embedder.proj.weight", rank: 4)
    let (hiddenSize, channels) = (patch[0], patch[1])
    try tensors.require(
      patch[2] == patch[3] && patch[2] > 0 && hiddenSize > 0 && channels > 0,
      "x_embedder.proj.weight", "square patches")
    var depth = 0
    while file.entry("blocks.\(depth).adaLN_modulation.1.weight") != nil { depth += 1 }
    _ = try tensors.shape("blocks.0.adaLN_modulation.1.weight", rank: 2)
    let published = ModelShape.publishedHeads(depth: depth, hiddenSize: hiddenSize)
    let blocks = try DetectedBlocks(in: tensors, hiddenSize: hiddenSize, depth: depth)
    guard let heads = stated.numHeads ?? blocks.heads ?? published else {
      throw FileError(
        "\(file.path): no published DiT has depth \(depth) and hidden size \(hiddenSize), so its"
          + " number of attention heads is unknown; state it in '\(file.path).json' as"
          + " {\"config\": {\"num_heads\": N}}")
    }
    operators = try tensors.operators(hiddenSize: hiddenSize, depth: depth)

    let outputs = try tensors.shape("final_layer.linear.weight", rank: 2)[0]
    let perChannel = patch[2] * patch[2] * channels
    try tensors.require(
      outputs == perChannel || outputs == 2 * perChannel, "final_layer.linear.weight",
      "\(perChannel) or \(2 * perChannel) rows")
    let (classes, hasNullClass) = try tensors.classes(stated, &notes)
    var shape = ModelShape(
      depth: stated.depth ?? depth, hiddenSize: stated.hiddenSize ?? hiddenSize, numHeads: heads,
      patchSize: stated.patchSize ?? patch[2],
      inputSize: try tensors.inputSize(
        stated, patch: patch[2], isPublished: published != nil, &notes),
      inChannels: stated.inChannels ?? channels, numClasses: classes,
      learnSigma: stated.learnSigma ?? (outputs == 2 * perChannel),
      // All MLPs of a published model may have been replaced, so their width does not determine its
      // ratio.
      mlpRatio: stated.mlpRatio ?? blocks.gatedRatio
        ?? (published == nil ? Self.usualRatio(operators) : 4))
    shape.rmsNorm = stated.rmsNorm ?? blocks.rmsNorm
    shape.queryKeyNorm = stated.qkNorm ?? blocks.queryKeyNorm
    shape.rotary = stated.rotary ?? blocks.rotary
    shape.swiglu = stated.swiglu ?? blocks.swiglu
    shape.mlpBias = stated.mlpBias ?? blocks.mlpBias
    shape.blockShift = stated.blockShift ?? blocks.blockShift
    shape.hasNullClass = hasNullClass
    shape.frequencyShift = stated.frequencyShift ?? 0
    shape.mlpNormEpsilon = stated.mlpNormEpsilon ?? ModelShape.officialEpsilon
    try shape.validate(file: file.path)
    if shape.hasModernBlocks { try DetectedBlocks.requireKnownRotation(in: file, shape) }
    self.shape = shape

    let edits = Self.edits(operators, of: shape)
    let pairs = (0..<depth).map(BlockPair.init(first:)).filter {
      file.entry("\($0.mergePrefix)weight") != nil
    }
    changes = GraftPlan.Changes(
      edits: edits, parallel: Dictionary(uniqueKeysWithValues: pairs.map { ($0, .projection) }))
    for name in Set(edits.values.map(\.name)).sorted() {
      let fields = OperatorCatalog.descriptor(named: name)?.openFields ?? []
      let seen = edits.values.first { $0.name == name }?.config ?? [:]
      let assumed = fields.filter { seen[$0.key] == nil }.map {
        "\($0.key) \($0.initial.json)"
      }
      if assumed.isEmpty { continue }
      notes.append(
        "\(file.path): weights of \(name) do not show \(assumed.joined(separator: ", ")), which is"
          + " taken as in the released models; --plan states other settings")
    }
    self.notes = notes
  }

  /// The operators that are not those of the pretrained model.
  static func edits(
    _ operators: [SlotID: OperatorSpec], of shape: ModelShape
  ) -> [SlotID: OperatorSpec] {
    operators.filter { id, spec in
      let original = shape.original(id.slot)
      return spec.name != original.name
        || spec.config.contains { original.value($0.key) != $0.value }
    }
  }

  /// Expansion ratio of the pretrained MLPs: 4, as in all published models, if any MLP has it,
  /// otherwise the most frequent one.
  private static func usualRatio(_ operators: [SlotID: OperatorSpec]) -> Double {
    let ratios = operators.values.filter { $0.name == "mlp" }.compactMap {
      $0.config["expansion_ratio"]
    }
    if ratios.isEmpty || ratios.contains(4) { return 4 }
    let counts = Dictionary(ratios.map { ($0, 1) }, uniquingKeysWith: +)
    return counts.max { ($0.value, -$0.key) < ($1.value, -$1.key) }?.key ?? 4
  }
}

/// Names and shapes of the tensors of a state dict in the official naming.
struct OfficialTensors {
  let file: any TensorFile

  func shape(_ name: String, rank: Int) throws(FileError) -> [Int] {
    guard let entry = file.entry(name) else {
      throw FileError(
        "\(file.path): has no tensor '\(name)', which every DiT has, and no configuration;"
          + " use the weights of a DiT")
    }
    guard entry.shape.count == rank else {
      throw FileError(
        "\(file.path): tensor '\(name)' has shape \(entry.shape), expected \(rank) axes;"
          + " use the weights of a DiT")
    }
    return entry.shape
  }

  func require(_ holds: Bool, _ name: String, _ expected: String) throws(FileError) {
    if holds { return }
    throw FileError(
      "\(file.path): tensor '\(name)' has shape \(file.entry(name)?.shape ?? []), expected"
        + " \(expected); use the weights of a DiT")
  }

  /// Side of the latents: from the stored position table, otherwise stated, otherwise implied by
  /// the operators, otherwise that of the published models for 256 pixels.
  func inputSize(
    _ stated: StatedShape, patch: Int, isPublished: Bool, _ notes: inout [String]
  ) throws(FileError) -> Int {
    let perToken = (0..<1024).lazy.map { "blocks.\($0).mlp.short_filter.weight" }
      .first { file.entry($0) != nil }
    let name = file.entry("pos_embed") == nil ? perToken : "pos_embed"
    if let side = stated.inputSize { return side }
    guard let name else {
      guard isPublished else {
        throw FileError(
          "\(file.path): has no tensor 'pos_embed', so the size of its latents is unknown; state it in"
            + " '\(file.path).json' as {\"config\": {\"input_size\": N}}")
      }
      notes.append(
        "\(file.path): has no 'pos_embed', which is computed for images of 256 pixels; state"
          + " {\"config\": {\"input_size\": 64}} in '\(file.path).json' for those of 512")
      return 256 / ModelShape.pixelsPerLatent
    }
    let tokens = try shape(name, rank: 3)[name == "pos_embed" ? 1 : 0]
    let grid = Int(Double(tokens).squareRoot().rounded())
    try require(grid > 0 && grid * grid == tokens, name, "a square number of tokens")
    return grid * patch
  }

  /// Number of classes, and whether there is a row for the null class.
  func classes(
    _ stated: StatedShape, _ notes: inout [String]
  ) throws(FileError) -> (count: Int, hasNullClass: Bool) {
    let name = "y_embedder.embedding_table.weight"
    let rows = try shape(name, rank: 2)[0]
    if let classes = stated.numClasses {
      try require(
        rows == classes || rows == classes + 1, name,
        "\(classes) rows or one more for no class, as the configuration states \(classes) classes")
      return (classes, stated.hasNullClass ?? (rows == classes + 1))
    }
    // Round numbers of rows are taken as numbers of classes without a null class.
    guard stated.hasNullClass ?? ![1, 10, 100, 1000].contains(rows) else {
      notes.append(
        "\(file.path): its label table of \(rows) rows is taken to have none for no class, so there is"
          + " no guidance and no label dropout; state {\"config\": {\"num_classes\": N}} in"
          + " '\(file.path).json' if that is wrong")
      return (rows, false)
    }
    return (rows - 1, true)
  }

  /// The operator of every slot.
  func operators(
    hiddenSize: Int, depth: Int
  ) throws(FileError) -> [SlotID: OperatorSpec] {
    let slots: [Substring: Slot] = ["attn": .attention, "mlp": .mlp]
    var shapes: [SlotID: [String: [Int]]] = [:]
    for name in file.names {
      let parts = name.split(separator: ".", maxSplits: 3)
      guard parts.count == 4, parts[0] == "blocks", let block = Int(parts[1]),
        (0..<depth).contains(block), let slot = slots[parts[2]], let entry = file.entry(name)
      else { continue }
      shapes[SlotID(block: block, slot: slot), default: [:]][String(parts[3])] = entry.shape
    }
    var operators: [SlotID: OperatorSpec] = [:]
    for block in 0..<depth {
      for slot in Slot.allCases {
        let id = SlotID(block: block, slot: slot)
        // Norms of queries and keys belong to the model and not to the operator.
        var shown = shapes[id] ?? [:]
        if shown["q_norm.weight"] != nil {
          for part in ["q", "k"] {
            for kind in ["weight", "bias"] { shown["\(part)_norm.\(kind)"] = nil }
          }
        }
        let own = OperatorShapes(shown, hiddenSize: hiddenSize)
        guard let spec = OperatorRegistry.recognize(own, in: slot) else {
          let found = own.names.prefix(8).joined(separator: ", ")
          let gated = own.names.contains("w12.weight") ? ", those of a SwiGLU MLP in part," : ""
          throw FileError(
            "\(file.path): the tensors below '\(id.checkpointPrefix)' (\(found))\(gated) are those of"
              + " no operator that can be built; use a DiT with operators that 'espalier plan"
              + " operators' lists")
        }
        operators[id] = spec
      }
    }
    return operators
  }
}
