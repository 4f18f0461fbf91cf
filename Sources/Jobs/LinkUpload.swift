import Datasets
import Files
import Foundation
import Models
import Plans
import Runs
import TorchEngine

/// The files that a run needs at the other end of its link, and where they lie there.
struct LinkUpload {
  /// Files to send, by name at the other end: `models/…`, by content, or `cache/…`.
  private(set) var files: [String: (path: String, digest: String)] = [:]
  /// Paths at the other end that must exist there, because the user's path map names them.
  private(set) var mapped: [String] = []
  /// Names of files in plan and request, and either their path or their name at the other end.
  private(set) var places: [String: Place] = [:]

  /// Where a file lies at the other end.
  enum Place {
    /// At a path.
    case path(String)
    /// Below the folder with a name.
    case name(String)
  }

  private let engine: Engine

  /// Collects the files of a training.
  ///
  /// - Parameters:
  ///   - engine: The engine.
  ///   - run: The run.
  ///   - request: Its request.
  ///   - caches: Names of files and folders in the cache that hold encoded images.
  ///   - identities: Folders of images that are in the cache.
  /// - Throws: `FileError` if one cannot be read.
  init(
    _ engine: Engine, run: RunDirectory, request: JobRequest, caches: [String],
    identities: [String: String]
  ) throws {
    self.engine = engine
    guard request.job.kind.isTraining else { return }
    let plan = try GraftPlan.load(path: run.planPath)
    let model = try ModelFiles(plan.model.path)
    // Of a folder of diffusers training needs the transformer alone.
    try add(
      plan.model.path, at: model.model.weights.folder?.transformer ?? model.modelPath,
      companions: ["\(AtomicFile.name(of: model.modelPath)).json"])
    for path in [plan.data?.path, plan.data?.heldOut].compactMap(\.self)
    where identities[path] == nil {
      try add(path, at: path, companions: [LatentStatistics.fileName])
    }
    if case .finetune(_, let weights) = request.job {
      for name in weights { try add(name, at: try run.weightsPath(name)) }
    }
    let cache = try ModelFiles.cacheDirectory()
    for name in caches {
      for file in try Self.contents("\(cache)/\(name)") {
        let path = "\(cache)/\(name)\(file)"
        files["cache/\(name)\(file)"] = (path, try ContentHash.sha256(path: path))
      }
    }
  }

  /// Adds a file.
  ///
  /// - Returns: Its name at the other end.
  /// - Throws: `FileError` if it cannot be read.
  mutating func add(_ path: String) throws -> String {
    let digest = try ContentHash.sha256(path: path)
    let name = "models/\(digest)/\(AtomicFile.name(of: path))"
    files[name] = (path, digest)
    return name
  }

  /// Adds a file or folder that plan or request call `name`, a file with those of the companions that lie beside it.
  private mutating func add(_ name: String, at path: String, companions: [String] = []) throws {
    let path = AtomicFile.absolute(path)
    let isMapped = engine.paths.first { path == $0.here || path.hasPrefix(folder($0.here)) }
    if let isMapped {
      let there = folder(isMapped.there) + path.dropFirst(folder(isMapped.here).count)
      mapped.append(there)
      places[name] = .path(there)
      return
    }
    let names = try Self.contents(path)
    let (directory, own) = (AtomicFile.directory(of: path), AtomicFile.name(of: path))
    let isFile = names == [""]
    let beside = companions.filter { isFile && access("\(directory)/\($0)", F_OK) == 0 }
    let sent = names.map { own + $0 } + beside
    let digests = try sent.map { try ContentHash.sha256(path: "\(directory)/\($0)") }
    let whole =
      sent == [own]
      ? digests[0]
      : ContentHash.sha256(Data(zip(sent, digests).map { "\($0) \($1)\n" }.joined().utf8))
    for (file, digest) in zip(sent, digests) {
      files["models/\(whole)/\(file)"] = ("\(directory)/\(file)", digest)
    }
    places[name] = .name("models/\(whole)/\(own)")
  }

  private func folder(_ path: String) -> String { path.hasSuffix("/") ? path : "\(path)/" }

  /// Files of a folder with a `/` before their names, sorted; a single empty name for a file.
  private static func contents(_ path: String) throws -> [String] {
    var isFolder: ObjCBool = false
    guard FileManager.default.fileExists(atPath: path, isDirectory: &isFolder) else {
      throw FileError.reading(path, errno: ENOENT)
    }
    guard isFolder.boolValue else { return [""] }
    let names = FileManager.default.enumerator(atPath: path)?.compactMap { $0 as? String } ?? []
    return names.filter { name in
      var isFolder: ObjCBool = false
      let isThere = FileManager.default.fileExists(
        atPath: "\(path)/\(name)", isDirectory: &isFolder)
      return isThere && !isFolder.boolValue
        && !name.split(separator: "/").contains { $0.hasPrefix(".") }
    }.sorted().map { "/\($0)" }
  }
}
