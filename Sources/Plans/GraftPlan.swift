/// A recipe for a grafted model: which operators replace which, which blocks become parallel, and how
/// all that is trained.
///
/// A value; the plan file (see `json()`) holds exactly this.
package struct GraftPlan: Equatable, Sendable {
  /// The version of the file format that this code writes and reads.
  package static let formatVersion = 1

  /// The plan's name, for people.
  package var name: String
  /// The model it edits.
  package var model: ModelReference
  /// The replaced slots; all others keep the model's own operator and weights.
  package var edits: [SlotID: OperatorSpec] = [:]
  /// The pairs of parallel blocks, disjoint; all other blocks follow each other (depth to width,
  /// section 6 of the paper).
  package var parallel: [BlockPair: ParallelMerge] = [:]
  /// What both stages train on; nil for the procedural images.
  package var data: DataSettings?
  /// How the replacements are distilled.
  package var stage1: Stage1Settings
  /// How the grafted model is finetuned.
  package var stage2 = Stage2Settings()
  /// Seed of the fresh weights and of the training samples.
  package var seed: UInt64 = 0

  /// Makes a plan without edits.
  package init(named name: String, model: ModelReference) {
    self.name = name
    self.model = model
    stage1 = Stage1Settings(hiddenSize: model.shape.hiddenSize)
  }

  /// The operator that a slot has under this plan.
  package func spec(_ id: SlotID) -> OperatorSpec {
    edits[id] ?? model.shape.original(id.slot)
  }

  /// The cost of the whole model before and after the edits, per image and forward pass.
  ///
  /// - Precondition: the plan is valid.
  package func cost() -> (original: OperatorCost, edited: OperatorCost) {
    let shape = model.shape
    var original = shape.surroundingCost
    var edited = original
    for id in shape.slots {
      original = original + shape.operatorCost(shape.original(id.slot))
      edited = edited + shape.operatorCost(spec(id))
    }
    for merge in parallel.values { edited = edited + shape.mergeCost(merge) }
    return (original, edited)
  }
}

extension ModelShape {
  /// The cost of an operator in this model.
  ///
  /// - Precondition: the operator is in the catalog.
  package func operatorCost(_ spec: OperatorSpec) -> OperatorCost {
    guard let descriptor = OperatorCatalog.descriptor(named: spec.name) else {
      preconditionFailure("unknown operator \(spec.name)")
    }
    return descriptor.cost(spec, shape: self)
  }

  /// The cost of all that surrounds the operators: embeddings, adaLN conditioning, final layer.
  ///
  /// Counted from the official DiT (facebookresearch/DiT, `models.py`); norms and gates, which are
  /// elementwise, are left out as in the paper's tables.
  var surroundingCost: OperatorCost {
    let width = hiddenSize
    let patch = patchSize * patchSize
    let embedding = inChannels * patch * width
    let timestep = 256 * width + width * width
    let conditioning = depth * 6 * width * width + 2 * width * width
    let output = patch * outChannels * width
    let biases = 3 * width + depth * 6 * width + 2 * width + patch * outChannels
    let tables = tokens * width + labelRows * width
    let (perToken, perImage) = (Double(embedding + output), Double(timestep + conditioning))
    return OperatorCost(
      parameters: embedding + timestep + conditioning + output + biases + tables,
      flops: 2 * (Double(tokens) * perToken + perImage),
      activations: Double(tokens * (width + patch * outChannels) + (6 * depth + 4) * width))
  }
}
