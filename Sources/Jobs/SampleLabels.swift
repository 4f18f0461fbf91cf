import Checkpoints
import Files
import Runs
import TensorCore

/// Classes of the images of a set.
package enum SampleLabels {
  /// Assigns a class to every image.
  ///
  /// - Parameters:
  ///   - request: Number of images, and how they get their classes.
  ///   - numClasses: Number of classes of the model.
  /// - Returns: A class for each image.
  /// - Throws: `FileError` for a class that the model lacks, or a file of labels that does not fit.
  package static func assign(_ request: SampleRequest, numClasses: Int) throws(FileError) -> [Int] {
    let classes = request.classes ?? Array(0..<numClasses)
    func requireKnown(_ labels: [Int], _ place: String) throws(FileError) {
      if let bad = labels.first(where: { !(0..<numClasses).contains($0) }) {
        throw FileError(
          "\(place): \(bad) is no class; give numbers 0 to \(numClasses - 1), separated by commas")
      }
    }
    try requireKnown(classes, "--classes")
    switch request.labels {
    case .cyclic: return (0..<request.count).map { classes[$0 % classes.count] }
    case .random:
      let stream = RandomStream(seed: request.sampler.seed, "sampling/labels")
      return (0..<request.count).map { classes[stream.integer(below: classes.count, $0)] }
    case .file:
      let path = request.labelsPath ?? ""
      let labels = try read(path, count: request.count)
      try requireKnown(labels, path)
      return labels
    }
  }

  /// Reads one integer for each image: the only array of a file, or `arr_1`.
  private static func read(_ path: String, count: Int) throws(FileError) -> [Int] {
    let file = try Checkpoint.open(path)
    let name = file.names.count == 1 ? file.names[0] : "arr_1"
    guard let entry = file.entry(name), entry.shape.count == 1, entry.count >= count else {
      throw FileError(
        "\(path): holds \(file.entry(name).map { "labels of shape \($0.shape)" } ?? "no labels"), expected"
          + " integers for at least \(count) images; save one array, or arr_1")
    }
    return Array(try file.integers(name).prefix(count))
  }
}
