import ArgumentParser
import Autograd
import Evaluation
import Foundation
import Models
import Sampling
import TensorCore
import Text

/// `espalier evaluate`: metrics of a model's samples from the judge.
struct EvaluateCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "evaluate",
    abstract: "Judge a model's samples, or a set of images: FID, sFID, precision, recall, scores.",
    discussion: """
      MODEL may be a set of images, an .npz with arr_0 as sample --npz writes it or a folder of PNG and \
      JPEG files, which is compared with --reference in features of Inception v3: FID, sFID, inception \
      score, precision, recall, KID and sliced Wasserstein distance as ADM's evaluator and \
      torch-fidelity compute them, with their provenance. Features are kept in the cache, so that an \
      interrupted evaluation goes on where it was. For a model:

      The judge is a small classifier beside the model. Agreement, and Fréchet distance, precision, \
      recall and score in its features, stand in for Inception metrics on the shipped model; they \
      are not comparable to them.
      """)

  @OptionGroup var source: ModelOptions
  @Option(help: "Number of samples, balanced over the classes.") var samples = 1000
  @OptionGroup var sampling: SamplerOptions
  @OptionGroup var precision: PrecisionOptions
  @Option(
    help: .init(
      "Compare each sample with that of this model from the same noise, its teacher for example: the paired"
        + " distance, which needs far fewer samples than a distance of sets."))
  var paired: String?
  @OptionGroup var set: SetOptions
  @OptionGroup var output: OutputOptions

  func validate() throws { try require("--samples", samples, in: 10...1_000_000) }

  func run() throws {
    if set.features || ImageSet.isSet(source.model) { return try set.run(source.model, output) }
    guard set.reference == nil else {
      throw ValidationError(
        "--reference belongs to a set of images, and \(source.model) is none; draw one with sample --npz"
      )
    }
    let files = try ModelFiles(source.name)
    if let paired { return try compare(files, with: try ModelFiles(paired)) }
    let judge = try files.judge()
    let network = try source.graft.load(files, forInference: precision.working)
    let console = ProgressLine()
    let result = try Evaluation.run(
      network,
      autoencoder: try files.autoencoder(precision.working), judge: judge,
      sampler: try sampling.latentSampler(for: files.model.shape), samples: samples
    ) { done in
      console.update("judged \(done)/\(samples)")
    }
    console.finish()
    if output.json { return try output.printJSON(result) }
    print("samples                 \(result.samples)")
    print("large products in       \(precision.working.rawValue)")
    if let use = result.stepCache { print("step caching            \(use.text)") }
    print("agreement (judge)       \(percent(result.agreement))")
    print("Fréchet distance (judge) \(short(result.frechetDistance))")
    print("  floor, two fresh sets \(short(result.frechetFloor))")
    print("precision (judge, k = 3) \(percent(result.precision))")
    print("recall (judge, k = 3)   \(percent(result.recall))")
    print("score (judge)           \(short(result.judgeScore))")
    print("judge on fresh images   \(percent(result.judgeAccuracy))")
    printAgreement(result, files.model.classNames)
  }

  /// Prints the paired distance of a model from another one.
  private func compare(_ files: ModelFiles, with other: ModelFiles) throws {
    let (config, otherConfig) = (files.model.shape, other.model.shape)
    guard
      (config.inChannels, config.inputSize, config.numClasses)
        == (otherConfig.inChannels, otherConfig.inputSize, otherConfig.numClasses)
    else {
      throw ValidationError(
        "--paired is \(other.modelPath), whose latents or classes are others than those of \(files.modelPath)"
      )
    }
    let sampler = try sampling.latentSampler(for: config)
    let graft = try source.graft.load(files, forInference: precision.working)
    let teacher = try other.model.network(forInference: precision.working)
    let judge = try? files.judge()
    let autoencoder = try judge.map { _ in try files.autoencoder(precision.working) }
    let conditions = try files.exampleConditions(samples, precision.working).conditions
    // What it is compared with computes every step.
    var plain = sampler
    plain.cache = nil
    let reuse = StepReuse()
    func drawn(
      _ model: any DiffusionTransformer, _ sampler: LatentSampler, _ reuse: StepReuse? = nil
    ) -> PairedDistance.Source {
      { range in
        try sampler.sample(
          model, for: conditions.rows(range), first: range.lowerBound, reuse: reuse)
      }
    }
    let console = ProgressLine()
    var result = try PairedDistance.measure(
      teacher: drawn(teacher, plain), graft: drawn(graft, sampler, reuse), samples: samples,
      features: judge.flatMap { judge in
        autoencoder.map { autoencoder in
          { judge(AutoencoderKL.tensor(autoencoder.rgbImages(ofScaled: $0))).features }
        }
      }, progress: { console.update("compared \($0)/\(samples)") })
    console.finish()
    result.stepCache = sampler.cache.map { .init($0, reuse) }
    if output.json { return try output.printJSON(result) }
    func text(_ estimate: PairedDistance.Estimate) -> String {
      "\(short(estimate.value)) ± \(short(estimate.standardError))"
    }
    print("pairs                  \(result.samples)")
    if let use = result.stepCache { print("step caching           \(use.text)") }
    print(
      "paired distance        \(text(result.latents)) (latents, relative to the teacher's spread)")
    if let features = result.features {
      print("                       \(text(features)) (judge's features)")
    }
  }

  private func printAgreement(_ result: Evaluation, _ names: [String]) {
    for (label, value) in result.agreementByClass.enumerated() {
      let name = label < names.count ? names[label] : "class \(label)"
      print("  \(TextWidth.pad(name, 14)) \(percent(value))")
    }
  }
}
