import ArgumentParser
import Checkpoints
import Foundation
import Models
import Grafting
import Plans

/// `espalier inspect`: what a model file holds.
struct InspectCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "inspect", abstract: "Show what a safetensors model file holds.")

  @Argument(help: "demo, or the path of a safetensors file.") var model = "demo"
  @Flag(help: "List every tensor.") var tensors = false
  @OptionGroup var output: OutputOptions

  private struct TensorRow: Encodable { let name, dtype: String, shape: [Int] }
  private struct Report: Encodable {
    let path: String
    let bytes, tensorCount, parameters: Int
    let dtypes: [String: Int]
    let model: ModelShape?
    let classNames: [String]
    let plan: String?
    let edits: [String: String]
    let parametersByBlock: [Int]
    let metadataKeys: [String]
    let tensors: [TensorRow]?
  }

  func run() throws {
    let path = model == ModelFiles.demo ? try ModelFiles(model).modelPath : model
    let file = try SafetensorsFile(path: path)
    let report = try make(file)
    if output.json { return try output.printJSON(report) }
    print(
      "\(report.path): \(report.tensorCount) tensors, \(report.parameters) elements, \(report.bytes) bytes"
    )
    print(
      "dtypes: \(report.dtypes.sorted { $0.key < $1.key }.map { "\($0.key) x\($0.value)" }.joined(separator: ", "))"
    )
    if let shape = report.model {
      print(
        "DiT: depth \(shape.depth), hidden size \(shape.hiddenSize), heads \(shape.numHeads), patch \(shape.patchSize), "
          + "latents \(shape.inChannels)x\(shape.inputSize)x\(shape.inputSize), \(shape.tokens) tokens, \(shape.numClasses) classes"
      )
    }
    if !report.classNames.isEmpty { print("classes: \(report.classNames.joined(separator: ", "))") }
    if let plan = report.plan { print("grafted by plan '\(plan)'") }
    for (id, label) in report.edits.sorted(by: {
      (SlotID($0.key)?.block ?? 0) < (SlotID($1.key)?.block ?? 0)
    }) {
      print("  \(id)  \(label)")
    }
    if !report.parametersByBlock.isEmpty {
      print(
        "parameters by block: \(report.parametersByBlock.map(String.init).joined(separator: " "))")
    }
    for row in report.tensors ?? [] { print("  \(row.dtype)  \(row.shape)  \(row.name)") }
  }

  private func make(_ file: SafetensorsFile) throws -> Report {
    let entries = file.names.compactMap { file.entry($0) }
    let dit = file.metadata["config"] == nil ? nil : try? DiTFile(path: file.path)
    let plan = try dit?.plan()
    var byBlock = [Int](repeating: 0, count: dit?.config.depth ?? 0)
    var (bytes, elements) = (0, 0)
    for entry in entries {
      let count = entry.shape.reduce(1, *)
      bytes += entry.byteCount
      elements += count
      let parts = entry.name.split(separator: ".")
      if parts.count > 1, parts[0] == "blocks", let block = Int(parts[1]),
        byBlock.indices.contains(block)
      {
        byBlock[block] += count
      }
    }
    return Report(
      path: file.path, bytes: bytes, tensorCount: entries.count, parameters: elements,
      dtypes: Dictionary(entries.map { ($0.dtype.rawValue, 1) }, uniquingKeysWith: +),
      model: dit?.shape, classNames: dit?.classNames ?? [], plan: plan?.name,
      edits: Dictionary(
        uniqueKeysWithValues: (plan?.edits ?? [:]).map { id, spec in
          (id.description, OperatorCatalog.descriptor(named: spec.name)?.label(spec) ?? spec.name)
        }),
      parametersByBlock: byBlock, metadataKeys: file.metadata.keys.sorted(),
      tensors: tensors
        ? entries.map { TensorRow(name: $0.name, dtype: $0.dtype.rawValue, shape: $0.shape) } : nil)
  }
}
