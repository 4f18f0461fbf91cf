import ArgumentParser
import Foundation
import Grafting
import Runs

/// The version that runs and files record.
let espalierVersion = "0.1.0"

/// What a model argument may be.
let modelHelp: ArgumentHelp =
  "demo, the path of a DiT's weights (.safetensors, .pt), a folder of diffusers, or DiT-XL/2."

/// `--json` on every command.
struct OutputOptions: ParsableArguments {
  @Flag(help: "Print the result as JSON on standard output.")
  var json = false

  /// Prints a value as JSON with stable keys.
  func printJSON(_ value: some Encodable) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    encoder.keyEncodingStrategy = .convertToSnakeCase
    encoder.nonConformingFloatEncodingStrategy = .convertToString(
      positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
    print(String(decoding: try encoder.encode(value), as: UTF8.self))
  }
}

/// Where runs live.
struct RunsOptions: ParsableArguments {
  @Option(help: "Directory of the runs (default: $ESPALIER_RUNS, else the XDG state directory).")
  var runs: String?

  /// The directory, made absolute so that a detached worker finds it.
  var root: String {
    URL(fileURLWithPath: runs ?? RunDirectory.defaultRoot()).standardizedFileURL.path
  }
}

/// Sampler settings that several commands share.
struct SamplerOptions: ParsableArguments {
  @Option(help: "Denoising steps.")
  var steps = 25

  @Option(help: "Classifier-free guidance scale; 1 is none.")
  var guidance: Float = 2

  @Option(help: "Seed of the start noise.")
  var seed: UInt64 = 0

  @Option(help: "Sampler: ddim, ancestral or dpmpp (DPM-Solver++ 2M).")
  var sampler = LatentSampler.Method.ddim

  @Option(help: "Share of ancestral noise in ddim, 0 to 1.")
  var eta = 0.0

  func validate() throws {
    guard (1...1000).contains(steps) else {
      throw ValidationError("--steps is \(steps); give 1 to 1000")
    }
    guard guidance.isFinite else { throw ValidationError("--guidance must be a finite number") }
    guard (0...1).contains(eta) else { throw ValidationError("--eta is \(eta); give 0 to 1") }
    guard eta == 0 || sampler == .ddim else {
      throw ValidationError("--eta belongs to --sampler ddim, not to \(sampler.rawValue)")
    }
  }

  /// The sampler.
  var latentSampler: LatentSampler {
    LatentSampler(method: sampler, steps: steps, guidance: guidance, seed: seed, eta: eta)
  }
}

extension LatentSampler.Method: ExpressibleByArgument {}

/// A number in a table: four significant digits.
func short(_ value: Double) -> String { String(format: "%.4g", value) }

/// A fraction as a percentage.
func percent(_ value: Double) -> String { String(format: "%.1f %%", value * 100) }

/// A relative change as a signed percentage.
func change(_ value: Double, from base: Double) -> String {
  base == 0 ? "n/a" : String(format: "%+.2f %%", (value / base - 1) * 100)
}
