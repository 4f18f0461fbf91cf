import Files
import Foundation

extension GraftPlan {
  /// Reads and validates a plan file; relative paths of data are relative to its folder.
  ///
  /// - Throws: `PlanError` with file, line and key for an unknown version, key or operator, a wrong
  ///   block number or type, or an invalid setting; also when the file cannot be read.
  package static func load(path: String) throws(PlanError) -> GraftPlan {
    try read(SettingsReader(path: path), in: AtomicFile.directory(of: path))
  }

  /// Reads a plan from its text; `file` is its name in error messages, and relative paths of data
  /// are relative to `folder`.
  ///
  /// - Throws: `PlanError` as `load` does.
  package static func parse(
    _ text: String, file: String, in folder: String = "."
  ) throws(PlanError) -> GraftPlan {
    try read(SettingsReader(file: file, text: Array(text.utf8)), in: folder)
  }

  /// Checks the version first, because all other keys may differ between versions.
  private static func read(
    _ initial: SettingsReader, in folder: String
  ) throws(PlanError) -> GraftPlan {
    var reader = initial
    let root = try reader.root()
    let any = try reader.section(root, key: "", known: nil)
    guard any.members["espalier_plan"] != nil else {
      throw reader.error(
        at: root.position, key: "espalier_plan",
        "the key is missing, so this is no plan; name a plan file")
    }
    let version: Int = try reader.value("espalier_plan", in: any)
    try reader.locating { () throws(PlanError) in
      guard version == formatVersion else {
        throw PlanError(
          key: "espalier_plan",
          "expected version \(formatVersion), found \(version); use a matching version of espalier")
      }
    }
    var settings = Settings<PlanSchema>()
    let top = try settings.values.read(
      root, rows: PlanSchema.table.rows,
      beside: ["espalier_plan", "model", "blocks", "parallel", "data", "stage1", "stage2"], at: "",
      by: &reader)
    var plan = GraftPlan(named: settings.name, model: try reader.model(in: top))
    plan.settings = settings
    try reader.locating { () throws(PlanError) in try plan.model.validate() }
    plan.edits = try reader.edits(in: top, depth: plan.model.shape.depth)
    plan.parallel = try reader.parallel(in: top, depth: plan.model.shape.depth)
    if let node = top.members["data"] {
      plan.data = try DataSettings(node, in: folder, by: &reader)
    }
    if let node = top.members["stage1"] {
      try plan.stage1.read(node.withOverrides, at: "stage1", by: &reader)
    }
    if let node = top.members["stage2"] { try plan.stage2.read(node, at: "stage2", by: &reader) }
    try reader.locating { () throws(PlanError) in try plan.validate() }
    return plan
  }

  /// Encodes the plan file: JSON with a fixed order of keys and one line per edited slot.
  ///
  /// - Throws: `PlanError` when the plan is invalid.
  package func json() throws(PlanError) -> Data {
    try validate()
    let modelMembers =
      [("path", model.path.json)] + model.shape.members.map { ($0.key, $0.json) }
      + [("content_hash", model.contentHash.json)]
    var members: [(String, String)] = [
      ("espalier_plan", Self.formatVersion.json), ("name", self.name.json),
      ("model", Self.object(modelMembers)), ("blocks", blockList),
    ]
    // Absent pairs and data are omitted, for the same text as in earlier versions.
    if !parallel.isEmpty { members.append(("parallel", pairList)) }
    if let data { members.append(("data", data.json)) }
    members += [
      ("stage1", Self.object(stage1.members)), ("stage2", Self.object(stage2.members)),
      ("seed", self.seed.json),
    ]
    let lines = members.map { "  \($0.0.jsonQuoted): \($0.1)" }
    return Data("{\n\(lines.joined(separator: ",\n"))\n}\n".utf8)
  }

  private var blockList: String {
    let blocks = Dictionary(grouping: edits.keys, by: \.block).sorted { $0.key < $1.key }
    let lines = blocks.map { block, ids in
      let slots = ids.sorted().map { "\"\($0.slot.rawValue)\": \(Self.text(spec($0)))" }
      return "    {\"block\": \(block), " + slots.joined(separator: ",\n      ") + "}"
    }
    return lines.isEmpty ? "[]" : "[\n\(lines.joined(separator: ",\n"))\n  ]"
  }

  private var pairList: String {
    let lines = parallel.sorted { $0.key < $1.key }.map { pair, merge in
      "    {\"blocks\": [\(pair.first), \(pair.second)], \"merge\": \(merge.json)}"
    }
    return "[\n\(lines.joined(separator: ",\n"))\n  ]"
  }

  private static func text(_ spec: OperatorSpec) -> String {
    let config = spec.config.sorted { $0.key < $1.key }.map { "\($0.key.json): \($0.value.json)" }
    return "{\"operator\": \(spec.name.json), \"config\": {\(config.joined(separator: ", "))}}"
  }

  private static func object(_ members: [(String, String)]) -> String {
    let lines = members.map { "    \($0.0.json): \($0.1)" }
    return "{\n\(lines.joined(separator: ",\n"))\n  }"
  }
}

// MARK: - Files

extension GraftPlan {
  /// Writes the plan file atomically.
  ///
  /// Relative paths of data are unchanged in their base folder, and become absolute in others.
  ///
  /// - Throws: `PlanError` when the plan is invalid, `FileError` when it cannot be written.
  package func save(to path: String) throws {
    try AtomicFile.write(json(for: path), to: path)
  }

  /// Encodes the plan for a file at `path`, to whose folder relative paths of data refer.
  ///
  /// - Throws: `PlanError` when the plan is invalid.
  package func json(for path: String) throws(PlanError) -> Data {
    var plan = self
    plan.data = data?.moved(to: AtomicFile.directory(of: path))
    return try plan.json()
  }

  /// Writes the plan file unless it holds another plan than `known`.
  ///
  /// - Parameters:
  ///   - path: The file.
  ///   - known: The plan that may be overwritten; nil overwrites none.
  /// - Returns: Whether it was written.
  /// - Throws: as `save(to:)`.
  package func save(to path: String, over known: GraftPlan?) throws -> Bool {
    try PlanLock.hold(path) {
      if FileManager.default.fileExists(atPath: path) {
        guard let known, let present = try? GraftPlan.load(path: path), present == known else {
          return false
        }
      }
      try save(to: path)
      return true
    }
  }

  /// Reads a plan file, changes the plan, and writes it, with the file locked.
  ///
  /// - Returns: The changed plan.
  /// - Throws: Errors of `load`, `body` and `save`; errors of the changed plan name the file.
  package static func update(
    path: String, _ body: (inout GraftPlan) throws -> Void
  ) throws -> GraftPlan {
    try PlanLock.hold(path) {
      var plan = try load(path: path)
      try body(&plan)
      do throws(PlanError) {
        try plan.validate()
      } catch {
        var error = error
        error.file = path
        throw error
      }
      try plan.save(to: path)
      return plan
    }
  }
}

/// Lock of a plan file during a read-modify-write cycle.
///
/// The folder of the file is locked, so that a file that does not exist yet is covered too.
private enum PlanLock {
  /// Calls `body` with the lock, or without it on a file system without locks.
  static func hold<Result>(_ path: String, _ body: () throws -> Result) throws -> Result {
    let folder = AtomicFile.directory(of: try AtomicFile.target(of: path))
    let descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { return try body() }
    defer { close(descriptor) }
    while flock(descriptor, LOCK_EX) != 0, errno == EINTR {}
    return try body()
  }
}

// MARK: - Sections

extension JSONNode {
  /// Section `stage1` with `loss_overrides` of early plans (losses by site) converted to overrides.
  fileprivate var withOverrides: JSONNode {
    guard case .object(let members) = value else { return self }
    var result = self
    result.value = .object(
      members.map { name, node in
        guard name == "loss_overrides", case .object(let losses) = node.value else {
          return (name, node)
        }
        var overrides = node
        overrides.value = .object(
          losses.map { site, loss in
            var own = loss
            own.value = .object([("loss", loss)])
            return (site, own)
          })
        return ("overrides", overrides)
      })
    return result
  }
}

extension SettingsReader {
  fileprivate mutating func model(in top: JSONSection) throws(PlanError) -> ModelReference {
    var shape = ModelShape()
    let section = try shape.values.read(
      required("model", in: top), rows: ModelSchema.table.rows, beside: ["path", "content_hash"],
      at: "model", by: &self)
    return ModelReference(
      path: try value("path", in: section), shape: shape,
      contentHash: try value("content_hash", in: section))
  }

  fileprivate mutating func edits(
    in top: JSONSection, depth: Int
  ) throws(PlanError) -> [SlotID: OperatorSpec] {
    let list = try elements(required("blocks", in: top), key: "blocks", kind: "a list of blocks")
    var edits: [SlotID: OperatorSpec] = [:]
    for (index, element) in list.enumerated() {
      let key = "blocks[\(index)]"
      let entry = try section(element, key: key, known: ["block", "attention", "mlp"])
      let block: Int = try value("block", in: entry)
      guard (0..<depth).contains(block) else {
        throw error(
          at: try required("block", in: entry).position, key: "\(key).block",
          "the model has blocks 0 to \(depth - 1), found \(block); correct the number")
      }
      guard entry.members.count > 1 else {
        throw error(
          at: element.position, key: key,
          "block \(block) has neither \"attention\" nor \"mlp\"; add one or remove the entry")
      }
      for slot in Slot.allCases {
        guard let member = entry.members[slot.rawValue] else { continue }
        let id = SlotID(block: block, slot: slot)
        guard edits.updateValue(try spec(member, id), forKey: id) == nil else {
          throw error(
            at: member.position, key: "\(id)", "the slot is listed twice; remove one of the entries"
          )
        }
      }
    }
    return edits
  }

  private mutating func spec(_ node: JSONNode, _ id: SlotID) throws(PlanError) -> OperatorSpec {
    let entry = try section(node, key: "\(id)", known: ["operator", "config"])
    var spec = OperatorSpec(try value("operator", in: entry))
    if let settings = entry.members["config"] {
      let config = try section(settings, key: entry.path("config"), known: nil)
      for (name, node) in config.members {
        if case .text(let text) = node.value,
          let number = OperatorCatalog.field(name, of: spec.name)?.value(named: text)
        {
          spec.config[name] = number
        } else {
          spec.config[name] = try value(name, in: config)
        }
      }
    }
    return spec
  }

  /// Reads the pairs of parallel blocks; empty without the key.
  fileprivate mutating func parallel(
    in top: JSONSection, depth: Int
  ) throws(PlanError) -> [BlockPair: ParallelMerge] {
    guard let node = top.members["parallel"] else { return [:] }
    let list = try elements(node, key: "parallel", kind: "a list of pairs of blocks")
    var pairs: [BlockPair: ParallelMerge] = [:]
    for (index, element) in list.enumerated() {
      let entry = try section(element, key: "parallel[\(index)]", known: ["blocks", "merge"])
      let pair = try pair(in: entry, depth: depth)
      if let other = pairs.keys.first(where: { !Set($0.blocks).isDisjoint(with: pair.blocks) }) {
        throw error(
          at: element.position, key: entry.path("blocks"),
          "the pair \(pair) shares a block with the pair \(other); remove one of the entries")
      }
      pairs[pair] = try value("merge", in: entry)
    }
    return pairs
  }

  private mutating func pair(in entry: JSONSection, depth: Int) throws(PlanError) -> BlockPair {
    let node = try required("blocks", in: entry)
    let numbers: [Double] = try value("blocks", in: entry)
    func fault(_ expected: String) -> PlanError {
      error(
        at: node.position, key: entry.path("blocks"),
        "\(expected), found \(numbers.json); correct the numbers")
    }
    guard numbers.count == 2, numbers[1] == numbers[0] + 1, let first = Int(exactly: numbers[0])
    else { throw fault("expected a block and the next one, such as [2, 3]") }
    guard first >= 0, first + 1 < depth else {
      throw fault("the model has blocks 0 to \(depth - 1)")
    }
    return BlockPair(first: first)
  }
}
