import Files
import Foundation

/// Job of a worker.
package enum Job: Equatable, Sendable {
  /// Stage 1 of the plan in the run directory; `planPath` is relative to that directory.
  case distill(planPath: String)
  /// Stage 2 of the plan in the run directory from initial weights, later ones overriding earlier
  /// ones; untrained slots have initial weights. Each entry is the path of a checkpoint, or the id
  /// of a run in the same root, resolved when the worker starts.
  case finetune(planPath: String, weights: [String])
  /// Images of teacher and graft from the same noise.
  case preview(PreviewRequest)
  /// Activation statistics and attention locality of a model.
  case analyze(AnalyzeRequest)
  /// Trained and measured operators for every slot.
  case library(LibraryRequest)
  /// The best plans for some budgets.
  case search(SearchRequest)
  /// Metrics and speed of trained grafts, stored in their runs.
  case measure(ReportRequest)
  /// Measurements of trained grafts and an HTML page of them.
  case report(ReportRequest)
  /// A set of images in an archive.
  case sample(SampleRequest)
  /// Numbers that judge a set of images or a model.
  case evaluate(EvaluateRequest)

  /// Kind of a job; the raw values are stored in files and names of runs.
  package enum Kind: String, Codable, CaseIterable, Sendable {
    /// Activation distillation, stage 1.
    case distill
    /// End-to-end finetuning, stage 2.
    case finetune
    /// Sampling for the preview.
    case preview
    /// Statistics of the teacher.
    case analyze
    /// Building the operator library.
    case library
    /// Searching plans.
    case search
    /// Measurements of trained grafts.
    case measure
    /// Page about trained grafts.
    case report
    /// Drawing a set of images.
    case sample
    /// Judging a set of images or a model.
    case evaluate

    /// Whether it trains a plan, and so has losses and checkpoints.
    package var isTraining: Bool { self == .distill || self == .finetune }

    /// Whether it only draws or judges images, in which linear layers may multiply 8-bit integers.
    package var hasInt8: Bool { self == .sample || self == .evaluate }

    /// Whether it measures trained grafts, sets or models, so that its result is text.
    package var isMeasuring: Bool { self == .measure || self == .report || self == .evaluate }
  }

  /// Kind of the job.
  package var kind: Kind {
    switch self {
    case .distill: .distill
    case .finetune: .finetune
    case .preview: .preview
    case .analyze: .analyze
    case .library: .library
    case .search: .search
    case .measure: .measure
    case .report: .report
    case .sample: .sample
    case .evaluate: .evaluate
    }
  }
}

/// Request for measurements of trained grafts.
package struct ReportRequest: Codable, Equatable, Sendable {
  /// The trainings: identifiers of runs in the same root, or paths.
  package var runs: [String]
  /// Number of judged images; nil selects that of earlier measurements.
  package var samples: Int?
  /// Number of denoising steps; nil selects that of earlier measurements.
  package var steps: Int?
  /// Number of images of each sample grid.
  package var images: Int
  /// The HTML file; nil selects `report.html` in the run.
  package var page: String?

  /// Allowed numbers of judged images.
  package static let sampleRange = 10...1_000_000
  /// Allowed numbers of denoising steps.
  package static let stepRange = 1...1000
  /// Allowed numbers of images of a grid; 0 for no grids.
  package static let imageRange = 0...100

  /// Makes a request.
  package init(
    runs: [String] = [], samples: Int? = nil, steps: Int? = nil, images: Int = 10,
    page: String? = nil
  ) {
    (self.runs, self.samples, self.steps) = (runs, samples, steps)
    (self.images, self.page) = (images, page)
  }
}

/// Request for images; the worker writes `samples/teacher.png`, `graft.png` and `difference.png`.
package struct PreviewRequest: Codable, Equatable, Sendable {
  /// The model's file, or `demo`.
  package var modelPath: String
  /// The plan's file, relative to the run directory; without one only the teacher is sampled.
  package var planPath: String?
  /// Checkpoints with weights of grafted operators, later ones overriding earlier ones; without any
  /// the operators have initial weights.
  package var weights: [String]
  /// Class label of the images; unused by text-conditional models.
  package var classLabel: Int
  /// Prompts of a text-conditional model; empty for built-in ones.
  package var prompts: [String]
  /// Name of the sampler; nil for that of the model's family.
  package var sampler: String?
  /// Seed of the noise.
  package var seed: UInt64
  /// Number of denoising steps.
  package var steps: Int
  /// Classifier-free guidance scale; 1 disables guidance.
  package var guidance: Double
  /// Rows of images: classes from `classLabel` on, beginning again after the last one.
  package var classes: Int
  /// Columns of images: seeds from `seed` on.
  package var seeds: Int
  /// Number of predicted clean images written while sampling, for each of teacher and graft.
  package var frames: Int
  /// Whether only the graft is sampled.
  package var skipsTeacher: Bool
  /// Whether the worker uses only processor time that nobody else wants.
  package var isBackground: Bool
  /// Whether operators without trained weights are fitted to the teacher in closed form; nil, in requests
  /// of before, is false.
  package var fits: Bool?
  /// Threshold of step caching, and whether it forecasts; nil, in requests of before, is none.
  package var cache: Double?
  package var forecastsCache: Bool?
  /// A picture of the teacher from the same request, which saves sampling it again; nil for none.
  package var teacherImage: String?

  /// Makes a request for images.
  package init(
    modelPath: String, planPath: String? = nil, weights: [String] = [], classLabel: Int,
    prompts: [String] = [], sampler: String? = nil, seed: UInt64 = 0, steps: Int = 25,
    guidance: Double = 2, classes: Int = 1, seeds: Int = 1, frames: Int = 0,
    skipsTeacher: Bool = false, isBackground: Bool = false, fits: Bool? = nil
  ) {
    (self.prompts, self.sampler) = (prompts, sampler)
    self.modelPath = modelPath
    self.planPath = planPath
    self.weights = weights
    self.classLabel = classLabel
    self.seed = seed
    self.steps = steps
    self.guidance = guidance
    (self.classes, self.seeds, self.frames) = (classes, seeds, frames)
    (self.skipsTeacher, self.isBackground, self.fits) = (skipsTeacher, isBackground, fits)
  }

  /// Reads a request; those of earlier versions are for one image.
  package init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: CodingKeys.self)
    modelPath = try container.decode(String.self, forKey: .modelPath)
    planPath = try container.decodeIfPresent(String.self, forKey: .planPath)
    weights = try container.decode([String].self, forKey: .weights)
    classLabel = try container.decode(Int.self, forKey: .classLabel)
    seed = try container.decode(UInt64.self, forKey: .seed)
    steps = try container.decode(Int.self, forKey: .steps)
    guidance = try container.decode(Double.self, forKey: .guidance)
    classes = try container.decodeIfPresent(Int.self, forKey: .classes) ?? 1
    seeds = try container.decodeIfPresent(Int.self, forKey: .seeds) ?? 1
    prompts = try container.decodeIfPresent([String].self, forKey: .prompts) ?? []
    sampler = try container.decodeIfPresent(String.self, forKey: .sampler)
    frames = try container.decodeIfPresent(Int.self, forKey: .frames) ?? 0
    skipsTeacher = try container.decodeIfPresent(Bool.self, forKey: .skipsTeacher) ?? false
    isBackground = try container.decodeIfPresent(Bool.self, forKey: .isBackground) ?? false
    fits = try container.decodeIfPresent(Bool.self, forKey: .fits)
    cache = try container.decodeIfPresent(Double.self, forKey: .cache)
    forecastsCache = try container.decodeIfPresent(Bool.self, forKey: .forecastsCache)
    teacherImage = try container.decodeIfPresent(String.self, forKey: .teacherImage)
  }

  /// Class label and seed of every image, row by row.
  package func cells(numClasses: Int) -> [(label: Int, seed: UInt64)] {
    (0..<classes).flatMap { row in
      (0..<seeds).map { column in
        ((classLabel + row) % max(1, numClasses), seed &+ UInt64(column))
      }
    }
  }

  /// The denoising steps, counted from 1, whose predicted clean images are written.
  package var frameSteps: [Int] {
    guard frames > 0 else { return [] }
    let places = (1...frames).map { index in
      Int((Double(steps * index) / Double(frames + 1)).rounded())
    }
    return Set(places).filter { (1..<steps).contains($0) }.sorted()
  }

  private enum CodingKeys: String, CodingKey {
    case modelPath = "model_path"
    case planPath = "plan_path"
    case weights
    case classLabel = "class_label"
    case prompts, sampler, seed, steps, guidance, classes, seeds, frames, fits, cache
    case forecastsCache = "forecasts_cache"
    case skipsTeacher = "skips_teacher"
    case isBackground = "background"
    case teacherImage = "teacher_image"
  }
}

/// Request for activation statistics of a model; the result is written to the analysis cache.
package struct AnalyzeRequest: Codable, Equatable, Sendable {
  /// The model's file, or `demo`.
  package var modelPath: String
  /// Number of images to average over.
  package var samples: Int
  /// Default number of images.
  package static let samples = 32

  /// Makes a request for statistics.
  package init(modelPath: String, samples: Int = AnalyzeRequest.samples) {
    self.modelPath = modelPath
    self.samples = samples
  }

  private enum CodingKeys: String, CodingKey {
    case modelPath = "model_path"
    case samples
  }
}

extension Job: Codable {
  private enum CodingKeys: String, CodingKey {
    case kind
    case planPath = "plan_path"
    case weights, request
  }

  /// Reads `{"kind": "distill", "plan_path": …}`, with `"weights": […]` for `finetune`, or
  /// `{"kind": …, "request": {…}}`.
  package init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: CodingKeys.self)
    let name = try container.decode(String.self, forKey: .kind)
    guard let kind = Kind(rawValue: name) else {
      throw DecodingError.dataCorruptedError(
        forKey: .kind, in: container, debugDescription: "unknown job \(name)")
    }
    switch kind {
    case .distill:
      self = .distill(planPath: try container.decode(String.self, forKey: .planPath))
    case .finetune:
      self = .finetune(
        planPath: try container.decode(String.self, forKey: .planPath),
        weights: try container.decode([String].self, forKey: .weights))
    case .preview:
      self = .preview(try container.decode(PreviewRequest.self, forKey: .request))
    case .analyze:
      self = .analyze(try container.decode(AnalyzeRequest.self, forKey: .request))
    case .library: self = .library(try container.decode(LibraryRequest.self, forKey: .request))
    case .search: self = .search(try container.decode(SearchRequest.self, forKey: .request))
    case .measure: self = .measure(try container.decode(ReportRequest.self, forKey: .request))
    case .report: self = .report(try container.decode(ReportRequest.self, forKey: .request))
    case .sample: self = .sample(try container.decode(SampleRequest.self, forKey: .request))
    case .evaluate: self = .evaluate(try container.decode(EvaluateRequest.self, forKey: .request))
    }
  }

  /// Writes the form that `init(from:)` reads.
  package func encode(to encoder: any Encoder) throws {
    var container = encoder.container(keyedBy: CodingKeys.self)
    try container.encode(kind, forKey: .kind)
    switch self {
    case .distill(let planPath): try container.encode(planPath, forKey: .planPath)
    case .finetune(let planPath, let weights):
      try container.encode(planPath, forKey: .planPath)
      try container.encode(weights, forKey: .weights)
    case .preview(let request): try container.encode(request, forKey: .request)
    case .analyze(let request): try container.encode(request, forKey: .request)
    case .library(let request): try container.encode(request, forKey: .request)
    case .search(let request): try container.encode(request, forKey: .request)
    case .measure(let request), .report(let request):
      try container.encode(request, forKey: .request)
    case .sample(let request): try container.encode(request, forKey: .request)
    case .evaluate(let request): try container.encode(request, forKey: .request)
    }
  }
}

/// Content of a run's `run.json`: the job and the settings needed to repeat it.
package struct JobRequest: Codable, Equatable, Sendable {
  /// Version of the file format.
  package static let formatVersion = 1
  /// The name of this version's random generator, that of `RandomStream`.
  package static let currentGenerator = "philox4x32-10"

  /// The record's version.
  package let version: Int
  /// The job.
  package var job: Job
  /// Display name of the run.
  package var name: String
  /// Creation time in seconds since 1970.
  package var createdAt: Double
  /// Version of espalier that created the request.
  package var codeVersion: String
  /// Seed of all random numbers of the run.
  package var seed: UInt64
  /// Random generator of the seed; nil in runs of espalier 0.1.
  package private(set) var generator: String?
  /// The SHA-256 digest of the model's weights.
  package var modelHash: String
  /// The run's place in the queue; nil for one that was started at once.
  package var queue: QueuePlace?
  /// Time limit of each worker of the run in seconds; nil for none.
  package var timeout: Double?
  /// Command for `/bin/sh -c` after the end of the run with any outcome.
  package var onDone: String?
  /// Precision of large matrix products, `fp32` or `bf16`; nil selects the fastest of the CPU.
  package var precision: String?
  /// Runs that provide the initial weights, by site; nil for fresh weights, and in earlier versions.
  package var origins: [WeightOrigin]?
  /// Place in a chain; nil for a run that was made by itself.
  package var chain: ChainPlace?
  /// Name of the engine in the user's `engines.yaml`; nil for the native one.
  package var engine: String?
  /// Words that start the engine's ranks in place of its own launcher.
  package var launcher: [String]?

  /// Makes a request.
  package init(
    job: Job, name: String, createdAt: Double = Date().timeIntervalSince1970,
    codeVersion: String, seed: UInt64 = 0, modelHash: String, queue: QueuePlace? = nil,
    timeout: Double? = nil, onDone: String? = nil, precision: String? = nil,
    origins: [WeightOrigin]? = nil, engine: String? = nil
  ) {
    self.version = Self.formatVersion
    self.job = job
    self.name = name
    self.createdAt = createdAt
    self.codeVersion = codeVersion
    self.seed = seed
    generator = Self.currentGenerator
    self.modelHash = modelHash
    (self.queue, self.timeout, self.onDone) = (queue, timeout, onDone)
    (self.precision, self.origins, self.engine) = (precision, origins, engine)
  }

  private enum CodingKeys: String, CodingKey {
    case version = "espalier_run"
    case job, name
    case createdAt = "created_at"
    case codeVersion = "code_version"
    case seed
    case generator = "random_generator"
    case modelHash = "model_hash"
    case queue, timeout
    case onDone = "on_done"
    case precision, origins, chain, engine, launcher
  }

  /// Checks the ranges of all numbers.
  ///
  /// - Throws: `FileError` for the first one out of range.
  func checkNumbers() throws(FileError) {
    try FileNumber.check("created_at", createdAt, FileNumber.times)
    try FileNumber.check("timeout", timeout, FileNumber.timeouts)
    try FileNumber.check("queue.priority", queue?.priority, FileNumber.priorities)
    switch job {
    case .distill, .finetune: break
    case .preview(let preview):
      try FileNumber.check("class_label", preview.classLabel, FileNumber.counts)
      try FileNumber.check("steps", preview.steps, 1...1000)
      try FileNumber.check("guidance", preview.guidance, -1e6...1e6)
      try FileNumber.check("cache", preview.cache, 0...10)
      try FileNumber.check("classes", preview.classes, 1...32)
      try FileNumber.check("seeds", preview.seeds, 1...32)
      try FileNumber.check("frames", preview.frames, 0...64)
    case .analyze(let analyze): try FileNumber.check("samples", analyze.samples, 1...1_000_000)
    case .library(let library): try library.checkNumbers()
    case .search(let search): try search.checkNumbers()
    case .measure(let report), .report(let report):
      try FileNumber.check("samples", report.samples, ReportRequest.sampleRange)
      try FileNumber.check("steps", report.steps, ReportRequest.stepRange)
      try FileNumber.check("images", report.images, ReportRequest.imageRange)
    case .sample(let sample): try sample.checkNumbers()
    case .evaluate(let evaluate): try evaluate.checkNumbers()
    }
  }
}
