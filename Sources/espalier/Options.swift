import ArgumentParser
import Files
import Foundation
import Plans
import Models
import Reports
import Runs
import Sampling
import TensorCore

/// Version recorded in runs and files.
let espalierVersion = "0.2.0"

/// Help text of a model argument.
let modelHelp =
  "demo, the path of weights of a DiT, SiT, LightningDiT or PixArt-Σ (.safetensors, .pt, .pth), a folder of diffusers,"
  + " DiT-XL/2 or SiT-XL/2."
  + " FILE#ENTRY takes an entry of a training checkpoint, such as ema or model; sit:FILE takes a file for a SiT."

/// `--json` on every command.
struct OutputOptions: ParsableArguments {
  @Flag(help: "Print the result as JSON on standard output.")
  var json = false

  /// Prints a value as JSON with stable keys.
  func printJSON(_ value: some Encodable) throws {
    let encoder = JSONEncoder.sorted(isPretty: true, snakeCase: true)
    print(json: String(decoding: try encoder.encode(value), as: UTF8.self))
  }
}

/// Throws a usage error if the value of an option is given and out of its range.
func require<Value: Comparable>(
  _ option: String, _ value: Value?, in range: ClosedRange<Value>
) throws {
  guard let value, !range.contains(value) else { return }
  throw ValidationError("\(option) is \(value); give \(range.lowerBound) to \(range.upperBound)")
}

extension Precision: ExpressibleByArgument {}

/// Precision of large matrix products and convolutions.
struct PrecisionOptions: ParsableArguments {
  enum Choice: String, CaseIterable, ExpressibleByArgument { case auto, fp32, bf16, int8 }

  @Option(
    help: ArgumentHelp(
      "What large matrix products and convolutions multiply in; sums are float32. auto is bf16 on"
        + " CPUs that have it, elsewhere fp32; where bf16 is asked for and the CPU has none it is emulated, slowly."
        + " int8 is for sample and evaluate alone: products of linear layers in 8-bit integers, the rest as in bf16."
    ))
  var precision = Choice.auto

  /// The precision given; nil for the fastest of the CPU.
  var chosen: Precision? { Precision(rawValue: precision.rawValue) }

  /// Refuses 8-bit integers in jobs that do not have them.
  func require(for kind: Job.Kind) throws {
    guard chosen == .int8, !kind.hasInt8 else { return }
    throw ValidationError(
      "--precision int8: it is for sample and evaluate alone; give fp32 or bf16")
  }

  /// The precision given, or the fastest of the CPU.
  var working: Precision { chosen ?? .fastest }
}

/// Root directory of runs.
struct RunsOptions: ParsableArguments {
  @Option(help: "Directory of the runs (default: $ESPALIER_RUNS, else the XDG state directory).")
  var runs: String?

  func validate() throws {
    var isFolder: ObjCBool = false
    guard FileManager.default.fileExists(atPath: root, isDirectory: &isFolder), !isFolder.boolValue
    else { return }
    throw ValidationError("\(root): is a file, not a directory of runs; give another by --runs")
  }

  /// Absolute path of the directory, also valid for detached workers.
  var root: String {
    AtomicFile.absolute(runs ?? RunDirectory.defaultRoot())
  }
}

/// Sampler settings of several commands; defaults depend on the family of the model.
struct SamplerOptions: ParsableArguments {
  @Option(help: "Denoising steps (default: 25; for a PixArt model 20).")
  var steps: Int?

  @Option(
    help:
      "Classifier-free guidance scale; 1 is none (default: DiT 2, SiT 1.5, LightningDiT 6.7, PixArt 4.5)."
  )
  var guidance: Float?

  @Option(help: "Seed of the start noise.")
  var seed: UInt64 = 0

  @Option(
    help: .init(
      "Sampler: ddim, ancestral or dpmpp (DPM-Solver++ 2M); for a SiT or LightningDiT euler, heun, sde or sde-heun (default: DiT"
        + " ddim, SiT and LightningDiT heun, PixArt dpmpp).")
  )
  var sampler: LatentSampler.Method?

  @Option(help: "Share of ancestral noise in ddim, 0 to 1.")
  var eta = 0.0

  @Option(
    help: .init(
      "Diffusion coefficient of sde: \(Interpolant.Diffusion.allCases.map(\.rawValue).joined(separator: ", "))."
    ))
  var diffusionForm = Interpolant.Diffusion.sigma

  @Option(help: "Norm of the diffusion coefficient of sde.") var diffusionNorm = 1.0

  @Option(help: "Last step of sde: mean, euler, tweedie or none.")
  var lastStep = VelocitySampler.LastStep.mean

  @Option(help: "Length of the last step of sde, more than 0 and less than 1.")
  var lastStepSize = 0.04

  @Option(
    help: .init(
      "Leading latent channels that guidance acts on (default: as the model's own pipeline, 3 for the"
        + " official DiT, all for diffusers and for DPM-Solver++ on PixArt)."))
  var guidedChannels: Int?

  @Option(
    help: .init(
      "Time of a SiT or LightningDiT, 0 (noise) to 1, from which guidance acts (default: LightningDiT .125, else 0)."
    ))
  var guidanceLow: Double?

  @Option(help: "Time until which guidance acts (default: 1).") var guidanceHigh: Double?

  @Option(
    help: .init(
      "Shift s of the times of euler and heun, t -> s t / (1 + (s - 1) t): below 1 more steps are near the noise"
        + " (default: LightningDiT .3, else 1)."))
  var timeShift: Double?

  @Option(
    help: .init(
      "Step caching: skip all blocks but the first where its residual has changed less than this, relative to its"
        + " size, since the last step that ran all; 0 skips none, .05 to .3 are usual (default: none).",
      valueName: "threshold"))
  var cache: Double?

  @Flag(help: "With --cache: extrapolate what is reused from the last two computed steps.")
  var cacheForecast = false

  func validate() throws {
    try require("--cache", cache, in: StepCache.thresholds)
    guard cache != nil || !cacheForecast else {
      throw ValidationError("--cache-forecast needs --cache")
    }
    try require("--steps", steps, in: 1...1000)
    guard guidance.map(\.isFinite) ?? true else {
      throw ValidationError("--guidance must be a finite number")
    }
    try require("--guided-channels", guidedChannels, in: 1...4096)
    try require("--eta", eta, in: 0...1)
    try require("--guidance-low", guidanceLow, in: 0...1)
    try require("--guidance-high", guidanceHigh, in: 0...1)
    if let guidanceLow, let guidanceHigh, guidanceLow > guidanceHigh {
      throw ValidationError(
        "--guidance-low is \(guidanceLow), more than --guidance-high \(guidanceHigh); exchange them"
      )
    }
    try require("--time-shift", timeShift, in: 0.001...1000)
    guard diffusionNorm > 0, diffusionNorm.isFinite else {
      throw ValidationError("--diffusion-norm is \(diffusionNorm); give a positive number")
    }
    guard lastStepSize > 0, lastStepSize < 1 else {
      throw ValidationError(
        "--last-step-size is \(lastStepSize); give more than 0 and less than 1")
    }
  }

  /// Makes the sampler with the defaults of a family.
  func latentSampler(of family: ModelFamily) throws -> LatentSampler {
    let defaults = LatentSampler.defaults(of: family)
    let method = sampler ?? defaults.method
    let methods = LatentSampler.Method.fitting(family.prediction)
    guard methods.contains(method) else {
      throw ValidationError(
        "--sampler \(method.rawValue) is not for a \(family.title); choose one of"
          + " \(methods.map(\.rawValue).joined(separator: ", "))")
    }
    let isPlain =
      diffusionForm == .sigma && diffusionNorm == 1 && lastStep == .mean && lastStepSize == 0.04
    guard method.isStochastic || isPlain else {
      throw ValidationError(
        "--diffusion-form, --diffusion-norm, --last-step and --last-step-size belong to --sampler sde or sde-heun"
      )
    }
    // That coefficient of the linear path is infinite at its start.
    guard diffusionForm != .scoreBased else {
      throw ValidationError(
        "--diffusion-form SBDM is infinite at the start of the linear path; choose another")
    }
    guard method.prediction == .velocity || (guidanceLow ?? guidanceHigh ?? timeShift) == nil else {
      throw ValidationError(
        "--guidance-low, --guidance-high and --time-shift are for models that predict velocities, and not for a"
          + " \(family.title); leave them out")
    }
    guard !method.isStochastic || timeShift == nil else {
      throw ValidationError(
        "--time-shift belongs to --sampler euler or heun, not to \(method.rawValue)")
    }
    guard eta == 0 || method == .ddim else {
      throw ValidationError("--eta belongs to --sampler ddim, not to \(method.rawValue)")
    }
    var sampler = LatentSampler(
      method: method, steps: steps ?? defaults.steps, guidance: guidance ?? defaults.guidance,
      seed: seed, eta: eta, guidedChannels: guidedChannels)
    let interval = defaults.guidanceInterval
    let high = guidanceHigh ?? interval.upperBound
    let low = guidanceLow ?? min(interval.lowerBound, high)
    sampler.guidanceInterval = low...max(low, high)
    sampler.timeShift = timeShift ?? (method.isStochastic ? 1 : defaults.timeShift)
    sampler.diffusion = (diffusionForm, diffusionNorm)
    sampler.lastStep = (lastStep, lastStepSize)
    sampler.cache = cache.map { StepCache(threshold: $0, forecasts: cacheForecast) }
    return sampler
  }

  /// Makes the sampler of a model.
  ///
  /// - Throws: `ValidationError` for guidance of a model without a null class.
  func latentSampler(for config: ModelShape) throws -> LatentSampler {
    guard
      config.family.condition == .captions || config.hasNullClass || guidance == nil
        || guidance == 1
    else {
      throw ValidationError(
        "--guidance is \(guidance ?? 0), but the model has no label for \"no class\" to guide away from;"
          + " leave it out")
    }
    return try latentSampler(of: config.family)
  }
}

extension LatentSampler.Method: ExpressibleByArgument {}
extension Interpolant.Diffusion: ExpressibleByArgument {}
extension VelocitySampler.LastStep: ExpressibleByArgument {}

/// Formats a number with four significant digits.
func short(_ value: Double) -> String { Figures.short(value) }

/// A fraction as a percentage.
func percent(_ value: Double) -> String { Figures.percent(value) }

/// A relative change as a signed percentage.
func change(_ value: Double, from base: Double) -> String { Figures.change(value, from: base) }
