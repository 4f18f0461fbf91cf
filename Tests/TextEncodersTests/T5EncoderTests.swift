import Checkpoints
import Files
import Foundation
import TensorCore
import TestSupport
import Testing
import TextEncoders

/// Folders of transformers whose weights are not those of the stated encoder.
@Suite("T5 encoder")
struct T5EncoderTests {
  /// Opens an encoder of two layers under a configuration of `layers`, with more tensors.
  private func open(layers: Int = 2, extra: [String: [Int]] = [:]) throws -> T5Encoder {
    let scratch = try Scratch()
    return try withExtendedLifetime(scratch) {
      let config = """
        {"d_model": 8, "d_kv": 4, "d_ff": 12, "num_heads": 2, "num_layers": \(layers), "vocab_size": 9,
         "feed_forward_proj": "gated-gelu"}
        """
      _ = try scratch.put(Array(config.utf8), "config.json")
      var shapes = extra
      shapes["shared.weight"] = [9, 8]
      shapes["encoder.final_layer_norm.weight"] = [8]
      shapes["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = [32, 2]
      for block in ["encoder.block.0.layer.", "encoder.block.1.layer."] {
        for name in "qkvo" { shapes["\(block)0.SelfAttention.\(name).weight"] = [8, 8] }
        for name in ["wi_0", "wi_1"] {
          shapes["\(block)1.DenseReluDense.\(name).weight"] = [12, 8]
        }
        shapes["\(block)1.DenseReluDense.wo.weight"] = [8, 12]
        for part in 0...1 { shapes["\(block)\(part).layer_norm.weight"] = [8] }
      }
      try SafetensorsWriter.write(
        shapes.map {
          TensorItem(
            name: $0, shape: $1, floats: RandomStream(seed: 1, $0).normal($1).values)
        }, metadata: [:], to: scratch.file("model.safetensors"))
      return try T5Encoder(folder: scratch.path, precision: PrecisionRule(.float32))
    }
  }

  /// Layers that the configuration does not count, and positions of every layer as UMT5 has them, would be left out.
  @Test func otherLayersAreRefused() throws {
    _ = try open(extra: ["decoder.block.0.layer.0.SelfAttention.q.weight": [8, 8]])
    let own = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"
    for (layers, extra, name) in [
      (1, [:], "'encoder.block.1."), (2, [own: [32, 2]], "'\(own)'"),
    ] as [(Int, [String: [Int]], String)] {
      let error = #expect(throws: FileError.self) { try open(layers: layers, extra: extra) }
      #expect(error?.message.contains(name) == true)
    }
  }
}
