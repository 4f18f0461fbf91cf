import Pictures
import Plans
import TerminalUI

/// What a preview samples.
package struct PreviewSettings: Equatable, Sendable {
  /// The class label.
  package var classLabel = 0
  /// Seed of the starting noise.
  package var seed: UInt64 = 0
  /// Sampler steps.
  package var steps = 25
  /// Classifier-free guidance scale; 1 is none.
  package var guidance = 2.0

  /// The largest seed that a form or key gives; every one is exact as a floating-point number.
  package static let largestSeed: UInt64 = 999_999_999
  /// The sampler steps that make sense.
  package static let stepRange = 1.0...1000.0
  /// The guidance scales that make sense.
  package static let guidanceRange = 0.0...30.0

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
  /// Number of sites that had no weights.
  package var freshCount = 0
  /// What has arrived.
  package var images: [PreviewRole: Picture] = [:]
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
  /// Whether every edit is sampled while nothing else runs.
  package var followsEdits = false
  /// What the plan changed when a preview was asked for last.
  package var asked: GraftPlan.Changes?

  /// Nothing asked for yet.
  package init() {}
}
