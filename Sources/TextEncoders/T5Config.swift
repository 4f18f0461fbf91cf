import Files
import Foundation

/// Architecture of a T5 v1.1 encoder (transformers `T5EncoderModel`).
package struct T5Config: Equatable, Sendable {
  /// Width of a token and of a layer's feed-forward network.
  package let modelDim, feedForwardDim: Int
  /// Attention heads and the width of each; together they need not equal the model's width.
  package let heads, headDim: Int
  package let layers: Int
  /// Rows of the embedding.
  package let vocabulary: Int
  /// Buckets of relative positions, and the distance from which on all share the last one.
  package let buckets, maxDistance: Int
  package let epsilon: Double

  private struct Stored: Decodable {
    let dModel, dKv, dFf, numHeads, numLayers, vocabSize: Int
    let relativeAttentionNumBuckets, relativeAttentionMaxDistance: Int?
    let layerNormEpsilon: Double?
    let feedForwardProj, modelType, denseActFn: String?
  }

  /// Reads a `config.json` of transformers.
  ///
  /// - Throws: `FileError` that names the key at fault.
  package init(path: String) throws(FileError) {
    let advice = "use the config.json of a T5 v1.1 encoder"
    let text = try AtomicFile.readJSON(path, limit: 16 << 20)
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    let stored: Stored
    do {
      stored = try decoder.decode(Stored.self, from: Data(text))
    } catch DecodingError.keyNotFound(let key, _) {
      throw FileError("\(path): lacks the entry '\(key.stringValue)'; \(advice)")
    } catch {
      throw FileError("\(path): is no configuration of a T5 encoder; \(advice)")
    }
    func require(_ holds: Bool, _ key: String, _ found: Any, _ expected: String) throws(FileError) {
      if holds { return }
      throw FileError("\(path): config key '\(key)' is \(found), expected \(expected); \(advice)")
    }
    try require(stored.modelType ?? "t5" == "t5", "model_type", stored.modelType ?? "", "t5")
    try require(
      stored.feedForwardProj == "gated-gelu", "feed_forward_proj",
      stored.feedForwardProj ?? "absent",
      "gated-gelu")
    try require(
      stored.denseActFn ?? "gelu_new" == "gelu_new", "dense_act_fn", stored.denseActFn ?? "",
      "gelu_new")
    (buckets, maxDistance) = (
      stored.relativeAttentionNumBuckets ?? 32, stored.relativeAttentionMaxDistance ?? 128
    )
    for (key, value, range) in [
      ("d_model", stored.dModel, 1...65_536), ("d_ff", stored.dFf, 1...262_144),
      ("num_heads", stored.numHeads, 1...1024), ("d_kv", stored.dKv, 1...4096),
      ("num_layers", stored.numLayers, 1...1000), ("vocab_size", stored.vocabSize, 1...4_194_304),
      ("relative_attention_num_buckets", buckets, 4...4096),
      ("relative_attention_max_distance", maxDistance, 2...1_000_000),
    ] {
      try require(range.contains(value), key, value, "\(range.lowerBound) to \(range.upperBound)")
    }
    try require(
      maxDistance > buckets / 4 && buckets % 4 == 0, "relative_attention_max_distance", maxDistance,
      "more than a quarter of the \(buckets) buckets, a multiple of 4")
    epsilon = stored.layerNormEpsilon ?? 1e-6
    try require(epsilon > 0 && epsilon < 1, "layer_norm_epsilon", epsilon, "more than 0, below 1")
    (modelDim, feedForwardDim, heads) = (stored.dModel, stored.dFf, stored.numHeads)
    (headDim, layers, vocabulary) = (stored.dKv, stored.numLayers, stored.vocabSize)
  }

  /// Bucket of a relative position: half of them for keys after the query, in each half the first half for
  /// single distances and the rest in logarithmic steps.
  ///
  /// - Parameter offset: Position of the key minus that of the query.
  /// - Returns: Row of the table of biases.
  package func bucket(offset: Int) -> Int {
    let half = buckets / 2
    let exact = half / 2
    let distance = abs(offset)
    let start = offset > 0 ? half : 0
    if distance < exact { return start + distance }
    // In float32, as upstream: at the edges of buckets the result depends on the rounding.
    let ratio =
      logf(Float(distance) / Float(exact)) / Float(log(Double(maxDistance) / Double(exact)))
    return start + min(half - 1, exact + Int(ratio * Float(half - exact)))
  }
}
