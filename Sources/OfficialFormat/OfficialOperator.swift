import Plans
import Yams

/// How the official repository configures an operator, and what that is in a plan.
///
/// Source: the YAML files under `configs/` of keshik6/grafting and the constructors they are passed to.
struct OfficialOperator {
  /// What a key of the configuration means.
  enum Meaning {
    /// The model's width.
    case width
    /// A length that must reach the number of tokens.
    case tokenLimit
    /// The number of tokens exactly.
    case tokens
    /// The number of attention heads.
    case heads
    /// A number that the plan has under the same or another name.
    case setting(String)
    /// The same number as a setting that stands before it.
    case same(as: String)
    /// A list of two window sides; -1 is unlimited.
    case window(left: String, right: String)
    /// Only this value can be built here.
    case fixed(Constant)
    /// Without influence on the result.
    case ignored
  }

  /// A value that has no setting in plans.
  enum Constant: Equatable {
    case null
    case truth(Bool)
    case number(Double)
  }

  /// A key of the configuration file.
  struct Key {
    let name: String
    let meaning: Meaning
    /// What is written on export; nil leaves the key out.
    let written: Constant?

    init(_ name: String, _ meaning: Meaning, writes written: Constant? = nil) {
      self.name = name
      self.meaning = meaning
      self.written = written
    }

    /// A key with one possible value that the official files state.
    static func stated(_ name: String, _ value: Constant) -> Key {
      Key(name, .fixed(value), writes: value)
    }

    /// A key with one possible value that the official files leave out.
    static func implied(_ name: String, _ value: Constant) -> Key { Key(name, .fixed(value)) }
  }

  /// The operator's name in plans and, but for attention, in the official factory.
  let name: String
  let slot: Slot
  let keys: [Key]

  /// `type` of the official configuration for a slot.
  static func type(of slot: Slot) -> String { slot == .attention ? "mha" : "mlp" }

  private static func hyena(_ name: String, _ filters: [Key]) -> OfficialOperator {
    OfficialOperator(
      name: name, slot: .attention,
      keys: [
        Key("d_model", .width), Key("l_max", .tokenLimit, writes: .number(1_000_000)),
        .stated("order", .number(2)), .stated("inner_factor", .number(1)),
        .stated("num_heads", .number(1)), .stated("num_blocks", .number(1)),
      ] + filters)
  }

  private static let shortFilter = Key("short_filter_order", .setting("short_filter_order"))
  private static let innerFilter = Key("inner_filter_len", .setting("inner_filter_len"))

  /// Every operator that the official factory can build.
  static let all: [OfficialOperator] = [
    OfficialOperator(
      name: "mha", slot: .attention,
      keys: [
        Key("dim", .width), .stated("qkv_bias", .truth(true)), Key("num_heads", .heads),
        .implied("qk_norm", .truth(false)), .implied("attn_drop", .number(0)),
        .implied("proj_drop", .number(0)),
      ]),
    OfficialOperator(
      name: "swa", slot: .attention,
      keys: [
        Key("embed_dim", .width), Key("num_heads", .heads), .stated("num_heads_kv", .null),
        .stated("cross_attn", .truth(false)), .stated("qkv_proj_bias", .truth(true)),
        .stated("out_proj_bias", .truth(true)), .stated("dropout", .number(0)),
        .stated("softmax_scale", .null), .stated("causal", .truth(false)),
        .stated("layer_idx", .null), .stated("dwconv", .truth(false)),
        .stated("rotary_emb_dim", .number(0)), Key("rotary_emb_base", .ignored),
        Key("rotary_emb_scale_base", .ignored), Key("rotary_emb_interleaved", .ignored),
        .implied("use_alibi", .truth(false)),
        Key("window_size", .window(left: "window_left", right: "window_right")),
        Key("fused_bias_fc", .ignored, writes: .truth(true)),
        .stated("use_flash_attn", .truth(true)), .stated("return_residual", .truth(false)),
        Key("checkpointing", .ignored, writes: .truth(false)),
        Key("device", .ignored, writes: .null), Key("dtype", .ignored, writes: .null),
      ]),
    // The official class has one length for both filters.
    hyena("hyena_se", [shortFilter, Key("inner_filter_len", .same(as: "short_filter_order"))]),
    hyena("hyena_x", [shortFilter]),
    hyena("hyena_y", [innerFilter]),
    OfficialOperator(
      name: "mamba2", slot: .attention,
      keys: [
        Key("d_model", .width), Key("d_state", .setting("d_state")),
        Key("d_conv", .setting("d_conv")), Key("expand", .setting("expand")),
        Key("headdim", .setting("headdim")), Key("ngroups", .setting("ngroups")),
        Key("chunk_size", .setting("chunk_size")),
      ]),
    OfficialOperator(
      name: "mlp", slot: .mlp,
      keys: [
        Key("d_model", .width), Key("expansion_ratio", .setting("expansion_ratio")),
        .stated("dropout", .number(0)),
      ]),
    OfficialOperator(
      name: "mlp_hyena_x", slot: .mlp,
      keys: [
        Key("d_model", .width), Key("l_max", .tokens),
        Key("expansion_ratio", .setting("expansion_ratio")), .stated("order", .number(2)),
        .stated("inner_factor", .number(1)), .stated("num_heads", .number(1)),
        // The released class does not take the key that the released file has.
        .stated("num_blocks", .number(1)), Key("fused_bias_fc", .ignored), shortFilter,
      ]),
  ]

  /// The operator that the official factory builds from a name and a configuration.
  ///
  /// Names with `mha` or `swa` in them are attention; `use_flash_attn` tells the two classes apart.
  static func named(_ name: String, configKeys: [String]) -> OfficialOperator? {
    let isAttention = name.contains("mha") || name.contains("swa")
    let own = isAttention ? (configKeys.contains("use_flash_attn") ? "swa" : "mha") : name
    return all.first { $0.name == own }
  }

  // MARK: - Reading

  /// Turns an official configuration into a plan's entry.
  ///
  /// - Throws: `PlanError` that names the key that cannot be expressed.
  func spec(_ config: YAMLDocument.Section, shape: ModelShape) throws -> OperatorSpec {
    var spec = OperatorCatalog.descriptor(named: name)?.defaultSpec ?? OperatorSpec(name)
    for key in config.names {
      guard let rule = keys.first(where: { $0.name == key }) else {
        throw config.error(
          key,
          "\(name) has no such setting here, expected some of"
            + " \(keys.map(\.name).joined(separator: ", ")); remove the key")
      }
      try rule.apply(config, shape, to: &spec)
    }
    if let width = keys.first(where: { if case .width = $0.meaning { true } else { false } }),
      config.value(width.name) == nil
    {
      throw config.error(width.name, "is missing, expected the model's width; add it")
    }
    return spec
  }

  // MARK: - Writing

  /// The official configuration of a plan's entry, or why there is none.
  func configuration(of spec: OperatorSpec, shape: ModelShape) throws -> Node {
    var known: Set<String> = []
    var pairs: [(Node, Node)] = []
    for key in keys {
      guard let value = key.value(of: spec, shape: shape, known: &known) else { continue }
      pairs.append((Node(key.name), value))
    }
    let defaults = OperatorCatalog.descriptor(named: name)?.defaultSpec.config ?? [:]
    for (setting, value) in spec.config.sorted(by: { $0.key < $1.key })
    where !known.contains(setting) && value != defaults[setting] {
      throw PlanError(
        key: setting,
        "the official configuration of \(name) has no place for it; leave it at its"
          + " default")
    }
    return Node(pairs)
  }
}

extension OfficialOperator.Key {
  fileprivate func apply(
    _ config: YAMLDocument.Section, _ shape: ModelShape, to spec: inout OperatorSpec
  ) throws {
    func number() throws -> Double {
      guard let number = config.value(name)?.float else {
        throw config.error(name, "expected a number, found \(config.described(name)); correct it")
      }
      return number
    }
    func require(_ holds: Bool, _ expected: String) throws {
      if holds { return }
      throw config.error(
        name,
        "expected \(expected), found \(config.described(name)); it cannot be expressed in a"
          + " plan for this model")
    }
    switch meaning {
    case .ignored: break
    case .width: try require(try number() == Double(shape.hiddenSize), "\(shape.hiddenSize)")
    case .tokens: try require(try number() == Double(shape.tokens), "\(shape.tokens)")
    case .tokenLimit:
      try require(try number() >= Double(shape.tokens), "at least \(shape.tokens)")
    case .heads:
      let heads = try number()
      spec.config["num_heads"] = heads == Double(shape.numHeads) ? 0 : heads
    case .setting(let setting): spec.config[setting] = try number()
    case .same(let setting):
      let value = spec.value(setting)
      try require(try number() == value, "\(Int(value)), as \(setting)")
    case .window(let left, let right):
      let sides = config.value(name)?.sequence?.compactMap(\.int) ?? []
      try require(sides.count == 2 && sides.allSatisfy { $0 >= -1 }, "two numbers of at least -1")
      for (setting, side) in zip([left, right], sides) {
        spec.config[setting] = Double(side == -1 ? shape.tokens - 1 : side)
      }
    case .fixed(let constant):
      let node = config.value(name)
      switch constant {
      case .null: try require(node?.null != nil || node?.string == "None", "null")
      case .truth(let truth): try require(node?.bool == truth, "\(truth)")
      case .number(let number): try require(node?.float == number, "\(Int(number))")
      }
    }
  }

  fileprivate func value(
    of spec: OperatorSpec, shape: ModelShape, known: inout Set<String>
  ) -> Node? {
    func whole(_ number: Double) -> Node {
      Node(Int(exactly: number).map(String.init) ?? "\(number)")
    }
    func setting(_ name: String) -> Node? {
      known.insert(name)
      let fields = OperatorCatalog.descriptor(named: spec.name)?.fields ?? []
      return fields.contains { $0.key == name } ? whole(spec.value(name)) : nil
    }
    switch meaning {
    case .width: return whole(Double(shape.hiddenSize))
    case .tokens: return whole(Double(shape.tokens))
    case .heads:
      known.insert("num_heads")
      let own = spec.config["num_heads"] ?? 0
      return whole(own == 0 ? Double(shape.numHeads) : own)
    case .setting(let name), .same(let name): return setting(name)
    case .window(let left, let right):
      return Node([setting(left), setting(right)].compactMap(\.self))
    case .tokenLimit, .fixed, .ignored: return written?.node
    }
  }
}

extension OfficialOperator.Constant {
  fileprivate var node: Node {
    switch self {
    case .null: Node("null", .implicit, .plain)
    case .truth(let truth): Node(truth ? "True" : "False", .implicit, .plain)
    case .number(let number): Node(number == 0 ? "0.0" : String(Int(number)))
    }
  }
}
