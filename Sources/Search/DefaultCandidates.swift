import Plans

/// Operators that a library holds for every slot of a kind unless others are given.
package enum DefaultCandidates {
  /// The operators of a slot, about ten for attention.
  package static func specs(_ slot: Slot, for shape: ModelShape) -> [OperatorSpec] {
    let window = Double(max(3, shape.grid / 4) | 1)
    let all: [OperatorSpec] =
      switch slot {
      case .attention:
        [
          OperatorSpec("swa"), OperatorSpec("swa2d", ["window": window]),
          OperatorSpec("hybrid", ["window": window]),
          OperatorSpec("linear_attention", ["inherit_qk": 1]),
          OperatorSpec("linear_attention", ["feature_map": 1, "v_conv": 5]),
          OperatorSpec("hyena_x"),
          OperatorSpec("hyena_y"), OperatorSpec("hyena_se"), OperatorSpec("mamba2"),
          OperatorSpec("linear"), OperatorSpec("skip", ["constant": 1]),
        ]
      case .mlp:
        [
          OperatorSpec("mlp", ["expansion_ratio": 3]), OperatorSpec("mlp", ["expansion_ratio": 2]),
          OperatorSpec("mlp", ["expansion_ratio": 1]), OperatorSpec("mlp_hyena_x"),
          OperatorSpec("linear"),
          OperatorSpec("skip", ["constant": 1]),
        ]
      }
    return all.filter { spec in
      OperatorCatalog.descriptor(named: spec.name)?.refusal(of: spec, shape: shape) == nil
    }.map { $0.normalized(for: shape) }
  }
}
