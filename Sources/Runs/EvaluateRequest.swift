import Files

/// Request for numbers that judge images, features or a model.
package struct EvaluateRequest: Codable, Equatable, Sendable {
  /// What is evaluated, and how.
  package enum Subject: String, Codable, CaseIterable, Sendable {
    /// A set of images against a reference, in features of Inception v3.
    case images
    /// Features of any network against others.
    case features
    /// Statistics of a set in the format of ADM's reference files.
    case statistics
    /// A model against its teacher, from the same noise.
    case paired
    /// A model of the procedural images, by the judge.
    case judged
  }

  package var subject: Subject
  /// Absolute paths of the set, or of its features, and of what it is compared with.
  package var set, reference: String?
  /// Absolute path of the reference file that statistics are written to.
  package var output: String?
  /// Absolute path of the weights of Inception v3.
  package var inception: String?
  /// Resampled sets for the interval of the Fréchet distance; 0 for none.
  package var resamplings = 0
  /// The model, and the teacher that it is compared with.
  package var model, teacher: ModelSource?
  package var sampler: SamplerSettings?
  /// Number of samples, or pairs, that the model draws.
  package var count = 0

  package init(_ subject: Subject) { self.subject = subject }

  func checkNumbers() throws(FileError) {
    try FileNumber.check("resamplings", resamplings, 0...1000)
    try FileNumber.check("count", count, 0...1_000_000)
    try sampler?.checkNumbers()
  }
}

extension RunDirectory {
  /// The numbers of a finished evaluation, with how they were obtained.
  package var evaluationPath: String { "\(path)/evaluation.json" }
}
