import Plans

/// One change of a model that a search considers.
package enum Change: Hashable, Sendable {
  /// Another operator in a slot.
  case slot(SlotID, OperatorSpec)
  /// Two neighbouring blocks in parallel, with their own operators.
  case pair(BlockPair, ParallelMerge)

  /// Slots that the change decides.
  package var slots: [SlotID] {
    switch self {
    case .slot(let id, _): [id]
    case .pair(let pair, _): pair.slots
    }
  }

  /// Name of what is new: the operator, or the merge of a pair.
  package var operatorName: String {
    switch self {
    case .slot(_, let spec): spec.name
    case .pair(_, let merge): "parallel \(merge.rawValue)"
    }
  }

  /// The change in words, such as `7.attention hyena_x`.
  package var text: String {
    switch self {
    case .slot(let id, let spec):
      "\(id) \(OperatorCatalog.descriptor(named: spec.name)?.label(spec) ?? spec.name)"
    case .pair(let pair, let merge): "\(pair) \(merge.rawValue)"
    }
  }

  /// Makes the change in a plan.
  package func apply(to plan: inout GraftPlan) {
    switch self {
    case .slot(let id, let spec): plan.edits[id] = spec
    case .pair(let pair, let merge): plan.parallel[pair] = merge
    }
  }
}

/// What a budget is counted in.
package enum Measure: String, CaseIterable, Codable, Sendable {
  /// Measured seconds of a forward pass.
  case time
  /// FLOPs of a forward pass.
  case flops
  /// Number of weights and biases.
  case parameters
  /// Bytes of weights and activations.
  case memory
}

extension OperatorCost {
  /// The amount of a measure; nil for time, which is measured.
  package func amount(of measure: Measure) -> Double? {
    switch measure {
    case .time: nil
    case .flops: flops
    case .parameters: Double(parameters)
    case .memory: bytes
    }
  }
}

/// Amounts in every measure.
package struct Amounts: Equatable, Codable, Sendable {
  package var time, flops, parameters, memory: Double

  package init(time: Double = 0, flops: Double = 0, parameters: Double = 0, memory: Double = 0) {
    (self.time, self.flops) = (time, flops)
    (self.parameters, self.memory) = (parameters, memory)
  }

  package subscript(measure: Measure) -> Double {
    switch measure {
    case .time: time
    case .flops: flops
    case .parameters: parameters
    case .memory: memory
    }
  }

  package static func + (first: Amounts, second: Amounts) -> Amounts {
    Amounts(
      time: first.time + second.time, flops: first.flops + second.flops,
      parameters: first.parameters + second.parameters, memory: first.memory + second.memory)
  }
}

/// A change with what it costs in quality and saves in every measure.
package struct Candidate: Equatable, Sendable {
  package let change: Change
  /// Error of the model's guided prediction with this change alone, relative to the teacher.
  package var loss: Double
  /// Standard error of `loss`.
  package var standardError: Double
  /// What the change saves; negative where it costs more than the original.
  package var saving: Amounts

  package init(_ change: Change, loss: Double, standardError: Double = 0, saving: Amounts) {
    (self.change, self.loss) = (change, loss)
    (self.standardError, self.saving) = (standardError, saving)
  }

  /// Error for each second saved; infinite if none is saved.
  package var price: Double { saving.time > 0 ? loss / saving.time : .infinity }

  /// Whether it costs less quality for its saving than another; of those that save nothing the smaller loss wins.
  package func isCheaper(than other: Candidate) -> Bool {
    (price, loss, change.text) < (other.price, other.loss, other.change.text)
  }
}
