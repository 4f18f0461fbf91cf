import ArgumentParser
import Checkpoints
import Files
import Foundation
import Models
import Plans
import Runs

/// `espalier convert`: writes a model in another format or naming.
struct ConvertCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "convert",
    abstract: "Write a model, or a plan's graft of it, in another file format or naming.",
    discussion: """
      A name that ends in .pt, .pth, .bin or .ckpt gets a PyTorch archive that torch.load reads with \
      weights_only, and its configuration in NAME.json beside it; .safetensors a safetensors file. With \
      --naming diffusers any other name becomes a pipeline folder. diffusers itself divides the \
      timesteps' exponents by 127, the official model by 128; Espalier keeps to the model it converted.
      """)

  @Argument(help: .init(modelHelp)) var model = "demo"
  @OptionGroup var family: FamilyOption
  @OptionGroup var graft: GraftOptions
  @Option(help: "The file or folder to write.") var to: String
  @Flag(help: "Write the replaced slots of --plan with fresh, untrained weights.") var fresh = false
  @Option(help: "Names of the parameters: official or diffusers.") var naming = DiTNaming.official
  @Option(help: "Type of the numbers: f32, f16 or bf16.") var dtype = StoredType.f32
  @Option(
    help: .init(
      "Entry of a PyTorch archive to put the state dict under: ema is what the official samplers read,"
        + " of grafts too."))
  var entry: String?
  @Option(help: "Number of attention heads, if the file does not determine it.") var heads: Int?
  @OptionGroup var output: OutputOptions

  /// The types that can be written.
  enum StoredType: String, ExpressibleByArgument, CaseIterable {
    case f32, f16, bf16

    var dtype: DType {
      switch self {
      case .f32: .f32
      case .f16: .f16
      case .bf16: .bf16
      }
    }
  }

  func validate() throws {
    try require("--heads", heads, in: 1...4096)
    guard entry.map({ !$0.isEmpty && !$0.contains(".") }) ?? true else {
      throw ValidationError("--entry is '\(entry ?? "")'; give a name without dots, such as ema")
    }
    guard !fresh || graft.plan != nil && graft.weights == nil else {
      throw ValidationError("--fresh needs --plan without --weights")
    }
    guard entry == nil || ModelWriter.isTorch(to) else {
      throw ValidationError(
        "--entry belongs to a PyTorch archive; end --to in .pt, .pth, .bin or .ckpt")
    }
  }

  func run() throws {
    let source = try ModelFiles(family.name(of: model), numHeads: heads)
    let model = try graft.model(source, tellsFresh: false)
    if !fresh, graft.weights == nil, let plan = graft.plan {
      let sites = try model.untrained()
      guard sites.isEmpty else {
        let list = PlanWeights.list(sites, depth: source.model.shape.depth)
        throw ValidationError(
          "\(plan): without --weights its replaced slots would be written with random weights (\(list)); name the run"
            + " that trained them, or add --fresh")
      }
    }
    let (network, metadata) = try model.load()
    if dtype == .f16 { Self.warnOfOverflow(in: network) }
    // All files are written, or none.
    let files = try AtomicFile.together {
      let files = try ModelWriter.write(
        network, metadata: metadata, classNames: source.model.classNames,
        as: .init(naming: naming, dtype: dtype.dtype, entry: entry), to: to)
      guard DiffusersFolder.isFolder(to), let autoencoder = source.autoencoderPath else {
        return files
      }
      return files + (try ModelWriter.writeAutoencoder(autoencoder, to: "\(to)/vae"))
    }
    if let folder = source.textEncoderPath, DiffusersFolder.isFolder(to) {
      try ModelWriter.copyTextEncoder(from: folder, to: to)
    }
    if naming == .diffusers {
      warnOfNullLabel(network.shape)
      try warnOfOperators(source.model, metadata)
    }
    if output.json { return try output.printJSON(["files": files]) }
    for file in files { print(file) }
  }

  /// Warns if diffusers' pipeline, which has 1000 as the label of no class, would guide by another row.
  private func warnOfNullLabel(_ shape: ModelShape) {
    guard shape.family.condition == .classes, shape.nullClass != 1000 else { return }
    let own = shape.nullClass.map { "is \($0)" } ?? "does not exist"
    printToStandardError(
      "espalier: warning: diffusers' DiTPipeline always uses the label 1000 for no class, which here \(own);"
        + " call its transformer yourself, or use guidance_scale 1\n")
  }

  /// Warns if diffusers, which builds the pretrained operators alone, would not build the model's.
  private func warnOfOperators(_ file: any ModelFile, _ metadata: [String: String]) throws {
    let plan = try metadata[DiTFile.planKey].map { try GraftPlan.parse($0, file: file.path) }
    let edits = plan?.edits ?? file.changes.edits
    guard !edits.isEmpty else { return }
    let names = Set(edits.values.map(\.name)).sorted().joined(separator: ", ")
    printToStandardError(
      "espalier: warning: diffusers has no \(names); put them into \(edits.count) places of its transformer before"
        + " it loads the weights (Tests/Reference/pixart_pipeline.py does)\n")
  }

  /// Warns about weights that overflow in float16, whose maximum is 65504.
  private static func warnOfOverflow(in network: any DiffusionTransformer) {
    var (count, first): (Int, String?) = (0, nil)
    for parameter in network.parameters {
      // Values from half a step above the maximum round to infinity.
      let own = parameter.value.values.count { abs($0) >= 65520 }
      if own > 0, first == nil { first = parameter.name }
      count += own
    }
    guard let first else { return }
    printToStandardError(
      "espalier: warning: \(count) numbers are too large for float16 and become infinite, the first in"
        + " '\(first)'; use --dtype bf16 or f32\n")
  }
}

extension DiTNaming: ExpressibleByArgument {}
