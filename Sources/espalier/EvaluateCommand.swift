import ArgumentParser
import Evaluation
import Files
import Foundation
import Jobs
import Models
import Plans
import Reports
import Runs
import Sampling

/// `espalier evaluate`: numbers that judge a set of images, features or a model.
struct EvaluateCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "evaluate",
    abstract: "Judge a model's samples, or a set of images: FID, sFID, precision, recall, scores.",
    discussion: """
      MODEL may be a set of images: an .npz with arr_0 as sample --npz writes it, the run that draws it, or \
      a folder of PNG and JPEG files. It is compared with --reference in features of Inception v3: FID, \
      sFID, inception score, precision, recall, KID and sliced Wasserstein distance as ADM's evaluator and \
      torch-fidelity compute them.

      A graft, or the run that trains it, is compared with its teacher: both draw from the same noise, and \
      the squared distance of the samples relative to the teacher's spread needs far fewer of them than a \
      distance of sets. --judge instead judges its own samples, as those of a pretrained model, by the small \
      classifier beside the shipped model; its measures are not comparable to Inception's.

      An evaluation is a run, and goes on after a failure with 'espalier runs resume'. Every number comes \
      with how it was obtained; 'espalier compare' shows evaluations beside each other.
      """)

  @OptionGroup var source: ModelOptions
  @Option(
    help: .init("Number of samples, balanced over the classes (default: 1000, of pairs 200)."))
  var samples: Int?
  @OptionGroup var sampling: SamplerOptions
  @OptionGroup var options: LaunchOptions
  @Option(
    help: .init(
      "Compare each sample with that of this model from the same noise (default for a graft: its teacher)."
    ))
  var paired: String?
  @Flag(help: "Judge a graft's own samples instead of comparing them with its teacher's.")
  var judge = false
  @OptionGroup var set: SetOptions
  @Option(help: "Also write the numbers as an HTML page to this file.") var page: String?
  @OptionGroup var output: OutputOptions

  func validate() throws {
    try require("--samples", samples, in: 2...1_000_000)
    guard !judge || paired == nil else {
      throw ValidationError("give --judge or --paired, not both")
    }
  }

  func run() throws {
    if let page { try AtomicFile.requireDestination(page) }
    let name = source.model
    if set.features || set.statistics != nil || ImageSet.isSet(name) {
      return try launch(try set.request(name), named: AtomicFile.stem(of: name))
    }
    if let run = try namedRun(), case .sample = try run.request().job {
      return try launch(
        try set.request(try run.finishedSet()), named: try run.request().name,
        modelHash: try run.request().modelHash)
    }
    guard set.reference == nil else {
      throw ValidationError(
        "--reference belongs to a set of images, and \(name) is none; draw one with sample --npz")
    }
    let model = try self.model()
    let files = model.files
    var request = EvaluateRequest(.judged)
    request.model = model.source
    request.sampler = try sampling.latentSampler(for: files.model.shape).settings
    if let teacher = try teacher(of: model) {
      request.subject = .paired
      request.teacher = ModelSource(path: teacher.name)
      if set.inception != nil || files.judgePath == nil { request.inception = try? set.weights() }
    } else {
      _ = try files.judge()
    }
    request.count = samples ?? (request.subject == .paired ? 200 : 1000)
    if request.subject == .judged, request.count < 10 {
      throw ValidationError("--samples is \(request.count); give 10 to 1000000")
    }
    try launch(
      request, named: model.plan?.name ?? AtomicFile.stem(of: files.name),
      modelHash: try files.contentHash(), plan: model.plan)
  }

  /// The run that the argument names; nil if it is no run.
  private func namedRun() throws -> RunDirectory? {
    let (name, root) = (source.model, source.graft.runs.root)
    if name.contains("/") { return try? RunDirectory.open(name) }
    guard !ModelWeights.exists(name), !RunSelection.matches(of: name, root: root).isEmpty else {
      return nil
    }
    return try RunSelection.find(name, root: root)
  }

  /// The model that the argument names: a file, or the graft of a training.
  private func model() throws -> SourceModel {
    guard let run = try namedRun() else {
      return try source.graft.model(try ModelFiles(source.name))
    }
    let weights = try run.trainedWeights()
    let plan = try GraftPlan.load(path: run.planPath)
    let files = try ModelFiles(plan.model.path)
    try plan.check(against: files, file: run.planPath)
    var source = ModelSource(path: files.name)
    (source.planPath, source.weights, source.allowsFresh) = ("plan.json", [weights], false)
    return SourceModel(files, source, plan: plan, checkpoints: [weights])
  }

  /// What a graft is compared with; nil for a model that is judged by itself.
  private func teacher(of model: SourceModel) throws -> ModelFiles? {
    guard !judge else { return nil }
    let (files, own) = (model.files, model.files.model.plan?.model.path)
    let name = paired ?? (model.plan == nil ? own : model.source.isBareGraft ? nil : files.name)
    guard let name else { return nil }
    guard paired != nil || ModelWeights.exists(name) else {
      throw FileError(
        "\(files.modelPath): its teacher \(name) is not there any more; name it with --paired, or give --judge"
      )
    }
    let teacher = try ModelFiles(name)
    let (one, other) = (files.model.shape, teacher.model.shape)
    guard
      (one.inChannels, one.inputSize, one.numClasses)
        == (other.inChannels, other.inputSize, other.numClasses)
    else {
      throw ValidationError(
        "--paired is \(teacher.modelPath), whose latents or classes are others than those of \(files.modelPath)"
      )
    }
    return teacher
  }

  private func launch(
    _ request: EvaluateRequest, named name: String, modelHash: String = "", plan: GraftPlan? = nil
  ) throws {
    let run = try options.begin(
      .evaluate(request), named: name, modelHash: modelHash, plan: plan,
      root: source.graft.runs.root)
    guard options.follows else {
      if output.json { return try output.printJSON(["run": run.path]) }
      return print(run.path)
    }
    try RunReport.follow(run, output: output, tellsDone: false, tellsMessages: false)
    guard request.subject != .statistics else {
      if output.json { return try output.printJSON(["statistics": set.statistics ?? ""]) }
      return print("\(set.statistics ?? ""): statistics")
    }
    let bytes = try AtomicFile.read(run.evaluationPath, limit: 16 << 20)
    if let page {
      try ReportPage([], evaluations: [(name, try EvaluationReport(in: run))]).write(to: page)
    }
    if output.json {
      // The file ends in a line break, and so does what is printed.
      return print(json: String(decoding: bytes.dropLast(), as: UTF8.self))
    }
    let table = try EvaluationTable([(name, try EvaluationReport(in: run))])
    print(lines: table.lines.joined(separator: "\n"))
    if case .judged(let numbers) = try EvaluationReport(in: run).numbers {
      let names = try self.model().files.model.classNames
      for (label, value) in numbers.agreementByClass.enumerated() {
        print("  \(label < names.count ? names[label] : "class \(label)")  \(percent(value))")
      }
    }
  }
}

extension EvaluationReport {
  /// Reads the numbers of a finished evaluation.
  ///
  /// - Throws: `FileError` for a run without them.
  init(in run: RunDirectory) throws {
    let path = run.evaluationPath
    let bytes = Data(try AtomicFile.read(path, limit: 16 << 20))
    do {
      self = try JSONDecoder.snakeCase.decode(EvaluationReport.self, from: bytes)
    } catch {
      throw FileError("\(path): holds no numbers of this version; evaluate again")
    }
  }
}
