import Autograd
import Files
import Foundation
import Grafting
import Models
import Pictures
import Plans
import Runs
import Sampling
import TensorCore

/// Images of teacher and graft from the same noise and class, and their difference.
struct PreviewJob {
  let context: JobContext

  func perform(_ request: PreviewRequest) throws -> String {
    let files = try ModelFiles(request.modelPath)
    let file = files.model
    let family = file.shape.family
    guard
      family.condition != .classes || (0..<file.shape.numClasses).contains(request.classLabel)
    else {
      throw FileError(
        "\(context.run.requestPath): class \(request.classLabel) is outside 0 to "
          + "\(file.shape.numClasses - 1); choose a class of the model")
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
    let cells = request.cells(numClasses: file.shape.conditionCount)
    let conditions = try conditions(request, cells, files, precision)
    let teacher = try file.network()
    teacher.parameters.use(precision)
    let autoencoder = try files.autoencoder(precision)
    var sampler = LatentSampler.defaults(of: family)
    (sampler.steps, sampler.guidance, sampler.seed) = (
      request.steps, Float(request.guidance), request.seed
    )
    if let name = request.sampler {
      guard let method = LatentSampler.Method(rawValue: name) else {
        throw FileError(
          "\(context.run.requestPath): the sampler is '\(name)', expected one of"
            + " \(LatentSampler.Method.fitting(family.prediction).map(\.rawValue).joined(separator: ", "));"
            + " correct it")
      }
      sampler.method = method
    }
    sampler.cache = StepCache(requested: request.cache, forecasts: request.forecastsCache)
    let start = LatentSampler.start(seeds: cells.map(\.seed), for: teacher)
    let frameSteps = request.frameSteps
    func pictures(of latents: Tensor) -> [RGBImage] {
      AutoencoderKL.rgbImages(
        ofDecoded: autoencoder.decode(autoencoder.unscaled(latents), tiling: .auto), .of(family))
    }
    var done = 0
    func images(_ model: any DiffusionTransformer, _ role: SampleRole) throws -> [RGBImage] {
      var throttle = Throttle()
      let reuse = StepReuse()
      let latents = try sampler.sample(
        model, for: conditions, start: start, reuse: reuse,
        onStep: { step, _, predicted in
          done += 1
          try context.checkpoint(step: done)
          if throttle.isDue() || done == total {
            try context.emit(
              .progress(done: done, total: total, label: "sampling \(role.rawValue)"))
          }
          if frameSteps.contains(step) {
            try write(pictures(of: predicted), role, request, after: step)
          }
        })
      let images = pictures(of: latents)
      if let cache = sampler.cache {
        try context.emit(
          .message("\(role.rawValue): step caching \(StepCache.Use(cache, reuse).text)"))
      }
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
        plan.data, for: files, teacher: teacher, samples: plan.stage1.ridgeSamples, heldOut: 1)
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

  /// What the images are for: the classes or the prompts of the cells.
  private func conditions(
    _ request: PreviewRequest, _ cells: [(label: Int, seed: UInt64)], _ files: ModelFiles,
    _ precision: Precision
  ) throws -> LatentSampler.Conditions {
    guard files.model.shape.family.condition == .captions else {
      return .labels(cells.map(\.label))
    }
    let given = request.prompts.filter { !$0.isEmpty }
    // Without a text encoder the null caption of the model's file is shown.
    if files.textEncoderPath == nil, given.isEmpty {
      return try files.exampleConditions(cells.count, precision).conditions
    }
    let examples = ModelFamily.examplePrompts
    let prompts = cells.indices.map { index in
      given.isEmpty
        ? examples[cells[index].label % examples.count]
        : given[index / max(1, request.seeds) % given.count]
    }
    let captions = try files.promptEmbeddings(precision).captions(prompts) { done, count, layer in
      try context.checkpoint(step: 0)
      try context.emit(
        .progress(done: done, total: count, label: "encoding prompts, layer \(layer)"))
    }
    return .captions(captions, null: try files.nullCaption(precision))
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
