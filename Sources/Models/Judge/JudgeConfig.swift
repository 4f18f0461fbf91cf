import Checkpoints
import Files
import Foundation

/// Layer list of a judge, from the `config` entry of its metadata.
package struct JudgeConfig: Codable, Equatable, Sendable {
  /// One layer.
  package struct Layer: Codable, Equatable, Sendable {
    /// Prefix of the keys of its weights.
    package let name: String
    /// "conv3x3" with ReLU, "global_average_pool" or "linear".
    package let type: String
    /// Input channels.
    package let `in`: Int?
    /// Output channels.
    package let out: Int?
    /// Stride of a convolution, 1 or 2.
    package let stride: Int?
    /// Zero padding on every side, 1.
    package let padding: Int?
    /// "relu" after a convolution.
    package let activation: String?
  }

  /// Convolutions, global average pooling and one linear layer.
  package let layers: [Layer]
  /// Names of the classes, in the order of the logits.
  package let classes: [String]
  /// Held-out accuracy, if stated.
  package let accuracy: Double?

  /// Reads the configuration of an open weight file.
  ///
  /// - Returns: A configuration that `ShapeJudge` can build.
  /// - Throws: `FileError` if there is none or it describes another network.
  package static func find(for file: SafetensorsFile) throws(FileError) -> JudgeConfig {
    let advice = "; use the judge that belongs to this version"
    guard let text = file.metadata["config"] else {
      throw FileError(
        "\(file.path): the metadata lacks \"config\", expected a judge's layers" + advice)
    }
    let config: JudgeConfig
    do {
      config = try JSONDecoder().decode(JudgeConfig.self, from: Data(text.utf8))
    } catch {
      throw FileError(
        "\(file.path): \"config\" of the metadata is no list of a judge's layers and classes"
          + advice)
    }
    if let fault = config.fault {
      throw FileError("\(file.path): \"config\" of the metadata \(fault)" + advice)
    }
    return config
  }

  /// The convolutions in order.
  var convolutions: ArraySlice<Layer> { layers.dropLast(2) }

  /// Reason why the network cannot be built; nil if it can.
  private var fault: String? {
    guard layers.count >= 3, layers[layers.count - 2].type == "global_average_pool",
      let head = layers.last, head.type == "linear"
    else { return "must list convolutions, a global_average_pool and a linear layer" }
    var channels: Int?
    for layer in convolutions {
      guard layer.type == "conv3x3", layer.activation == "relu", layer.padding == 1,
        layer.stride == 1 || layer.stride == 2
      else { return "has a layer \"\(layer.name)\" that is no 3x3 convolution with ReLU" }
      guard let inputs = layer.in, let outputs = layer.out, inputs > 0, outputs > 0,
        channels == nil || channels == inputs
      else { return "has a layer \"\(layer.name)\" whose channels do not fit the one before" }
      channels = outputs
    }
    guard head.in == channels, head.out == classes.count, !classes.isEmpty else {
      return "has a layer \"\(head.name)\" that does not fit the features and classes"
    }
    return nil
  }
}
