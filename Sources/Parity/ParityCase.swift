/// Runs one family of reference files through the engine.
struct ParityCase: Sendable {
  /// Prefix of the file names.
  let prefix: String
  /// Returns the reason why a file of the family is not supported; nil if it is.
  let refusal: @Sendable (Fixture) throws -> String?
  /// Runs the engine and compares.
  let run: @Sendable (ParityCheck) throws -> Void
  /// Whether it can also be run in bfloat16.
  var hasRounding = false
  /// Runs a family that is a folder; nil for families of fixtures.
  var runFolder: (@Sendable (_ name: String, _ path: String) -> ParityResult)?

  /// Makes a family of fixtures.
  init(
    _ prefix: String, hasRounding: Bool = false,
    refusal: @escaping @Sendable (Fixture) throws -> String? = { _ in nil },
    run: @escaping @Sendable (ParityCheck) throws -> Void
  ) {
    self.prefix = prefix
    self.refusal = refusal
    self.run = run
    self.hasRounding = hasRounding
  }

  /// Makes a family that is a folder of files other than fixtures.
  static func folder(
    _ prefix: String, run: @escaping @Sendable (_ name: String, _ path: String) -> ParityResult
  ) -> ParityCase {
    var family = ParityCase(prefix, run: { _ in })
    family.runFolder = run
    return family
  }

  /// All families; the longest matching prefix decides.
  static let all: [ParityCase] = [
    ParityCase(
      "op_", hasRounding: true, refusal: OperatorCases.refusal,
      run: OperatorCases.run),
    ParityCase("dit_tiny", hasRounding: true, run: DiTCases.model),
    ParityCase(
      "dit_hybrid", hasRounding: true, refusal: DiTCases.hybridRefusal, run: DiTCases.hybrid),
    ParityCase(
      "diffusion_schedule", refusal: DiffusionCases.scheduleRefusal, run: DiffusionCases.schedule),
    ParityCase("diffusion_losses", run: DiffusionCases.losses),
    ParityCase("diffusion_psample", run: SamplerCases.ancestral),
    ParityCase("diffusion_ddim", run: SamplerCases.ddim),
    ParityCase("diffusion_dpmpp", run: SolverCases.run),
    ParityCase("pixart_tiny", hasRounding: true, run: PixArtCases.run),
    ParityCase("vae_tiny", hasRounding: true, run: AutoencoderCases.run),
    ParityCase("stage1_ref", refusal: Stage1Cases.refusal, run: Stage1Cases.run),
    ParityCase("stage2_ref", refusal: DiTCases.hybridRefusal, run: Stage2Cases.run),
    ParityCase("analysis_ref", run: AnalysisCases.statistics),
    ParityCase("fid_ref", run: AnalysisCases.featureMetrics),
    ParityCase("dit_diffusers", run: DiffusersCases.run),
    .folder("pt_formats", run: FormatCases.run),
    ParityCase("t5/", hasRounding: true, run: TextCases.encoder),
    .folder("geneval", run: GenEvalCases.run),
    .folder("sentencepiece", run: TextCases.tokenizers),
    ParityCase("sit/model", hasRounding: true, run: SiTCases.model),
    ParityCase("sit/paths", run: SiTCases.paths),
    ParityCase("sit/sampling", run: SiTCases.sampling),
    ParityCase("metrics/features", run: MetricCases.features),
    ParityCase("metrics/edges", run: MetricCases.edges),
    ParityCase("metrics/adm_npz", run: MetricCases.references),
    ParityCase("inception/inception", run: MetricCases.inception),
    ParityCase("pixart_pipeline/", run: PipelineCases.run),
    .folder("pixart_pipeline", run: PipelineCases.bins),
  ]

  /// Whether a folder of this name holds fixtures.
  static func hasFixtures(_ folder: String) -> Bool {
    all.contains { $0.prefix.hasPrefix("\(folder)/") }
  }

  /// The family of a file, or `nil`.
  static func family(of name: String) -> ParityCase? {
    all.filter { name.hasPrefix($0.prefix) }.max { $0.prefix.count < $1.prefix.count }
  }
}
