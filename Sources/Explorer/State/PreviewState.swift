import Pictures
import Plans
import TerminalUI

/// What a preview samples.
package struct PreviewSettings: Equatable, Sendable {
  /// The class label.
  package var classLabel = 0
  /// Seed of the starting noise.
  package var seed: UInt64 = 0
  /// Prompts of a text-conditional model, one for each row of pictures; empty for the example at `classLabel`.
  package var prompts: [String] = []
  /// Name of the sampler; nil for the family's own.
  package var sampler: String?
  /// Sampler steps.
  package var steps = 25
  /// Classifier-free guidance scale; 1 is none.
  package var guidance = 2.0
  /// Threshold of step caching; 0 is none.
  package var cache = 0.0
  /// Rows of pictures: classes from `classLabel` on.
  package var classes = 1
  /// Columns of pictures: seeds from `seed` on.
  package var seeds = 1
  /// Predicted clean images kept from the way there, of teacher and graft.
  package var frames = 0

  /// The largest seed that a form or key gives; every one is exact as a floating-point number.
  package static let largestSeed: UInt64 = 999_999_999
  /// The sampler steps that make sense.
  package static let stepRange = 1.0...1000.0
  /// The guidance scales that make sense.
  package static let guidanceRange = 0.0...30.0
  /// The thresholds of step caching that make sense.
  package static let cacheRange = 0.0...10.0

  /// The rows and columns that make sense.
  package static let gridRange = 1.0...8.0
  /// The numbers of frames that make sense.
  package static let frameRange = 0.0...24.0

  /// The most prompts that are drawn at once.
  package static let promptLimit = 3

  /// Rows of pictures.
  package var rows: Int { prompts.isEmpty ? classes : prompts.count }

  /// The usual settings: class 0, seed 0, 25 steps, guidance 2.
  package init() {}
}

/// An image with its content hash.
package struct Picture: Equatable, Sendable {
  /// The pixels.
  package let image: RGBImage
  /// A hash of the pixels, computed once.
  package let contentHash: Int

  /// Wraps an image.
  package init(_ image: RGBImage) {
    self.image = image
    self.contentHash = ImagePlacement.hash(of: image.pixels)
  }
}

/// The clean image that a sampler predicted on its way.
package struct PreviewFrame: Equatable, Sendable {
  /// The sampler step after which it did.
  package let step: Int
  /// The image.
  package let picture: Picture
}

/// When a preview is made anew without being asked for.
package enum PreviewRenewal: CaseIterable, Equatable, Sendable {
  case never
  /// When the followed training ends.
  case atEnd
  /// At the end and with every checkpoint.
  case everyCheckpoint
  /// At the end and with every fourth checkpoint.
  case everyFourthCheckpoint

  /// Checkpoints from one renewal to the next; nil for none.
  package var checkpoints: Int? {
    switch self {
    case .never, .atEnd: nil
    case .everyCheckpoint: 1
    case .everyFourthCheckpoint: 4
    }
  }

  /// What it does, in a few words.
  package var name: String {
    switch self {
    case .never: "never by itself"
    case .atEnd: "when the training ends"
    case .everyCheckpoint: "at every checkpoint"
    case .everyFourthCheckpoint: "at every fourth checkpoint"
    }
  }
}

/// Which pictures a preview makes.
package enum PreviewRole: String, CaseIterable, Equatable, Sendable {
  /// The model before grafting.
  case teacher
  /// The model with the plan applied.
  case graft
  /// Where they differ.
  case difference
}

/// One preview: what was asked for and what came of it.
package struct Preview: Equatable, Sendable {
  /// Position in the order of requests; a later one always wins.
  package let generation: Int
  /// The job's run directory name, once it has started.
  package var runID: String?
  /// What was asked for.
  package let settings: PreviewSettings
  /// What the plan changed when it was asked for.
  package let changes: GraftPlan.Changes
  /// Step of the distilled weights used, or nil if there are none; other slots are fitted in closed form.
  package let weightStep: Int?
  /// The run whose weights were used; nil for none.
  package var weightRun: String?
  /// Whether all weights are those of the library.
  package var isFromLibrary = false
  /// Whether it was made without being asked for.
  package var isRenewal = false
  /// Number of sites that had no weights.
  package var freshCount = 0
  /// What has arrived.
  package var images: [PreviewRole: Picture] = [:]
  /// What the sampler predicted on its way, in order of its steps.
  package var frames: [PreviewRole: [PreviewFrame]] = [:]
  /// Sampler steps done.
  package var done = 0
  /// Sampler steps in all; 0 while unknown.
  package var total = 0

  /// Makes a preview that nothing has come of yet.
  package init(
    generation: Int, settings: PreviewSettings, changes: GraftPlan.Changes, weightStep: Int?
  ) {
    self.generation = generation
    self.settings = settings
    self.changes = changes
    self.weightStep = weightStep
  }
}

/// The last complete preview and the one being made.
package struct PreviewState: Equatable, Sendable {
  /// What the next preview will sample.
  package var settings = PreviewSettings()
  /// The preview on the screen; kept until another has its pictures.
  package var shown: Preview?
  /// The preview being made.
  package var pending: Preview?
  /// Number of previews asked for so far.
  package var generation = 0
  /// Earlier previews, newest first, to which scrubbing returns at once.
  package var gallery: [Preview] = []
  /// The picture that is shown alone in the large view; nil for all of them beside each other.
  package var single: PreviewRole?
  /// The frame shown, counted from the sampler's start; nil for the result.
  package var frame: Int?
  /// The step of the checkpoint whose weights are sampled; nil for the newest.
  package var checkpoint: Int?
  /// When a preview is made anew.
  package var renewal = PreviewRenewal.atEnd
  /// Checkpoints since the last preview.
  package var checkpointsSince = 0
  /// Another run whose graft is sampled beside this one.
  package var second: SecondPreview?

  /// Most earlier previews kept.
  static let galleryLimit = 16
  /// Whether every edit is sampled while nothing else runs.
  package var followsEdits = false
  /// What the plan changed when a preview was asked for last.
  package var asked: GraftPlan.Changes?

  /// Nothing asked for yet.
  package init() {}
}

/// What a preview's job is told beside its settings.
package struct PreviewOptions: Equatable, Sendable {
  /// The step of the kept checkpoint whose weights are used; nil for the newest.
  package var checkpoint: Int?
  /// Whether it uses only processor time that nobody else wants.
  package var isBackground = false

  /// The newest weights, at once.
  package init(checkpoint: Int? = nil, isBackground: Bool = false) {
    (self.checkpoint, self.isBackground) = (checkpoint, isBackground)
  }
}

/// The graft of another run, sampled with the same settings.
package struct SecondPreview: Equatable, Sendable {
  /// The run.
  package let runID: String
  /// The preview on the screen.
  package var shown: Preview?
  /// The preview being made.
  package var pending: Preview?

  /// Begins without pictures.
  package init(runID: String) { self.runID = runID }
}
