import Checkpoints
import Foundation
import Operators
import Parity
import TensorCore
import TestSupport
import Testing

/// Operators without an upstream, as reference files that their definitions in double precision make.
@MainActor @Suite("Reference files of definitions")
struct DefinedOperatorTests {
  init() { OperatorRegistry.fillCatalog() }

  /// One operator: its configuration, the shapes of its parameters and its definition for one image.
  struct Case: Sendable {
    let name: String
    let settings: [String: Int]
    var grid = (rows: 3, columns: 4)
    let extra: [(name: String, shape: [Int])]
    let middle:
      @Sendable (MixerDefinition.Rows, [String: [Double]], (rows: Int, columns: Int)) ->
        MixerDefinition.Rows
  }

  nonisolated private static let (dim, heads) = (8, 2)

  nonisolated static let cases: [Case] = [
    Case(name: "linear_attention", settings: ["feature_map": 1], extra: []) { qkv, _, _ in
      MixerDefinition.linearAttention(qkv, heads: heads, map: 1)
    },
    Case(
      name: "linear_attention",
      settings: ["feature_map": 2, "key_norm": 1, "qk_conv": 3, "v_conv": 5],
      extra: [
        ("q_map.weight", [2, 4, 4]), ("k_map.weight", [2, 4, 4]), ("k_norm.weight", [8]),
        ("k_norm.bias", [8]), ("qk_conv.weight", [16, 1, 3, 3]), ("qk_conv.bias", [16]),
        ("v_conv.weight", [8, 1, 5, 5]), ("v_conv.bias", [8]),
      ]
    ) { qkv, p, grid in
      func of(_ name: String) -> [Double] { p[name] ?? [] }
      var rows = MixerDefinition.gridConvolution(
        qkv, columns: 0..<16, of("qk_conv.weight"), of("qk_conv.bias"), kernel: 3, grid: grid)
      rows = MixerDefinition.gridConvolution(
        rows, columns: 16..<24, of("v_conv.weight"), of("v_conv.bias"), kernel: 5, grid: grid)
      rows = MixerDefinition.tokenNorm(
        rows, columns: 8..<16, of("k_norm.weight"), of("k_norm.bias"))
      rows = MixerDefinition.headMap(rows, of("q_map.weight"), of("k_map.weight"), heads: heads)
      return MixerDefinition.linearAttention(rows, heads: heads, map: 2)
    },
    Case(name: "swa2d", settings: ["window": 3], extra: []) { qkv, _, grid in
      MixerDefinition.neighborhood(qkv, heads: heads, grid: grid, window: (3, 3))
    },
    Case(name: "hybrid", settings: ["window": 3], extra: [("mix", [2])]) { qkv, p, grid in
      MixerDefinition.neighborhood(
        qkv, heads: heads, grid: grid, window: (3, 3), mixes: p["mix"])
    },
    Case(name: "hybrid", settings: ["window": 5, "axes": 1], extra: [("mix", [2])]) { qkv, p, _ in
      MixerDefinition.neighborhood(
        qkv, heads: heads, grid: (1, qkv.count), window: (1, 5), mixes: p["mix"])
    },
  ]

  nonisolated private static func output(
    _ item: Case, _ x: [Double], _ p: [String: [Double]]
  ) -> [Double] {
    let rows = MixerDefinition.linear(
      MixerDefinition.rows(x, width: dim), p["qkv.weight"] ?? [], p["qkv.bias"] ?? [])
    return MixerDefinition.linear(
      item.middle(rows, p, item.grid), p["proj.weight"] ?? [], p["proj.bias"] ?? []
    ).flatMap(\.self)
  }

  /// Writes the file of a case: inputs, outputs and gradients by central differences in double precision.
  private func write(_ item: Case, to path: String) throws {
    var random = RandomSequence(seed: 15, name: item.name)
    let tokens = item.grid.rows * item.grid.columns
    let shapes =
      [
        ("qkv.weight", [24, 8]), ("qkv.bias", [24]), ("proj.weight", [8, 8]), ("proj.bias", [8]),
      ] + item.extra
    var values: [String: Tensor] = ["x": random.normal([1, tokens, 8])]
    for (name, shape) in shapes { values[name] = random.normal(shape) }
    let cotangent = random.normal([1, tokens, 8])
    let doubles = values.mapValues { $0.values.map(Double.init) }
    @Sendable func result(_ all: [String: [Double]]) -> [Double] {
      Self.output(item, all["x"] ?? [], all)
    }
    let weights = cotangent.values.map(Double.init)
    @Sendable func loss(_ all: [String: [Double]]) -> Double {
      zip(result(all), weights).reduce(0) { $0 + $1.0 * $1.1 }
    }
    var items = [
      TensorItem(name: "in.x", try #require(values["x"])),
      TensorItem(name: "in.cotangent", cotangent),
      TensorItem(
        name: "out.y", Tensor(result(doubles).map { Float($0) }, shape: [1, tokens, 8])),
      TensorItem(name: "out.L", Tensor([Float(loss(doubles))], shape: [1])),
    ]
    var largest = 0.0
    for (name, value) in values.sorted(by: { $0.key < $1.key }) {
      if name != "x" { items.append(TensorItem(name: "param.\(name)", value)) }
      let slopes = value.values.indices.map { index -> Double in
        var moved = doubles
        func at(_ step: Double) -> Double {
          moved[name]?[index] = Double(value[index]) + step
          return loss(moved)
        }
        return (at(1e-5) - at(-1e-5)) / 2e-5
      }
      largest = max(largest, slopes.map(abs).max() ?? 0)
      items.append(
        TensorItem(
          name: name == "x" ? "grad.in.x" : "grad.param.\(name)",
          Tensor(slopes.map { Float($0) }, shape: value.shape)))
    }
    let settings = item.settings.sorted { $0.key < $1.key }.map { "\"\($0.key)\": \($0.value)" }
    let config =
      "{\"op\": \"\(item.name)\", \"B\": 1, \"N\": \(tokens), \"d\": 8, \"num_heads\": 2,"
      + " \"grid\": [\(item.grid.rows), \(item.grid.columns)], \"grad_scale\": \(largest),"
      + " \(settings.joined(separator: ", "))}"
    try SafetensorsWriter.write(items, metadata: ["config": config], to: path)
  }

  private func withFile(_ item: Case, _ body: (String) throws -> Void) throws {
    let folder = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString).path
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    try write(item, to: "\(folder)/op_\(item.name).safetensors")
    try body(folder)
  }

  @Test(arguments: cases.indices)
  func theEngineAgrees(index: Int) throws {
    var item = Self.cases[index]
    for grid in [(3, 4), (1, 7), (5, 2)] {
      item.grid = grid
      try withFile(item) { folder in
        for precision in [Precision.float32, .bfloat16] {
          let report = try ParityReport(directory: folder, precision: precision)
          #expect(report.results.count == 1)
          for result in report.results {
            #expect(result.passes, Comment(rawValue: "\(grid)\n" + ParityReport.rows(result)))
          }
        }
      }
    }
  }

  /// The grid belongs to the case: tokens on another one have other neighbours.
  @Test func anotherGridFails() throws {
    let item = try #require(Self.cases.first { $0.name == "swa2d" })
    try withFile(item) { folder in
      let path = "\(folder)/op_swa2d.safetensors"
      let file = try SafetensorsFile(path: path)
      let items = try file.names.map { name in
        TensorItem(
          name: name, shape: try #require(file.entry(name)).shape, floats: try file.floats(name))
      }
      let config = try #require(file.metadata["config"])
      for (grid, says) in [("[2, 6]", nil), ("[2, 5]", "grid"), ("[12]", "grid")] {
        try SafetensorsWriter.write(
          items, metadata: ["config": config.replacing("[3, 4]", with: grid)], to: path)
        let report = try ParityReport(directory: folder)
        #expect(!report.passes)
        if let says { #expect(report.results[0].failure?.contains(says) == true) }
      }
    }
  }
}
