import Autograd
import Files
import Foundation
import Grafting
import Models
import Pictures
import Plans
import Runs
import Sampling

/// Images of teacher and graft from the same noise and class, and their difference.
struct PreviewJob {
  let context: JobContext

  func perform(_ request: PreviewRequest) throws -> String {
    let files = try ModelFiles(request.modelPath)
    let file = files.model
    guard (0..<file.config.numClasses).contains(request.classLabel) else {
      throw FileError(
        "\(context.run.requestPath): class \(request.classLabel) is outside 0 to "
          + "\(file.config.numClasses - 1); choose a class of the model")
    }
    var plan = try request.planPath.map { try GraftPlan.load(path: context.run.resolve($0)) }
    if request.fits == true { plan = plan?.fitted() }
    // A graft without its teacher is compared with itself.
    let isGraft = file.isGraft
    if isGraft, let plan, plan.changes != file.changes {
      throw FileError(
        "\(files.modelPath): is a graft without its teacher, which can be sampled as it is but not"
          + " edited; name the teacher with 'espalier explore --teacher'")
    }
    // A known picture of the teacher is that of one image.
    let isGrid = request.classes * request.seeds > 1
    let known = plan == nil || isGraft || isGrid ? nil : request.teacherImage
    let both = plan != nil && !isGraft && known == nil && !request.skipsTeacher
    let total = (both ? 2 : 1) * request.steps
    try context.emit(.started(pid: getpid(), totalSteps: total))
    let precision = try context.precision()
    let teacher = try file.load()
    teacher.parameters.use(precision)
    let autoencoder = try files.autoencoder(precision)
    let sampler = LatentSampler(
      steps: request.steps, guidance: Float(request.guidance), seed: request.seed)
    let cells = request.cells(numClasses: file.config.numClasses)
    let start = LatentSampler.start(seeds: cells.map(\.seed), for: teacher)
    let frameSteps = request.frameSteps
    var done = 0
    func images(_ model: DiT, _ role: SampleRole) throws -> [RGBImage] {
      var throttle = Throttle()
      let latents = try sampler.sample(
        model, labels: cells.map(\.label), start: start,
        onStep: { step, _, predicted in
          done += 1
          try context.checkpoint(step: done)
          if throttle.isDue() || done == total {
            try context.emit(
              .progress(done: done, total: total, label: "sampling \(role.rawValue)"))
          }
          if frameSteps.contains(step) {
            try write(autoencoder.rgbImages(ofScaled: predicted), role, request, after: step)
          }
        })
      let images = autoencoder.rgbImages(ofScaled: latents)
      try write(images, role, request)
      return images
    }
    var before: [RGBImage]?
    if let known, !request.skipsTeacher {
      let images = [try RGBImage.read(path: known)]
      try write(images, .teacher, request)
      before = images
    } else if plan == nil || isGraft || both {
      before = try images(teacher, isGraft ? .graft : .teacher)
    }
    guard let plan, !isGraft else { return "\(isGraft ? "graft" : "teacher") sampled" }
    try plan.check(against: try files.reference())
    let graft = try Graft(plan: plan, teacher: teacher, checkpoints: request.weights)
    graft.use(precision)
    if request.fits == true, !graft.untrained.isEmpty {
      let data = try context.trainingData(
        plan.data, for: files, samples: plan.stage1.ridgeSamples, heldOut: 1)
      try context.fitInitially(graft, graft.untrained, data.training)
    }
    // Releases the packed weights of the teacher.
    teacher.parameters.use(.float32)
    graft.model.parameters.use(precision)
    try context.report(untrained: graft.untrained)
    let after = try images(graft.model, .graft)
    guard let before else { return "graft sampled" }
    try write(zip(before, after).map { $0.absoluteDifference(to: $1) }, .difference, request)
    return "teacher and graft sampled"
  }

  /// Writes the images as one picture; with a step they are those predicted after it.
  private func write(
    _ images: [RGBImage], _ role: SampleRole, _ request: PreviewRequest, after step: Int? = nil
  ) throws {
    let name = "samples/\(role.rawValue)\(step.map { "-step-\($0)" } ?? "").png"
    let sheet =
      images.count == 1 ? images[0] : RGBImage.grid(images, columns: request.seeds, gap: 2)
    try sheet.write(to: context.run.resolve(name))
    try context.emit(
      .sampled(
        role: role, path: name, classLabel: request.classLabel, seed: request.seed,
        samplerStep: step))
  }
}
