/// How one family of reference files is run through the engine.
struct ParityCase: Sendable {
  /// Beginning of the names of its files.
  let prefix: String
  /// Why this build cannot run a file of the family, or `nil` if it can.
  let refusal: @Sendable (Fixture) throws -> String?
  /// Runs the engine and compares.
  let run: @Sendable (ParityCheck) throws -> Void
  /// Why a family that is a folder is not run; nil for files.
  var folderReason: String?

  /// A family that this build runs.
  init(
    _ prefix: String, refusal: @escaping @Sendable (Fixture) throws -> String? = { _ in nil },
    run: @escaping @Sendable (ParityCheck) throws -> Void
  ) {
    self.prefix = prefix
    self.refusal = refusal
    self.run = run
  }

  /// A family that this build does not run yet.
  static func unsupported(_ prefix: String, _ reason: String) -> ParityCase {
    ParityCase(prefix, refusal: { _ in reason }, run: { _ in })
  }

  /// A folder that this build does not run yet.
  static func unsupportedFolder(_ prefix: String, _ reason: String) -> ParityCase {
    var family = unsupported(prefix, reason)
    family.folderReason = reason
    return family
  }

  /// All families; the longest matching prefix decides.
  static let all: [ParityCase] = [
    ParityCase("op_", refusal: OperatorCases.refusal, run: OperatorCases.run),
    ParityCase("dit_tiny", run: DiTCases.model),
    ParityCase("dit_hybrid", refusal: DiTCases.hybridRefusal, run: DiTCases.hybrid),
    ParityCase(
      "diffusion_schedule", refusal: DiffusionCases.scheduleRefusal, run: DiffusionCases.schedule),
    ParityCase("diffusion_losses", run: DiffusionCases.losses),
    ParityCase("diffusion_psample", run: SamplerCases.ancestral),
    ParityCase("diffusion_ddim", run: SamplerCases.ddim),
    ParityCase("vae_tiny", run: AutoencoderCases.run),
    ParityCase("stage1_ref", refusal: Stage1Cases.refusal, run: Stage1Cases.run),
    ParityCase("analysis_ref", run: AnalysisCases.statistics),
    ParityCase("fid_ref", run: AnalysisCases.frechetDistance),
    .unsupported("diffusion_dpmpp", "there is no DPM-Solver++ sampler yet"),
    .unsupported("dit_diffusers", "DiT weights in the naming of diffusers are not read yet"),
    .unsupported("pixart_tiny", "there is no PixArt model yet"),
    .unsupportedFolder("pt_formats", "PyTorch archives are not read yet"),
    .unsupported("stage2_ref", "finetuning of the hybrid model needs operator mlp_hyena_x"),
  ]

  /// The family of a file, or `nil`.
  static func family(of name: String) -> ParityCase? {
    all.filter { name.hasPrefix($0.prefix) }.max { $0.prefix.count < $1.prefix.count }
  }
}
