import ArgumentParser
import Checkpoints
import Foundation
import Models
import Plans

/// `espalier inspect`: lists the content of a file of tensors.
struct InspectCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "inspect",
    abstract: "Show what a safetensors, PyTorch or NumPy file, or a folder of diffusers, holds.")

  @Argument(help: .init(modelHelp)) var model = "demo"
  @OptionGroup var family: FamilyOption
  @Flag(help: "List every tensor, and the values that are none.") var tensors = false
  @Flag(
    help:
      "List every tensor with mean, root mean square, range, zeros and values that are not finite.")
  var statistics = false
  @OptionGroup var output: OutputOptions

  func run() throws {
    let report = try InspectReport(
      family.name(of: model), listsTensors: tensors || statistics, withStatistics: statistics)
    if output.json { return try output.printJSON(report) }
    report.lines.forEach { print($0) }
  }
}

/// Report on a file.
struct InspectReport: Encodable {
  struct TensorRow: Encodable {
    let name, dtype: String
    let shape: [Int]
    let statistics: TensorStatistics?
  }
  struct EntryRow: Encodable {
    let name: String
    let tensors, elements: Int
  }

  let path, format: String
  let bytes, tensorCount, parameters: Int
  let dtypes: [String: Int]
  let container: String?
  let entries: [EntryRow]
  let strippedPrefixes: [String]
  let model: ModelShape?
  let modelName, naming: String?
  /// Reason why the weights of a DiT cannot be used as a model.
  let modelFault: String?
  let classNames: [String]
  let plan: String?
  let isGraft: Bool
  /// Assumptions about the model.
  let notes: [String]
  let edits: [String: String]
  let parametersByBlock: [Int]
  let metadataKeys: [String]
  let valueCount: Int
  let tensors: [TensorRow]?
  let values: [String: String]?

  /// Reads what a file says of itself.
  ///
  /// - Parameters:
  ///   - name: The model or file.
  ///   - listsTensors: Whether every tensor is listed.
  ///   - withStatistics: Whether the elements of all listed tensors are read too.
  /// - Throws: `FileError` for a file that cannot be read.
  init(_ name: String, listsTensors: Bool, withStatistics: Bool = false) throws {
    let weights = try ModelWeights(named: name)
    let (dict, file) = (weights.tensors, weights.tensors.file)
    let all = file.names.compactMap { file.entry($0) }
    path = weights.path
    format = file.format
    bytes = all.reduce(0) { $0 + $1.byteCount }
    tensorCount = all.count
    dtypes = Dictionary(all.map { ($0.dtype.rawValue, 1) }, uniquingKeysWith: +)
    self.container = dict.container
    strippedPrefixes = dict.strippedPrefixes
    entries = dict.container == nil ? [] : Self.entries(of: file, all)
    metadataKeys = file.metadata.keys.sorted()
    valueCount = file.values.count

    var (opened, fault) = ((any ModelFile)?.none, String?.none)
    do {
      if try FamilyRecognition(weights) != nil { opened = try weights.model() }
    } catch {
      fault = String(describing: error)
    }
    let shape = opened?.shape
    model = shape
    modelName = shape.map { $0.publishedName ?? $0.family.title }
    naming = opened?.namingName
    modelFault = fault
    notes = try opened.map { try ModelFiles($0).notes } ?? []
    classNames = opened?.classNames ?? []
    self.plan = opened?.plan?.name
    isGraft = opened?.isGraft ?? false
    var edits: [String: String] = [:]
    for (id, spec) in opened?.changes.edits ?? [:] {
      edits["\(id)"] = OperatorCatalog.label(spec)
    }
    for (pair, merge) in opened?.changes.parallel ?? [:] {
      edits["\(pair)"] = "parallel, merged by \(merge.rawValue)"
    }
    self.edits = edits
    var byBlock = [Int](repeating: 0, count: shape?.depth ?? 0)
    var elements = 0
    for entry in dict.names.compactMap({ dict.entry($0) }) {
      elements += entry.count
      let parts = entry.name.split(separator: ".")
      if parts.count > 1, parts[0] == "blocks" || parts[0] == "transformer_blocks",
        let block = Int(parts[1]), byBlock.indices.contains(block)
      {
        byBlock[block] += entry.count
      }
    }
    parameters = elements
    parametersByBlock = byBlock
    let rows = try (listsTensors ? all : []).map { entry in
      let statistics = try withStatistics ? file.statistics(of: entry.name) : nil
      return TensorRow(
        name: entry.name, dtype: entry.dtype.rawValue, shape: entry.shape, statistics: statistics)
    }
    tensors = listsTensors ? rows : nil
    values = listsTensors && !file.values.isEmpty ? file.values.mapValues(\.text) : nil
  }

  private static func entries(of file: any TensorFile, _ all: [TensorEntry]) -> [EntryRow] {
    let groups = Dictionary(grouping: all) { $0.name.prefix { $0 != "." } }
    return StateDict.topLevelKeys(of: file).map { key in
      let own = groups[key[...]] ?? []
      return EntryRow(
        name: key, tensors: own.count, elements: own.reduce(0) { $0 + $1.count })
    }
  }

  /// The report as text.
  var lines: [String] {
    var lines = [
      "\(path): \(format), \(tensorCount) tensors, \(parameters) elements, \(bytes) bytes",
      "dtypes: "
        + dtypes.sorted { $0.key < $1.key }.map { "\($0.key) x\($0.value)" }
        .joined(separator: ", "),
    ]
    if let container {
      lines.append("container: training checkpoint, taken is '\(container)' of")
      lines += entries.map { "  \($0.name)  \($0.tensors) tensors, \($0.elements) elements" }
    } else {
      lines.append("container: \(format.hasPrefix("NumPy") ? "arrays" : "one set of tensors")")
    }
    if !strippedPrefixes.isEmpty {
      lines.append("stripped prefixes: \(strippedPrefixes.joined(separator: " "))")
    }
    if valueCount > 0 { lines.append("values that are no tensors: \(valueCount)") }
    if let shape = model {
      lines.append(
        "\(modelName ?? "DiT"): depth \(shape.depth), hidden size \(shape.hiddenSize),"
          + " heads \(shape.numHeads), patch \(shape.patchSize),"
          + " latents \(shape.inChannels)x\(shape.inputSize)x\(shape.inputSize),"
          + " \(shape.tokens) tokens,"
          + " \(shape.family.condition == .captions ? "captions" : "\(shape.numClasses) classes"),"
          + " \(naming ?? "") names")
    }
    lines += notes.map { "note: \($0)" }
    if let modelFault { lines.append("no usable model: \(modelFault)") }
    if !classNames.isEmpty {
      lines.append("classes: \(classNames.prefix(20).joined(separator: ", "))")
    }
    if let plan {
      lines.append("grafted by plan '\(plan)'")
    } else if isGraft {
      lines.append("grafted, as its weights show")
    }
    let sites = edits.compactMap { name, change in GraftSite(name).map { ($0, change) } }
    lines += sites.sorted { $0.0 < $1.0 }.map { "  \($0)  \($1)" }
    if !parametersByBlock.isEmpty {
      lines.append(
        "parameters by block: \(parametersByBlock.map(String.init).joined(separator: " "))")
    }
    lines += (tensors ?? []).flatMap { tensor in
      ["  \(tensor.dtype)  \(tensor.shape)  \(tensor.name)"]
        + (tensor.statistics.map { ["    \($0.text)"] } ?? [])
    }
    lines += (values ?? [:]).sorted { $0.key < $1.key }.map { "  \($0.key) = \($0.value)" }
    return lines
  }
}

extension TensorStatistics {
  /// The summary in a line.
  fileprivate var text: String {
    func text(_ value: Double?) -> String { value.map { String(format: "%.4g", $0) } ?? "none" }
    return "mean \(text(mean))  rms \(text(rms))  min \(text(smallest))  max \(text(largest))"
      + (zeros > 0 ? "  zeros \(zeros)" : "") + (nonFinite > 0 ? "  not finite \(nonFinite)" : "")
  }
}

extension PlainValue {
  /// The value as text.
  fileprivate var text: String {
    switch self {
    case .none: "none"
    case .truth(let flag): String(flag)
    case .integer(let number): String(number)
    case .number(let number): String(number)
    case .text(let text): text
    case .object(let name): "an object of class \(name)"
    }
  }
}
