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
    let known = plan == nil || isGraft ? nil : request.teacherImage
    let total = (plan == nil || isGraft || known != nil ? 1 : 2) * request.steps
    try context.emit(.started(pid: getpid(), totalSteps: total))
    let precision = try context.precision()
    let conditions = try conditions(request, files, precision)
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
    var done = 0
    func images(_ model: any DiffusionTransformer, _ role: SampleRole) throws -> [RGBImage] {
      var throttle = Throttle()
      let latents = try sampler.sample(
        model, for: conditions,
        onStep: { _, _, _ in
          done += 1
          try context.checkpoint(step: done)
          if throttle.isDue() || done == total {
            try context.emit(
              .progress(done: done, total: total, label: "sampling \(role.rawValue)"))
          }
        })
      let decoded = autoencoder.decode(autoencoder.unscaled(latents), tiling: .auto)
      let images = AutoencoderKL.rgbImages(ofDecoded: decoded, .of(family))
      try write(images, role, request)
      return images
    }
    let before: [RGBImage]
    if let known {
      before = [try RGBImage.read(path: known)]
      try write(before, .teacher, request)
    } else {
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
    try write(zip(before, after).map { $0.absoluteDifference(to: $1) }, .difference, request)
    return "teacher and graft sampled"
  }

  /// What the images are for: the class or the prompts of the request.
  private func conditions(
    _ request: PreviewRequest, _ files: ModelFiles, _ precision: Precision
  ) throws -> LatentSampler.Conditions {
    guard files.model.shape.family.condition == .captions else {
      return .labels([Int](repeating: request.classLabel, count: request.count))
    }
    let examples = ModelFamily.examplePrompts
    var prompts = request.prompts.filter { !$0.isEmpty }
    if prompts.isEmpty { prompts = [examples[request.classLabel % examples.count]] }
    // Without a text encoder the null caption of the model's file is shown.
    if files.textEncoderPath == nil, request.prompts.isEmpty {
      return try files.exampleConditions(request.count, precision).conditions
    }
    let captions = try files.promptEmbeddings(precision).captions(prompts) { done, count, layer in
      try context.checkpoint(step: 0)
      try context.emit(
        .progress(done: done, total: count, label: "encoding prompts, layer \(layer)"))
    }
    let rows = prompts.indices.flatMap { [Int](repeating: $0, count: request.count) }
    return .captions(
      captions.selecting(rows, length: captions.length), null: try files.nullCaption(precision))
  }

  private func write(_ images: [RGBImage], _ role: SampleRole, _ request: PreviewRequest) throws {
    let path = "\(context.run.samplesPath)/\(role.rawValue).png"
    let columns = Int(Double(images.count).squareRoot().rounded(.up))
    let sheet = images.count == 1 ? images[0] : RGBImage.grid(images, columns: columns, gap: 2)
    try sheet.write(to: path)
    try context.emit(
      .sampled(
        role: role, path: "samples/\(role.rawValue).png", classLabel: request.classLabel,
        seed: request.seed))
  }
}
