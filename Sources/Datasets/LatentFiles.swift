import Checkpoints
import Files
import Foundation
import Models

/// Labelled or captioned latents in memory-mapped files, read one sample at a time.
///
/// Formats: arrays `latents` (count, channels, height, width) and `labels` (count) in safetensors or `.npz` files,
/// any number of them in a folder; `latents.npy` with `labels.npy` in the same folder; batches `X_features/1.npy`
/// with `X_labels/1.npy`; tar shards of webdataset with `KEY.latent.pth` and `KEY.label.pth` for each sample, as
/// written by keshik6/grafting. Latents must be scaled, unless `latents_stats.pt` lies beside them, by which they are
/// then normalised. In place of labels, safetensors and `.npz` files may hold text embeddings `prompt_embeds` (count,
/// tokens, channels) with `prompt_attention_mask` (count, tokens).
package final class LatentFiles: @unchecked Sendable {
  /// Location of the elements of one sample.
  private struct Row {
    let start: UnsafeRawPointer
    let dtype: DType
  }

  /// Shape of one sample (channels, height, width).
  package let shape: [Int]
  /// The label of every sample, at least 0; 0 for captioned samples.
  package let labels: [Int]
  /// The captions of captioned samples; nil for labelled ones.
  package let texts: CaptionSource?
  /// Statistics by which the latents are normalised; nil if they are read as they are.
  package let statistics: LatentStatistics?
  /// The files in sample order, each file of labels after its latents, and the statistics.
  package let files: [String]
  /// The files of the samples, each with the index of its first sample.
  private let origins: [(first: Int, path: String)]
  private let rows: [Row]
  private let owners: [AnyObject]

  /// Number of elements per sample.
  private var count: Int { shape.reduce(1, *) }

  /// Opens a file, or all files of a folder in the order of their names.
  ///
  /// - Throws: `FileError` that says what is missing, damaged, compressed or of another shape.
  package static func open(_ path: String) throws(FileError) -> LatentFiles {
    try LatentFiles(files: files(at: path), path: path)
  }

  /// Whether `path` names files that `open` would read.
  package static func isPresent(at path: String) -> Bool { (try? files(at: path)) != nil }

  /// Opens several files as one data set; `path` names it in errors.
  ///
  /// - Throws: `FileError` as `open` does.
  package init(files: [String], path: String) throws(FileError) {
    var builder = Builder()
    for file in files { try builder.add(file) }
    guard let shape = builder.shape, !builder.rows.isEmpty else {
      throw FileError("\(path): holds no samples; name a data set with latents and labels")
    }
    self.shape = shape
    statistics = try LatentStatistics(in: AtomicFile.directory(of: files[0]))
    try statistics?.require(channels: shape[0])
    self.files = builder.files + [statistics?.path].compactMap(\.self)
    (labels, rows, owners) = (builder.labels, builder.rows, builder.owners)
    guard builder.captions.isEmpty || builder.captions.count == builder.rows.count else {
      throw FileError(
        "\(path): some of its files hold 'prompt_embeds' and others labels; keep them apart")
    }
    texts = builder.captions.first.map { first in
      CaptionSource(
        length: builder.captions.map(\.tokens).max() ?? 1, channels: first.channels
      ) { [captions = builder.captions, owners = builder.owners] index, embedding, mask in
        withExtendedLifetime(owners) { captions[index].read(into: embedding, mask) }
      }
    }
    origins = builder.origins
  }

  /// Origin of a sample for error messages.
  package func place(of index: Int) -> String {
    guard let origin = origins.last(where: { $0.first <= index }) else { return "sample \(index)" }
    return "sample \(index - origin.first) in \(origin.path)"
  }

  /// Computes a digest of the content of the files.
  ///
  /// - Parameters:
  ///   - directory: Folder of cached file digests.
  ///   - progress: Called with the number of files that have been read; may throw to stop.
  /// - Returns: A SHA-256 digest.
  /// - Throws: `FileError` if a file no longer exists, and errors of `progress`.
  package func identity(
    keptIn directory: String, progress: (Int) throws -> Void = { _ in }
  ) throws -> String {
    try ContentHash.sha256(paths: files, keptIn: directory, progress: progress)
  }

  /// Copies the elements of a sample into `target`; may be called from any thread.
  package func read(_ index: Int, into target: UnsafeMutablePointer<Float>) {
    let row = rows[index]
    ElementDecoding.floats(
      UnsafeRawBufferPointer(start: row.start, count: count * row.dtype.size), row.dtype,
      into: UnsafeMutableBufferPointer(start: target, count: count))
    guard let statistics else { return }
    let area = shape[1] * shape[2]
    for channel in 0..<shape[0] {
      let (mean, deviation) = (
        Float(statistics.mean[channel]), Float(statistics.deviation[channel])
      )
      for place in (channel * area)..<((channel + 1) * area) {
        target[place] = (target[place] - mean) / deviation
      }
    }
  }

  /// Lists the files of a data set.
  private static func files(at path: String) throws(FileError) -> [String] {
    var isFolder: ObjCBool = false
    guard FileManager.default.fileExists(atPath: path, isDirectory: &isFolder) else {
      throw .reading(path, errno: ENOENT)
    }
    if !isFolder.boolValue { return [path] }
    let names = ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).sorted()
      .filter { !$0.hasPrefix(".") }
    for ending in [".tar", ".safetensors", ".npz"] {
      let shards = names.filter { $0.hasSuffix(ending) }
      if !shards.isEmpty { return shards.map { "\(path)/\($0)" } }
    }
    if names.contains("latents.npy") { return ["\(path)/latents.npy"] }
    if let features = names.first(where: { $0.hasSuffix(featuresEnding) }) {
      let arrays =
        (try? FileManager.default.contentsOfDirectory(atPath: "\(path)/\(features)")) ?? []
      // Numbers without leading zeros sort numerically.
      let batches = arrays.filter { $0.hasSuffix(".npy") }.sorted {
        ($0.count, $0) < ($1.count, $1)
      }
      guard batches.count <= batchLimit else {
        throw FileError(
          "\(path): has \(batches.count) files of features, expected at most \(batchLimit); join them with"
            + " numpy.concatenate into latents.npy and labels.npy")
      }
      if !batches.isEmpty { return batches.map { "\(path)/\(features)/\($0)" } }
    }
    throw FileError(
      "\(path): holds no latents (.tar, .safetensors, .npz or latents.npy);"
        + " name a folder of them or of images by class")
  }

  /// Location of the caption of one sample.
  private struct Caption {
    let start: UnsafeRawPointer
    let dtype: DType
    let tokens, channels: Int
    let mask: [Float]

    func read(into embedding: UnsafeMutablePointer<Float>, _ target: UnsafeMutablePointer<Float>) {
      let count = tokens * channels
      ElementDecoding.floats(
        UnsafeRawBufferPointer(start: start, count: count * dtype.size), dtype,
        into: UnsafeMutableBufferPointer(start: embedding, count: count))
      target.update(from: mask, count: tokens)
    }
  }

  /// Names of text embeddings and their masks.
  private static let embeddingName = "prompt_embeds"
  private static let maskName = "prompt_attention_mask"

  /// Collects samples file by file.
  private struct Builder {
    var shape: [Int]?
    var labels: [Int] = []
    var rows: [Row] = []
    var captions: [Caption] = []
    var owners: [AnyObject] = []
    var files: [String] = []
    var origins: [(first: Int, path: String)] = []

    mutating func add(_ path: String) throws(FileError) {
      files.append(path)
      origins.append((labels.count, path))
      if path.hasSuffix(".tar") { return try addShard(path) }
      let file = try Checkpoint.open(path)
      if path.hasSuffix(".npy") {
        let beside = LatentFiles.labelsFile(of: path)
        let labelFile = try Checkpoint.open(beside)
        files.append(beside)
        try addArrays(
          file, file.names.first ?? "latents", labelFile, labelFile.names.first ?? "labels")
      } else if file.entry("labels") == nil, file.entry(LatentFiles.embeddingName) != nil {
        try addCaptioned(file)
      } else {
        guard file.entry("labels") != nil || file.entry("latents") == nil else {
          throw FileError(
            "\(path): has \"latents\" and neither \"labels\" nor \"\(LatentFiles.embeddingName)\"; save the classes"
              + " or the captions' embeddings with them")
        }
        try addArrays(file, "latents", file, "labels")
      }
    }

    /// Adds all samples of latents with text embeddings.
    private mutating func addCaptioned(_ file: any TensorFile) throws(FileError) {
      let latents = try file.existing("latents")
      let embeddings = try file.existing(LatentFiles.embeddingName)
      let shape = embeddings.shape
      guard latents.shape.count == 4, shape.count == 3, shape[0] == latents.shape[0],
        shape.allSatisfy({ $0 > 0 })
      else {
        throw FileError(
          "\(file.path): \"latents\" has shape \(latents.shape) and \"\(embeddings.name)\" \(shape), expected"
            + " samples, channels, height and width, and as many samples by tokens by channels; save both together"
        )
      }
      guard captions.first.map({ $0.channels == shape[2] }) ?? true else {
        throw FileError(
          "\(file.path): its text embeddings are \(shape[2]) wide, those before it"
            + " \(captions.first?.channels ?? 0); keep data sets of different encoders apart")
      }
      var mask = [Float](repeating: 1, count: shape[0] * shape[1])
      if let entry = file.entry(LatentFiles.maskName) {
        mask = try file.floats(entry.name)
        guard entry.shape == Array(shape[..<2]), mask.allSatisfy({ $0 == 0 || $0 == 1 }) else {
          throw FileError(
            "\(file.path): \"\(entry.name)\" of shape \(entry.shape) is no mask of \(Array(shape[..<2])) zeros and"
              + " ones; save it with the embeddings")
        }
      }
      try claim(Array(latents.shape.dropFirst()), file.path)
      let start = try address(of: latents, in: file)
      let texts = try address(of: embeddings, in: file)
      let count = shape[0]
      for index in 0..<count {
        rows.append(
          Row(
            start: start + index * (latents.count / count * latents.dtype.size),
            dtype: latents.dtype))
        captions.append(
          Caption(
            start: texts + index * (embeddings.count / count * embeddings.dtype.size),
            dtype: embeddings.dtype, tokens: shape[1], channels: shape[2],
            mask: Array(mask[(index * shape[1])..<((index + 1) * shape[1])])))
      }
      labels += [Int](repeating: 0, count: count)
      owners.append(file)
    }

    /// Adds all samples of two arrays.
    private mutating func addArrays(
      _ file: any TensorFile, _ name: String, _ labelFile: any TensorFile, _ labelName: String
    ) throws(FileError) {
      let entry = try file.existing(name)
      guard entry.shape.count == 4 else {
        throw FileError(
          "\(file.path): \"\(name)\" has shape \(entry.shape), expected samples, channels, height"
            + " and width; save it as such an array")
      }
      // Sizes are checked before any data is read.
      let count = try labelFile.existing(labelName).count
      guard count == entry.shape[0] else {
        throw FileError(
          "\(labelFile.path): has \(count) labels, expected \(entry.shape[0]), one for each of"
            + " the latents; save both together")
      }
      if count == 0 { return }
      try claim(Array(entry.shape.dropFirst()), file.path)
      let start = try address(of: entry, in: file)
      let own = try LatentFiles.labels(labelFile, labelName)
      let stride = entry.count / count * entry.dtype.size
      for index in own.indices {
        rows.append(Row(start: start + index * stride, dtype: entry.dtype))
      }
      labels += own
      owners.append(file)
    }

    /// Adds all samples of a webdataset shard.
    private mutating func addShard(_ path: String) throws(FileError) {
      let mapping = try MappedFile(path: path)
      owners.append(mapping)
      var (key, latent, label): (String?, Int?, Int?) = (nil, nil, nil)
      let members = try TarArchive(mapping.bytes, path: path).members
      func finish(_ builder: inout Builder) throws(FileError) {
        guard let key else { return }
        guard let latent, let label else {
          throw FileError(
            "\(path): sample \(key.jsonQuoted) has no"
              + " \(latent == nil ? "latent.pth" : "label.pth"); pack both for every sample")
        }
        try builder.addSample(members[latent], members[label], of: mapping, path)
      }
      for (index, member) in members.enumerated() {
        let base = member.name.lastIndex(of: "/").map(member.name.index(after:))
        let dot = member.name[(base ?? member.name.startIndex)...].firstIndex(of: ".")
        guard let dot else { continue }
        if key.map({ $0 != member.name[..<dot] }) ?? true {
          try finish(&self)
          (key, latent, label) = (String(member.name[..<dot]), nil, nil)
        }
        switch member.name[dot...] {
        case ".latent.pth": latent = index
        case ".label.pth": label = index
        default: break
        }
      }
      try finish(&self)
    }

    private mutating func addSample(
      _ latent: TarArchive.Member, _ label: TarArchive.Member, of mapping: MappedFile,
      _ path: String
    ) throws(FileError) {
      func open(_ member: TarArchive.Member) throws(FileError) -> any TensorFile {
        try Checkpoint.torch(MappedFile(member.range, of: mapping), "\(path)/\(member.name)")
      }
      let labelFile = try open(label)
      let own = try LatentFiles.labels(labelFile, "tensor")
      guard own.count == 1 else {
        throw FileError(
          "\(labelFile.path): holds \(own.count) labels, expected one; pack one for every sample")
      }
      let file = try open(latent)
      let entry = try file.existing("tensor")
      try claim(entry.shape, file.path)
      rows.append(Row(start: try address(of: entry, in: file), dtype: entry.dtype))
      labels += own
    }

    /// Throws if the shape of a sample differs from that of earlier ones.
    private mutating func claim(_ found: [Int], _ path: String) throws(FileError) {
      guard found.count == 3, found.allSatisfy({ $0 > 0 }) else {
        throw FileError(
          "\(path): its latents have shape \(found), expected channels, height and width;"
            + " save them as such arrays")
      }
      guard shape ?? found == found else {
        throw FileError(
          "\(path): its latents have shape \(found), those before it \(shape ?? []);"
            + " keep data sets of different sizes apart")
      }
      shape = found
    }

    /// Address of the first element of a contiguous, uncompressed tensor.
    private func address(
      of entry: TensorEntry, in file: any TensorFile
    ) throws(FileError) -> UnsafeRawPointer {
      guard !entry.dtype.isInteger else {
        throw FileError(
          "\(file.path): \"\(entry.name)\" is \(entry.dtype.rawValue), expected floating-point"
            + " latents; encode the images first")
      }
      guard file.isMapped(entry), entry.isContiguous, !entry.isBigEndian else {
        throw FileError(
          "\(file.path): \"\(entry.name)\" is compressed or not in plain row-major order, so samples"
            + " cannot be read one by one; save it with numpy.savez or as safetensors")
      }
      // The address stays valid because the owner of the mapping is retained.
      let bytes = try file.withBytes(of: entry) { $0 }
      guard let start = bytes.baseAddress else {
        throw FileError("\(file.path): \"\(entry.name)\" is empty; save the data set again")
      }
      return start
    }
  }

  /// Path of the labels of a latents file: `X_labels/1.npy` for `X_features/1.npy`, otherwise
  /// `labels.npy` in the same folder.
  private static func labelsFile(of path: String) -> String {
    let folder = AtomicFile.directory(of: path)
    guard folder.hasSuffix(featuresEnding) else { return folder + "/labels.npy" }
    return folder.dropLast(featuresEnding.count) + "_labels" + path.dropFirst(folder.count)
  }

  private static let featuresEnding = "_features"
  /// Maximum number of feature files, with two mappings each; a process may have about 65,000
  /// mappings.
  private static let batchLimit = 30_000

  /// Reads an array of labels: non-negative integers of any type.
  private static func labels(
    _ file: any TensorFile, _ name: String
  ) throws(FileError) -> [Int] {
    let entry = try file.existing(name)
    var labels: [Int] = []
    if entry.dtype.isInteger {
      labels = try file.integers(name)
    } else {
      labels = try file.doubles(name).map { Int(exactly: $0) ?? -1 }
    }
    if let bad = labels.firstIndex(where: { $0 < 0 }) {
      throw FileError(
        "\(file.path): label \(bad) in \"\(name)\" is no whole number from 0 up;"
          + " save the classes' numbers")
    }
    return labels
  }
}
