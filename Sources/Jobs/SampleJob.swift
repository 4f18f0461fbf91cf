import Checkpoints
import Evaluation
import Files
import Foundation
import Models
import Pictures
import Runs
import Sampling
import TensorCore

/// Draws a set of images in chunks, each a file, and joins them into an archive.
///
/// What is finished stays, so that a run that was stopped goes on with the first chunk that is missing. Since the
/// noise of an image is addressed by seed and index, the set does not depend on chunks or batches.
struct SampleJob {
  let context: JobContext

  private var run: RunDirectory { context.run }

  func perform(_ request: SampleRequest) throws -> String {
    let output = request.output ?? "\(run.path)/samples.npz"
    let text = "\(request.count) images in \(output)"
    try context.emit(.started(pid: getpid(), totalSteps: request.count))
    // The set was written before the last worker was killed.
    if access(run.setPath, F_OK) == 0 {
      try removeChunks()
      return text
    }
    let precision = try context.precision()
    let source = try SourceModel(request.model, in: run)
    try requireUnchanged(source.files)
    let labels = try self.labels(request, source)
    var description = try request.provenance(
      of: source, precision, program: "espalier \(try run.request().codeVersion)")
    description["labels_digest"] = try ContentHash.sha256(path: run.labelsPath)
    try claim(description)
    try draw(request, source, labels, precision)
    try context.emit(
      .progress(done: request.count, total: request.count, label: "writing the set"))
    try context.whenRoom { try join(request, labels, to: output) }
    description["step_cache_reused"] = StepReuseLog.text(in: run.chunksPath)
    description["set_digest"] = try ContentHash.sha256(path: output)
    let lines = try JSONEncoder.sorted(isPretty: true).encode(description) + Data("\n".utf8)
    try context.whenRoom {
      try SetDescription.write(description, beside: output)
      try AtomicFile.write(lines, to: run.setPath, followingLinks: false)
    }
    try removeChunks()
    return text
  }

  private func requireUnchanged(_ files: ModelFiles) throws {
    let (known, now) = (try run.request().modelHash, try files.contentHash())
    guard known == now else {
      throw FileError(
        "\(files.modelPath): its weights have changed since the run was made, its hash was \(known.prefix(12)) and is"
          + " \(now.prefix(12)); restore the file, or start a new run")
    }
  }

  /// The class, or index of the prompt, of every image, which is kept in the run.
  private func labels(_ request: SampleRequest, _ source: SourceModel) throws -> [Int] {
    if access(run.labelsPath, F_OK) == 0 {
      let file = try Checkpoint.open(run.labelsPath)
      return try file.integers(file.names[0])
    }
    if let path = request.labelsPath, try ContentHash.sha256(path: path) != request.labelsDigest {
      throw FileError("\(path): has changed since the run was made; start a new run")
    }
    let labels: [Int]
    if let prompts = request.prompts {
      let prompted = max(1, try prompts.promptCount(of: source.files))
      labels = (0..<request.count).map { $0 / prompts.repeats % prompted }
    } else {
      labels = try SampleLabels.assign(request, numClasses: source.files.model.shape.numClasses)
    }
    try context.whenRoom {
      try NumpyWriter<Int64>.write(to: run.labelsPath, shape: [labels.count]) {
        try $0?.add(labels.map(Int64.init))
      }
    }
    return labels
  }

  /// Notes what the chunks hold; refuses chunks of other images.
  private func claim(_ description: [String: String]) throws {
    let path = "\(run.chunksPath)/set.json"
    let bytes = try JSONEncoder.sorted(isPretty: true).encode(description)
    if let known = try? AtomicFile.read(path, limit: 4 << 20) {
      let old = (try? JSONDecoder().decode([String: String].self, from: Data(known))) ?? [:]
      let differing = Set(old.keys).union(description.keys).filter { old[$0] != description[$0] }
      guard differing.isEmpty else {
        throw FileError(
          "\(path): the run has begun with other files, which differ in"
            + " \(differing.sorted().joined(separator: ", ")); restore them, or start a new run")
      }
      return
    }
    try AtomicFile.makeDirectory(run.chunksPath)
    AtomicFile.removeAbandoned(in: run.chunksPath)
    try context.whenRoom { try AtomicFile.write(bytes, to: path, followingLinks: false) }
  }

  // MARK: - Chunks

  /// The images of a chunk (count, height, width, 3); nil if it is missing or no whole file.
  private func finished(_ request: SampleRequest, at first: Int) -> (any TensorFile, TensorEntry)? {
    let path = run.chunkPath(at: first)
    guard access(path, F_OK) == 0, let file = try? Checkpoint.open(path),
      let entry = file.entry(file.names[0]), entry.dtype == .u8, entry.shape.count == 4,
      entry.shape[0] == request.images(at: first).count, entry.shape[3] == 3
    else { return nil }
    return (file, entry)
  }

  private func picture(_ file: any TensorFile, _ entry: TensorEntry, _ row: Int) throws -> RGBImage
  {
    let size = entry.count / entry.shape[0]
    return RGBImage(
      width: entry.shape[2], height: entry.shape[1],
      pixels: try file.withBytes(of: entry) { Array($0[(row * size)..<((row + 1) * size)]) })
  }

  /// Draws the chunks that are missing.
  private func draw(
    _ request: SampleRequest, _ source: SourceModel, _ labels: [Int], _ precision: Precision
  ) throws {
    AtomicFile.removeAbandoned(in: run.chunksPath)
    var sheet = ContactSheet(count: request.count)
    var missing: [Int] = []
    for first in request.chunkStarts {
      guard let (file, entry) = finished(request, at: first) else {
        missing.append(first)
        continue
      }
      for index in request.images(at: first) where sheet.shows(index) {
        sheet.add(try picture(file, entry, index - first), at: index)
      }
    }
    guard !missing.isEmpty else { return }
    let drawing = try Drawing(request, of: source, labels: labels, precision: precision) {
      done, count, layer in
      try context.checkpoint(step: 0)
      try context.emit(
        .progress(done: done, total: count, label: "encoding prompts, layer \(layer)"))
    }
    let left = missing.reduce(0) { $0 + request.images(at: $1).count }
    let log = drawing.reuse.map { StepReuseLog($0, keptIn: run.chunksPath) }
    var progress = SetProgress(context: context, count: request.count, left: left)
    for first in missing {
      let images = request.images(at: first)
      var pixels: [UInt8] = []
      var pictures: [(Int, RGBImage)] = []
      for start in stride(from: images.lowerBound, to: images.upperBound, by: drawing.batch) {
        let range = start..<min(images.upperBound, start + drawing.batch)
        let drawn = try drawing.pictures(range) { step, steps, _ in
          try progress.report(Double(range.count) * Double(step) / Double(steps), of: range.count)
        }
        for (index, image) in zip(range, drawn) {
          pixels += image.pixels
          if sheet.shows(index) { pictures.append((index, image)) }
        }
        progress.finish(range.count)
      }
      try context.whenRoom { try log?.keep(partAt: first) }
      try context.whenRoom {
        try NumpyWriter<UInt8>.write(
          to: run.chunkPath(at: first),
          shape: [images.count, drawing.size.height, drawing.size.width, 3]
        ) { try $0?.add(pixels) }
      }
      for (index, image) in pictures { sheet.add(image, at: index) }
      if sheet.hasNews {
        try context.whenRoom { try sheet.write(to: run.resolve(RunDirectory.sheet)) }
        try context.emit(
          .sampled(
            role: .sheet, path: RunDirectory.sheet, classLabel: 0, seed: request.sampler.seed))
      }
    }
  }

  /// Streams the chunks into the archive; only one is in memory.
  private func join(_ request: SampleRequest, _ labels: [Int], to output: String) throws {
    guard let (_, entry) = finished(request, at: 0) else { throw gone(0) }
    try NumpyWriter<UInt8>.write(
      to: output, shape: [request.count] + entry.shape.dropFirst(), isArchive: true,
      labels: request.writesLabels ? labels.map(Int64.init) : nil
    ) { archive in
      for first in request.chunkStarts {
        try context.checkpoint(step: request.count)
        guard let (file, part) = finished(request, at: first),
          part.shape.dropFirst() == entry.shape.dropFirst()
        else { throw gone(first) }
        try archive?.add(try file.withBytes(of: part) { Array($0) })
        try MappedFile.requireIntact()
      }
    }
  }

  private func gone(_ first: Int) -> FileError {
    FileError(
      "\(run.chunkPath(at: first)): is missing or has changed; 'espalier runs resume \(run.id)' draws it again"
    )
  }

  /// Removes the chunks of a set that is written.
  private func removeChunks() throws {
    guard access(run.chunksPath, F_OK) == 0 else { return }
    do { try FileManager.default.removeItem(atPath: run.chunksPath) } catch {
      throw FileError(
        "\(run.chunksPath): cannot be removed (\(error.localizedDescription)); remove it")
    }
  }
}

extension SampleRequest {
  /// How the set is drawn, with the digests of the files that it depends on.
  ///
  /// - Parameters:
  ///   - source: The model.
  ///   - precision: Precision of large products.
  ///   - program: The program with its version.
  /// - Returns: Values by key.
  /// - Throws: `FileError` for a file that cannot be read.
  package func provenance(
    of source: SourceModel, _ precision: Precision, program: String
  ) throws -> [String: String] {
    var entries = try source.provenance().merging(sampler.provenance) { $1 }
    entries.merge(try source.stated(precision)) { $1 }
    entries["count"] = "\(count)"
    entries["program"] = program
    entries["labels"] = prompts == nil ? labels.rawValue : "index of the prompt"
    entries["classes"] = classes.map { $0.map(String.init).joined(separator: ",") }
    if let prompts {
      let given = [prompts.captions, prompts.nullCaption].compactMap(\.self)
      let text = (prompts.texts + [prompts.negative ?? ""]).joined(separator: "\n")
      if !prompts.cleans { entries["prompts"] = "in lower case" }
      if prompts.repeats > 1 { entries["images_of_a_prompt"] = "\(prompts.repeats)" }
      if !prompts.isBinned { entries["binning"] = "none" }
      entries["prompts_digest"] = ContentHash.sha256(Data(text.utf8))
      if !given.isEmpty { entries["captions_digest"] = try ContentHash.sha256(paths: given) }
      if prompts.width != nil || prompts.height != nil {
        let sides = [prompts.width, prompts.height].map { $0.map(String.init) ?? "own" }
        entries["size"] = sides.joined(separator: " x ")
      }
    }
    return entries
  }
}

/// Progress of a set with the time left, by the pace of this worker.
private struct SetProgress {
  let context: JobContext
  let count: Int
  /// Images that were missing at the start.
  let left: Int
  private let begin = Throttle.uptime()
  private var done = 0
  private var throttle = Throttle()

  init(context: JobContext, count: Int, left: Int) {
    (self.context, self.count, self.left) = (context, count, left)
  }

  /// Reports a step of a batch, of which a share is done; stops or waits if the run is asked to.
  mutating func report(_ share: Double, of batch: Int) throws {
    let whole = count - left + done
    try context.checkpoint(step: whole)
    guard throttle.isDue() else { return }
    let seconds = Throttle.uptime() - begin
    let finished = Double(done) + share
    try context.emit(
      .progress(
        done: whole, total: count, label: "drawing images",
        secondsLeft: finished > 0 ? seconds / finished * (Double(left) - finished) : nil))
  }

  mutating func finish(_ images: Int) { done += images }
}
