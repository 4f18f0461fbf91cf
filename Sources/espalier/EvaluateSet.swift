import ArgumentParser
import Checkpoints
import Evaluation
import Files
import Foundation
import Models
import Runs

/// What `espalier evaluate` needs for a set of images.
struct SetOptions: ParsableArguments {
  @Option(
    help: .init(
      "What a set of images is compared with: a reference file of ADM (.npz with mu, sigma, mu_s, sigma_s, arr_0),"
        + " another set, or with --features a file of features."))
  var reference: String?

  @Option(
    help: .init(
      "Weights of Inception v3, pt_inception-2015-12-05-6726825d.pth as pytorch-fid or"
        + " weights-inception-2015-12-05-6726825d.pth as torch-fidelity fetches it, or TensorFlow's frozen graph"
        + " classify_image_graph_def.pb (default: $ESPALIER_INCEPTION, else one of these names in the folder `espalier`"
        + " of $XDG_DATA_HOME)."))
  var inception: String?

  @Flag(
    help:
      "SET and reference are features (samples, width) of any network, .npy or .npz; with embeddings of CLIP the CMMD."
  )
  var features = false

  @Option(help: "Resampled sets for a 90 % interval of the Fréchet distance; 0 for none.")
  var bootstrap = 0

  @Option(
    help: .init(
      "Instead write the statistics of a set to this .npz, in the format of ADM's reference files: mu, sigma, mu_s,"
        + " sigma_s and, for images of one size, arr_0."))
  var statistics: String?

  func validate() throws {
    try require("--bootstrap", bootstrap, in: 0...1000)
    guard statistics == nil || reference == nil && !features else {
      throw ValidationError(
        "--statistics writes a reference; give no --reference and no --features")
    }
  }

  /// Path of the network's weights.
  ///
  /// - Throws: `FileError` that says which file is missing and where it belongs.
  func weights() throws -> String {
    if let inception { return AtomicFile.absolute(inception) }
    let named = ProcessInfo.processInfo.environment["ESPALIER_INCEPTION"]
    if let named, !named.isEmpty { return named }
    let names = [
      "pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth",
      "classify_image_graph_def.pb",
    ]
    let places = names.map { "\(UserDirectory.data.path())/\($0)" }
    if let found = places.first(where: FileManager.default.fileExists(atPath:)) { return found }
    throw FileError(
      "\(places[0]): the weights of Inception v3 are missing; fetch '\(names[0])' from the releases of pytorch-fid,"
        + " '\(names[1])' from those of torch-fidelity or '\(names[2])' of TensorFlow's inception-2015-12-05 and put it"
        + " into that folder, or name it with --inception"
    )
  }

  /// The request for a set, features or statistics.
  ///
  /// - Throws: `ValidationError` without a reference, `FileError` for missing weights or files.
  func request(_ path: String) throws -> EvaluateRequest {
    var request = EvaluateRequest(statistics != nil ? .statistics : features ? .features : .images)
    request.set = AtomicFile.absolute(path)
    request.resamplings = bootstrap
    if let statistics {
      try AtomicFile.requireDestination(statistics)
      request.output = AtomicFile.absolute(statistics)
    } else {
      guard let reference else {
        throw ValidationError(
          "\(path) is a set of images; give --reference, a file of statistics or another set")
      }
      request.reference = AtomicFile.absolute(reference)
    }
    if features {
      for path in [request.set, request.reference].compactMap(\.self) {
        _ = try FeatureSet.entry(in: try Checkpoint.open(path))
      }
    } else {
      request.inception = try weights()
      _ = try ImageSet(path: path)
      if let reference, (try? ReferenceSet(path: reference)) == nil {
        _ = try ImageSet(path: reference)
      }
    }
    return request
  }
}
