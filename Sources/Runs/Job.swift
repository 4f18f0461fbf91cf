import Foundation

/// What a worker is asked to do.
package enum Job: Equatable, Sendable {
  /// Stage 1 of the plan in the run directory; `planPath` is relative to that directory.
  case distill(planPath: String)
  /// Stage 2 of the plan in the run directory, from weights, later ones winning; slots that none of them
  /// trained start fresh. Each is the path of a checkpoint, or the id of a run beside this one, whose
  /// weights are looked for when the worker begins.
  case finetune(planPath: String, weights: [String])
  /// Images of teacher and graft from the same noise.
  case preview(PreviewRequest)
  /// Activation statistics and attention locality of a model.
  case analyze(AnalyzeRequest)

  /// What a job does; the names stand in files and in the names of runs.
  package enum Kind: String, Codable, CaseIterable, Sendable {
    /// Activation distillation, stage 1.
    case distill
    /// End-to-end finetuning, stage 2.
    case finetune
    /// Sampling for the preview.
    case preview
    /// Statistics of the teacher.
    case analyze

    /// Whether it trains a plan, and so has losses and checkpoints.
    package var isTraining: Bool { self == .distill || self == .finetune }
  }

  /// What the job does.
  package var kind: Kind {
    switch self {
    case .distill: .distill
    case .finetune: .finetune
    case .preview: .preview
    case .analyze: .analyze
    }
  }
}

/// Asks for images; the worker writes `samples/teacher.png`, `graft.png` and `difference.png`.
package struct PreviewRequest: Codable, Equatable, Sendable {
  /// The model's file, or `demo`.
  package var modelPath: String
  /// The plan's file, relative to the run directory; without one only the teacher is sampled.
  package var planPath: String?
  /// Checkpoints with weights of grafted operators, later ones winning; without any they are fresh.
  package var weights: [String]
  /// The class to draw.
  package var classLabel: Int
  /// Seed of the noise.
  package var seed: UInt64
  /// Denoising steps.
  package var steps: Int
  /// Scale of classifier-free guidance; 1 is none.
  package var guidance: Double
  /// Images of each role.
  package var count: Int

  /// Asks for images.
  package init(
    modelPath: String, planPath: String? = nil, weights: [String] = [], classLabel: Int,
    seed: UInt64 = 0, steps: Int = 25, guidance: Double = 2, count: Int = 1
  ) {
    self.modelPath = modelPath
    self.planPath = planPath
    self.weights = weights
    self.classLabel = classLabel
    self.seed = seed
    self.steps = steps
    self.guidance = guidance
    self.count = count
  }

  private enum CodingKeys: String, CodingKey {
    case modelPath = "model_path"
    case planPath = "plan_path"
    case weights
    case classLabel = "class_label"
    case seed, steps, guidance, count
  }
}

/// Asks for the statistics of a model's activations; the result goes to the analysis cache.
package struct AnalyzeRequest: Codable, Equatable, Sendable {
  /// The model's file, or `demo`.
  package var modelPath: String
  /// Images that are averaged over.
  package var samples: Int
  /// As many as one averages over unless told otherwise.
  package static let samples = 32

  /// Asks for statistics.
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
    }
  }
}

/// The content of a run's `run.json`: the job and what is needed to repeat it.
package struct JobRequest: Codable, Equatable, Sendable {
  /// The version of this record that the code writes and reads.
  package static let formatVersion = 1
  /// The name of this version's random generator, that of `RandomStream`.
  package static let currentGenerator = "philox4x32-10"

  /// The record's version.
  package let version: Int
  /// What to do.
  package var job: Job
  /// The run's name, for people.
  package var name: String
  /// When the run was asked for, in seconds since 1970.
  package var createdAt: Double
  /// The version of espalier that asked.
  package var codeVersion: String
  /// The seed of everything random in the run.
  package var seed: UInt64
  /// The random generator that the seed is for; nil in runs of espalier 0.1.
  package private(set) var generator: String?
  /// The SHA-256 digest of the model's weights.
  package var modelHash: String
  /// The run's place in the queue; nil for one that was started at once.
  package var queue: QueuePlace?
  /// Seconds that each worker of the run may take; nil for as long as it needs.
  package var timeout: Double?
  /// A command for `/bin/sh -c` after the run's end, however it ends.
  package var onDone: String?
  /// What large matrix products multiply in, `fp32` or `bf16`; nil for what the CPU is fastest with.
  package var precision: String?

  /// Describes a run.
  package init(
    job: Job, name: String, createdAt: Double = Date().timeIntervalSince1970,
    codeVersion: String, seed: UInt64 = 0, modelHash: String, queue: QueuePlace? = nil,
    timeout: Double? = nil, onDone: String? = nil, precision: String? = nil
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
    self.precision = precision
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
    case precision
  }

  /// Refuses numbers that no run has.
  ///
  /// - Throws: `RunError` naming the first of them.
  func checkNumbers() throws(RunError) {
    try FileNumber.check("created_at", createdAt, FileNumber.times)
    try FileNumber.check("timeout", timeout, FileNumber.timeouts)
    try FileNumber.check("queue.priority", queue?.priority, FileNumber.priorities)
    switch job {
    case .distill, .finetune: break
    case .preview(let preview):
      try FileNumber.check("class_label", preview.classLabel, FileNumber.counts)
      try FileNumber.check("steps", preview.steps, 1...1000)
      try FileNumber.check("guidance", preview.guidance, -1e6...1e6)
      try FileNumber.check("count", preview.count, 1...1024)
    case .analyze(let analyze): try FileNumber.check("samples", analyze.samples, 1...1_000_000)
    }
  }
}
