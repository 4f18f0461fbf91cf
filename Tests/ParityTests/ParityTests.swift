import Checkpoints
import Files
import Foundation
import Operators
import Parity
import TensorCore
import Testing

@MainActor @Suite("Reference files")
struct ParityTests {
  init() { OperatorRegistry.fillCatalog() }

  nonisolated private static let goldens =
    ProcessInfo.processInfo.environment["ESPALIER_GOLDENS"]
    ?? URL(filePath: #filePath).appending(path: "../../../../shared/goldens").standardized.path
  nonisolated private static var areAvailable: Bool {
    FileManager.default.fileExists(atPath: goldens + "/MANIFEST.json")
  }

  /// What this version of the engine must be able to run.
  nonisolated private static let required = [
    "analysis_ref", "diffusion_ddim", "diffusion_dpmpp", "diffusion_losses", "diffusion_psample",
    "diffusion_schedule", "dit_diffusers", "dit_hybrid", "dit_tiny", "fid_ref", "op_hyena_se_n16",
    "op_hyena_se_n64", "op_hyena_x_n16", "op_hyena_x_n64", "op_hyena_y_n16", "op_hyena_y_n64",
    "op_mamba2_n16", "op_mamba2_n64", "op_mha_n16", "op_mha_n64", "op_mlp_hyena_x_n16",
    "op_mlp_hyena_x_n64", "op_mlp_r3_n16", "op_mlp_r3_n64", "op_mlp_r4_n16", "op_mlp_r4_n64",
    "op_mlp_r6_n16", "op_mlp_r6_n64", "op_swa_n16", "op_swa_n64", "pixart_tiny", "pt_formats",
    "pixart_pipeline/bins", "pixart_pipeline/binned", "pixart_pipeline/no_cfg",
    "pixart_pipeline/repeat", "pixart_pipeline/square", "pixart_pipeline/wide", "sentencepiece",
    "geneval", "inception/inception", "metrics/adm_npz", "metrics/edges", "metrics/features",
    "sit/model", "sit/paths", "sit/sampling", "t5/base_bf16_io", "t5/base_io", "t5/wide_io",
    "stage1_ref", "stage2_ref", "vae_tiny",
  ]

  @Test(.enabled(if: areAvailable, "reference files are absent"))
  func everySupportedCasePasses() throws {
    let report = try ParityReport(directory: Self.goldens)
    for result in report.results {
      #expect(result.passes, Comment(rawValue: ParityReport.rows(result)))
    }
    #expect(report.passes)
    #expect(Set(report.results.map(\.name)).isSuperset(of: Self.required))
    #expect(report.unsupported.allSatisfy { !$0.reason.isEmpty })
  }

  @Test(.enabled(if: areAvailable, "reference files are absent"))
  func largeLayersInBfloat16StayWithinItsTolerances() throws {
    let report = try ParityReport(directory: Self.goldens, precision: .bfloat16)
    let models = Self.required.filter {
      $0.hasPrefix("op_") || ["dit_tiny", "dit_hybrid", "pixart_tiny", "vae_tiny"].contains($0)
    }
    #expect(report.passes && Set(report.results.map(\.name)).isSuperset(of: models))
    for result in report.results {
      // It would not be bfloat16 if nothing were rounded.
      let error = try #require(result.worst(.forward)).error
      #expect(error > 1e-3, Comment(rawValue: ParityReport.rows(result)))
    }
  }

  // MARK: - A check must be able to fail

  /// A folder with one case, one of whose tensors was changed, and what the check says of it.
  private func run(
    _ name: String, changing tensor: String? = nil, with base: [String] = [],
    _ change: (inout [Float]) -> Void = { _ in }, config edit: (String) -> String = { $0 }
  ) throws -> ParityReport {
    try withFolder { folder in
      for other in base {
        try FileManager.default.copyItem(
          atPath: "\(Self.goldens)/\(other).safetensors",
          toPath: folder + "/\(other).safetensors")
      }
      let file = try SafetensorsFile(path: "\(Self.goldens)/\(name).safetensors")
      // The writer has float types only; integers are small enough to be exact in them, and readers
      // of integer tensors refuse floats, so only cases without such tensors are rewritten here.
      let items = try file.names.map { key in
        var floats = try file.floats(key)
        if key == tensor { change(&floats) }
        return SafetensorsWriter.Item(
          name: key, shape: try #require(file.entry(key)).shape, floats: floats)
      }
      let config = edit(try #require(file.metadata["config"]))
      try SafetensorsWriter.write(
        items, metadata: ["config": config], to: folder + "/\(name).safetensors")
      return try ParityReport(directory: folder)
    }
  }

  private func withFolder<Result>(_ body: (String) throws -> Result) throws -> Result {
    let folder = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    return try body(folder.path)
  }

  @Test(.enabled(if: areAvailable, "reference files are absent"))
  func anUnchangedCopyPasses() throws {
    let report = try run("op_swa_n16")
    #expect(report.passes && report.results.count == 1)
  }

  @Test(
    .enabled(if: areAvailable, "reference files are absent"),
    arguments: [
      ("op_mha_n16", "out.y"), ("op_mha_n16", "out.L"), ("op_mha_n16", "grad.in.x"),
      ("op_mha_n16", "grad.param.qkv.bias"), ("op_swa_n16", "in.x"),
      ("op_mlp_r3_n16", "gradrow.param.fc1.weight"), ("op_mlp_r3_n16", "gradcol.param.fc2.weight"),
      ("op_hyena_x_n16", "param.short_filter.weight"), ("vae_tiny", "out.decode"),
      ("op_mamba2_n16", "grad.param.A_log"), ("op_mlp_hyena_x_n16", "param.short_filter.bias"),
      ("vae_tiny", "param.encoder.mid_block.attentions.0.to_k.weight"),
      ("stage1_ref", "out.loss.l2_clip"), ("stage1_ref", "out.grad_norm.l1"),
      ("stage1_ref", "out.final.huber.short_filter.weight"), ("fid_ref", "out.fid"),
      ("fid_ref", "out.precision"), ("fid_ref", "out.radii_fake"), ("fid_ref", "in.probs"),
    ])
  func aChangedTensorFails(name: String, tensor: String) throws {
    let report = try run(name, changing: tensor) { values in
      // The largest entry moves by one percent.
      if let at = values.indices.max(by: { abs(values[$0]) < abs(values[$1]) }) {
        values[at] *= 1.01
      }
    }
    let result = try #require(report.results.first { $0.name == name })
    #expect(!result.passes && !report.passes)
    #expect(result.failure == nil, "it must fail by comparison")
    if !tensor.hasPrefix("in.") && !tensor.hasPrefix("param.") {
      #expect(
        result.comparisons.filter { !$0.passes }.map(\.tensor).allSatisfy { $0.hasPrefix(tensor) })
    }
  }

  @Test(.enabled(if: areAvailable, "reference files are absent"))
  func aNumberThatIsNoneFails() throws {
    let report = try run("op_mha_n16", changing: "out.y") { $0[3] = .nan }
    #expect(!report.passes)
    #expect(report.results.first?.comparisons.first { $0.tensor == "out.y" }?.error == .infinity)
    #expect(try report.json().contains("infinity"))
  }

  @Test(.enabled(if: areAvailable, "reference files are absent"))
  func sharedParametersComeFromTheNamedFile() throws {
    #expect(try run("op_mha_n64", with: ["op_mha_n16"]).passes)
    let alone = try run("op_mha_n64")
    let failure = try #require(alone.results.first?.failure)
    #expect(failure.contains("op_mha_n16.safetensors") && failure.contains("no such file"))
  }

  // MARK: - Damage

  @Test(
    .enabled(if: areAvailable, "reference files are absent"),
    arguments: [
      ("\"d\": 48", "\"d\": 44", "Wqkv.weight"), ("\"N\": 16", "\"N\": -3", "'N'"),
      ("\"num_heads\": 4", "\"num_heads\": 5", "num_heads"),
      ("\"num_heads\": 4", "\"num_heads\": \"four\"", "num_heads"),
      ("\"op\": \"swa\"", "\"operator\": \"swa\"", "'op'"), ("[4, 4]", "[-1, 4]", "window_left"),
      ("{", "", "config"),
    ])
  func damagedConfigurationsGiveOneSentence(old: String, new: String, word: String) throws {
    let report = try run(
      "op_swa_n16",
      config: { text in
        guard let range = text.range(of: old) else { return text }
        return text.replacingCharacters(in: range, with: new)
      })
    let failure = try #require(report.results.first?.failure)
    #expect(failure.contains("op_swa_n16.safetensors") && failure.contains(word))
    #expect(!failure.contains("\n") && !report.passes)
  }

  @Test(.enabled(if: areAvailable, "reference files are absent"))
  func truncatedFilesGiveOneSentence() throws {
    let whole = try Data(contentsOf: URL(filePath: Self.goldens + "/op_mha_n16.safetensors"))
    for length in [0, 5, 100, 2000, whole.count - 1] {
      try withFolder { folder in
        try whole.prefix(length).write(to: URL(filePath: folder + "/op_mha_n16.safetensors"))
        let report = try ParityReport(directory: folder)
        let failure = try #require(report.results.first?.failure, "\(length) bytes")
        #expect(failure.contains("op_mha_n16.safetensors") && !failure.contains("\n"))
      }
    }
  }

  @Test func foldersWithoutCasesAreRefused() throws {
    try withFolder { folder in
      #expect(throws: FileError.self) { try ParityReport(directory: folder) }
      #expect(throws: FileError.self) { try ParityReport(directory: folder + "/nothing") }
    }
  }

  @Test(.enabled(if: areAvailable, "reference files are absent"))
  func unknownFilesAreListedNotRun() throws {
    try withFolder { folder in
      for name in ["op_swa_n16", "something_else"] {
        try FileManager.default.copyItem(
          atPath: Self.goldens + "/op_swa_n16.safetensors", toPath: folder + "/\(name).safetensors")
      }
      let report = try ParityReport(directory: folder)
      #expect(report.passes && report.results.map(\.name) == ["op_swa_n16"])
      #expect(report.unsupported.map(\.name) == ["something_else"])
      #expect(report.closing.contains("1 of 1 supported cases pass, 1 not supported"))
    }
  }

  /// A folder of one family by itself has the cases that it has as a part of all.
  @Test(
    .enabled(if: areAvailable), arguments: ["metrics", "geneval"])
  func foldersOfFamiliesRunAlone(folder: String) throws {
    let report = try ParityReport(directory: "\(Self.goldens)/\(folder)/")
    let names = Self.required.filter { $0.hasPrefix(folder) }
    #expect(report.passes && report.unsupported.isEmpty)
    #expect(!names.isEmpty && Set(report.results.map(\.name)).isSuperset(of: names))
  }
}
