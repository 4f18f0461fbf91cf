import Plans
import Yams

/// Mapping between the official configuration of an operator and its entry in a plan.
///
/// Source: the YAML files under `configs/` of keshik6/grafting, and the constructors that receive
/// them with their defaults (its Hyena classes, timm 0.6 `Attention` and `Mlp`, flash-attn `MHA`,
/// mamba-ssm `Mamba2`).
struct OfficialOperator {
  /// Meaning of a configuration key.
  enum Meaning {
    /// Hidden size of the model.
    case width
    /// Maximum sequence length, at least the number of tokens.
    case tokenLimit
    /// Number of tokens.
    case tokens
    /// Number of attention heads.
    case heads
    /// Number of key and value heads: null or that of the queries.
    case keyHeads
    /// Number stored in the plan under this name.
    case setting(String)
    /// Boolean stored in the plan as 0 or 1 under this name.
    case flag(String)
    /// List of the two window extents; -1 is unlimited.
    case window(left: String, right: String)
    /// Only this value is supported.
    case fixed(Constant)
    /// No effect on the result.
    case ignored
    /// No effect on the result; written with the value of a setting.
    case echo(of: String)
  }

  /// A value of a configuration.
  enum Constant: Equatable {
    case null
    case truth(Bool)
    case number(Double)
    case numbers([Double])
    case text(String)
  }

  /// A key of the configuration file.
  struct Key {
    let name: String
    let meaning: Meaning
    /// Default of the official constructor; nil if the key is required.
    let absent: Constant?
    /// Value written on export unless the meaning determines it; nil omits the key.
    let written: Constant?

    private init(_ name: String, _ meaning: Meaning, absent: Constant?, writes written: Constant?) {
      (self.name, self.meaning, self.absent, self.written) = (name, meaning, absent, written)
    }

    /// A key without a default.
    static func required(_ name: String, _ meaning: Meaning, writes written: Constant? = nil) -> Key
    {
      Key(name, meaning, absent: nil, writes: written)
    }

    /// A key with the constructor's default.
    static func optional(_ name: String, _ meaning: Meaning, _ absent: Constant) -> Key {
      Key(name, meaning, absent: absent, writes: nil)
    }

    /// A key with one supported value, which is also the default; `isWritten` if the official files
    /// have it.
    static func fixed(_ name: String, _ value: Constant, isWritten: Bool = false) -> Key {
      Key(name, .fixed(value), absent: value, writes: isWritten ? value : nil)
    }

    /// A key without effect on the result.
    static func ignored(_ name: String, writes written: Constant? = nil) -> Key {
      Key(name, .ignored, absent: .null, writes: written)
    }
  }

  /// Name in plans and, except for attention, in the official factory.
  let name: String
  let slot: Slot
  let keys: [Key]

  /// Value of `type` in the official configuration for a slot.
  static func type(of slot: Slot) -> String { slot == .attention ? "mha" : "mlp" }

  private static func hyena(_ name: String, _ filters: [Key]) -> OfficialOperator {
    OfficialOperator(
      name: name, slot: .attention,
      keys: [
        .required("d_model", .width),
        .required("l_max", .tokenLimit, writes: .number(1_000_000)),
        .fixed("order", .number(2), isWritten: true),
        .fixed("inner_factor", .number(1), isWritten: true),
        .ignored("num_heads", writes: .number(1)), .ignored("num_blocks", writes: .number(1)),
        .ignored("activation"),
      ] + filters)
  }

  private static func number(_ name: String, _ absent: Double) -> Key {
    .optional(name, .setting(name), .number(absent))
  }

  /// All operators of the official factory.
  static let all: [OfficialOperator] = [
    OfficialOperator(
      name: "mha", slot: .attention,
      keys: [
        .required("dim", .width), .optional("num_heads", .heads, .number(8)),
        .optional("qkv_bias", .flag("qkv_bias"), .truth(false)),
        .fixed("qk_norm", .truth(false)), .fixed("proj_bias", .truth(true)),
        .fixed("attn_drop", .number(0)), .fixed("proj_drop", .number(0)), .ignored("norm_layer"),
      ]),
    OfficialOperator(
      name: "swa", slot: .attention,
      keys: [
        .required("embed_dim", .width), .required("num_heads", .heads),
        .optional("num_heads_kv", .keyHeads, .null),
        .fixed("cross_attn", .truth(false), isWritten: true),
        .fixed("qkv_proj_bias", .truth(true), isWritten: true),
        .fixed("out_proj_bias", .truth(true), isWritten: true),
        .fixed("dropout", .number(0), isWritten: true),
        .fixed("softmax_scale", .null, isWritten: true),
        .fixed("causal", .truth(false), isWritten: true),
        .ignored("layer_idx", writes: .null), .fixed("dwconv", .truth(false), isWritten: true),
        .fixed("rotary_emb_dim", .number(0), isWritten: true), .ignored("rotary_emb_base"),
        .ignored("rotary_emb_scale_base"), .ignored("rotary_emb_interleaved"),
        .fixed("use_alibi", .truth(false)),
        .optional(
          "window_size", .window(left: "window_left", right: "window_right"), .numbers([-1, -1])),
        .ignored("fused_bias_fc", writes: .truth(true)),
        .required("use_flash_attn", .fixed(.truth(true)), writes: .truth(true)),
        .fixed("return_residual", .truth(false), isWritten: true),
        .ignored("checkpointing", writes: .truth(false)), .ignored("device", writes: .null),
        .ignored("dtype", writes: .null),
      ]),
    // Both filters of the official class have `short_filter_order` taps; the length below only adds
    // padding.
    hyena(
      "hyena_se",
      [
        number("short_filter_order", 4),
        .optional("inner_filter_len", .echo(of: "short_filter_order"), .number(4)),
      ]),
    hyena("hyena_x", [number("short_filter_order", 4)]),
    hyena("hyena_y", [number("inner_filter_len", 4)]),
    OfficialOperator(
      name: "mamba2", slot: .attention,
      keys: [
        .required("d_model", .width), number("d_state", 128), number("d_conv", 4),
        number("expand", 2), number("headdim", 64), number("ngroups", 1),
        number("chunk_size", 256), .fixed("d_ssm", .null), .fixed("D_has_hdim", .truth(false)),
        .fixed("rmsnorm", .truth(true)), .fixed("norm_before_gate", .truth(false)),
        .fixed("bias", .truth(false)), .fixed("conv_bias", .truth(true)),
        .fixed("dt_limit", .numbers([0, .infinity])), .fixed("sequence_parallel", .truth(true)),
      ]
        + [
          "conv_init", "A_init_range", "dt_min", "dt_max", "dt_init_floor", "use_mem_eff_path",
          "layer_idx", "process_group", "device", "dtype",
        ].map { .ignored($0) }),
    OfficialOperator(
      name: "mlp", slot: .mlp,
      keys: [
        .required("d_model", .width), .required("expansion_ratio", .setting("expansion_ratio")),
        .fixed("dropout", .number(0), isWritten: true),
      ]),
    OfficialOperator(
      name: "mlp_hyena_x", slot: .mlp,
      keys: [
        .required("d_model", .width), .required("l_max", .tokens), number("expansion_ratio", 2),
        .fixed("order", .number(2), isWritten: true),
        .ignored("inner_factor", writes: .number(1)), .ignored("num_heads", writes: .number(1)),
        .ignored("num_blocks", writes: .number(1)), .ignored("activation"),
        // The released class does not accept this key of the released file.
        .ignored("fused_bias_fc"), number("short_filter_order", 4),
      ]),
  ]

  /// Returns the operator that the official factory builds from a name and a configuration.
  ///
  /// Names containing `mha` or `swa` are attention; `use_flash_attn` selects between the two
  /// classes.
  static func named(_ name: String, configKeys: [String]) -> OfficialOperator? {
    let isAttention = name.contains("mha") || name.contains("swa")
    let own = isAttention ? (configKeys.contains("use_flash_attn") ? "swa" : "mha") : name
    return all.first { $0.name == own }
  }

  // MARK: - Reading

  /// Converts an official configuration to a plan entry with all settings.
  ///
  /// - Throws: `PlanError` that names the unsupported key.
  func spec(_ config: YAMLDocument.Section, shape: ModelShape) throws -> OperatorSpec {
    for key in config.names where !keys.contains(where: { $0.name == key }) {
      throw config.error(
        key,
        "\(name) has no such setting here, expected some of"
          + " \(keys.map(\.name).joined(separator: ", ")); remove the key")
    }
    var spec = OperatorCatalog.descriptor(named: name)?.defaultSpec ?? OperatorSpec(name)
    for key in keys { try key.apply(config, shape, to: &spec) }
    return spec
  }

  // MARK: - Writing

  /// Converts a plan entry to the official configuration, or throws the reason why there is none.
  func configuration(of spec: OperatorSpec, shape: ModelShape) throws -> Node {
    var known: Set<String> = []
    var pairs: [(Node, Node)] = []
    for key in keys {
      guard let value = key.value(of: spec, shape: shape, known: &known) else { continue }
      pairs.append((Node(key.name), value))
    }
    let fields = OperatorCatalog.descriptor(named: name)?.fields ?? []
    for (setting, value) in spec.config.sorted(by: { $0.key < $1.key })
    where !known.contains(setting)
      && fields.contains(where: { $0.key == setting && !$0.isImplied && $0.defaultNumber != value })
    {
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
    let stated = config.value(name)
    guard let value = stated.map(OfficialOperator.Constant.init) ?? absent else {
      throw config.error(name, "is missing, and the official constructor has no default; add it")
    }
    func require(_ holds: Bool, _ expected: String) throws {
      if holds { return }
      let found = stated.map(YAMLDocument.described) ?? "the official default, \(value.node.text)"
      throw config.error(
        name,
        "expected \(expected), found \(found); it cannot be expressed in a plan for this model")
    }
    func number() throws -> Double {
      guard case .number(let number) = value, number.isFinite else {
        throw config.error(name, "expected a number, found \(config.described(name)); correct it")
      }
      return number
    }
    switch meaning {
    case .ignored, .echo: break
    case .width: try require(try number() == Double(shape.hiddenSize), "\(shape.hiddenSize)")
    case .tokens: try require(try number() == Double(shape.tokens), "\(shape.tokens)")
    case .tokenLimit:
      try require(try number() >= Double(shape.tokens), "at least \(shape.tokens)")
    case .heads:
      let heads = try number()
      spec.config["num_heads"] = heads == Double(shape.numHeads) ? 0 : heads
    case .keyHeads:
      let heads = spec.value("num_heads") == 0 ? Double(shape.numHeads) : spec.value("num_heads")
      try require(
        value == .null || value == .number(heads), "null or the heads of queries, \(Int(heads))")
    case .setting(let setting): spec.config[setting] = try number()
    case .flag(let setting):
      guard case .truth(let truth) = value else {
        throw config.error(
          name, "expected true or false, found \(config.described(name)); correct it")
      }
      let field = OperatorCatalog.descriptor(named: spec.name)?.fields.first { $0.key == setting }
      // A plan states an implied setting only where it differs from the default.
      spec.config[setting] = field?.defaultNumber == (truth ? 1 : 0) ? nil : (truth ? 1 : 0)
    case .window(let left, let right):
      guard case .numbers(let sides) = value, sides.count == 2,
        sides.allSatisfy({ $0 >= -1 && $0 == $0.rounded() })
      else { return try require(false, "two whole numbers of at least -1") }
      for (setting, side) in zip([left, right], sides) {
        spec.config[setting] = side == -1 ? Double(shape.tokens - 1) : side
      }
    case .fixed(let constant): try require(value == constant, constant.node.text)
    }
  }

  fileprivate func value(
    of spec: OperatorSpec, shape: ModelShape, known: inout Set<String>
  ) -> Node? {
    func setting(_ name: String) -> Node? {
      known.insert(name)
      let fields = OperatorCatalog.descriptor(named: spec.name)?.fields ?? []
      return fields.contains { $0.key == name }
        ? OfficialOperator.Constant.number(spec.value(name)).node : nil
    }
    switch meaning {
    case .width: return OfficialOperator.Constant.number(Double(shape.hiddenSize)).node
    case .tokens: return OfficialOperator.Constant.number(Double(shape.tokens)).node
    case .heads:
      known.insert("num_heads")
      let own = spec.config["num_heads"] ?? 0
      return OfficialOperator.Constant.number(own == 0 ? Double(shape.numHeads) : own).node
    case .keyHeads: return OfficialOperator.Constant.null.node
    case .setting(let name), .echo(let name): return setting(name)
    case .flag(let name):
      known.insert(name)
      return OfficialOperator.Constant.truth(spec.value(name) == 1).node
    case .window(let left, let right):
      return Node([setting(left), setting(right)].compactMap(\.self))
    case .tokenLimit, .fixed, .ignored: return written?.node
    }
  }
}

extension OfficialOperator.Constant {
  /// Reads a value; anything but null, Boolean, number and list of numbers is a string.
  fileprivate init(_ node: Node) {
    if node.null != nil || node.string == "None" {
      self = .null
    } else if let truth = node.bool {
      self = .truth(truth)
    } else if let number = node.float {
      self = .number(number)
    } else if let list = node.sequence, list.allSatisfy({ $0.float != nil }) {
      self = .numbers(list.compactMap(\.float))
    } else {
      self = .text(node.string ?? "")
    }
  }

  fileprivate var node: Node {
    switch self {
    case .null: Node("null", .implicit, .plain)
    case .truth(let truth): Node(truth ? "True" : "False", .implicit, .plain)
    case .number(let number): Node(numberText(number), .implicit, .plain)
    case .numbers(let numbers): Node(numbers.map { OfficialOperator.Constant.number($0).node })
    case .text(let text): Node(text)
    }
  }
}

extension Node {
  /// The value on one line, for messages.
  fileprivate var text: String {
    sequence.map { "[\($0.map(\.text).joined(separator: ", "))]" } ?? string ?? ""
  }
}
