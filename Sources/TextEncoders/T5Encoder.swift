import CKernels
import Checkpoints
import Files
import Foundation
import Models
import TensorCore

/// T5 v1.1 text encoder that reads its weights from disk layer by layer while it encodes.
///
/// So an encoder of any size needs the memory of one layer and of the activations: T5-XXL, 9.5 GB in
/// bfloat16, takes about a gigabyte.
package final class T5Encoder {
  package let config: T5Config
  /// Path of the weights.
  package var path: String { file.path }
  private let file: any TensorFile
  private let rule: PrecisionRule
  private let embedding: String

  /// Names of the token embedding; some files have it under both.
  private static let embeddings = ["shared.weight", "encoder.embed_tokens.weight"]

  /// Opens the encoder in a folder of transformers: `config.json` and the weights.
  ///
  /// - Parameters:
  ///   - folder: The folder.
  ///   - precision: Precision of the products in large linear layers.
  /// - Throws: `FileError` for a missing or damaged file, or a tensor of another shape.
  package init(folder: String, precision: PrecisionRule) throws {
    config = try T5Config(path: "\(folder)/config.json")
    file = try Checkpoint.open(Self.weights(in: folder))
    rule = precision
    guard let embedding = Self.embeddings.first(where: { [file] in file.entry($0) != nil }) else {
      throw FileError(
        "\(file.path): has no tensor 'shared.weight' among its \(file.names.count); give the weights of a T5"
          + " encoder")
    }
    self.embedding = embedding
    try require(embedding, [config.vocabulary, config.modelDim])
    for layer in 0..<config.layers {
      for (name, shape) in tensors(layer) { try require(name, shape) }
    }
    try require("encoder.final_layer_norm.weight", [config.modelDim])
    let known = Set((0..<config.layers).flatMap { tensors($0).map(\.0) })
    if let other = file.names.first(where: { $0.hasPrefix("encoder.block.") && !known.contains($0) }
    ) {
      throw FileError(
        "\(file.path): tensor '\(other)' is no part of a T5 v1.1 encoder of \(config.layers) layers; use the config.json"
          + " that belongs to the weights, and no UMT5")
    }
  }

  /// Path of the weights in a folder of transformers.
  ///
  /// - Throws: `FileError` if there are none.
  package static func weights(in folder: String) throws(FileError) -> String {
    try DiffusersFolder.weights(
      in: folder, stems: ["safetensors": "model", "bin": "pytorch_model"])
  }

  private func tensors(_ layer: Int) -> [(String, [Int])] {
    let (dim, inner) = (config.modelDim, config.heads * config.headDim)
    let attention = "encoder.block.\(layer).layer.0."
    let feedForward = "encoder.block.\(layer).layer.1."
    let bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    return ["q", "k", "v"].map { ("\(attention)SelfAttention.\($0).weight", [inner, dim]) } + [
      ("\(attention)SelfAttention.o.weight", [dim, inner]),
      ("\(attention)layer_norm.weight", [dim]),
      ("\(feedForward)DenseReluDense.wi_0.weight", [config.feedForwardDim, dim]),
      ("\(feedForward)DenseReluDense.wi_1.weight", [config.feedForwardDim, dim]),
      ("\(feedForward)DenseReluDense.wo.weight", [dim, config.feedForwardDim]),
      ("\(feedForward)layer_norm.weight", [dim]),
    ] + (layer == 0 ? [(bias, [config.buckets, config.heads])] : [])
  }

  private func require(_ name: String, _ shape: [Int]) throws(FileError) {
    let entry = try file.existing(name)
    guard entry.shape == shape else {
      throw FileError(
        "\(file.path): tensor '\(name)' has shape \(entry.shape), but config.json asks for \(shape); use the"
          + " config.json that belongs to the weights")
    }
    try file.requireFloats(entry)
  }

  // MARK: - Encoding

  /// Encodes texts of the same padded length.
  ///
  /// - Parameters:
  ///   - ids: Token ids, as many for every text.
  ///   - mask: 1 for tokens and 0 for padding, in the shape of `ids`; keys of padding are not attended to.
  ///   - observe: Called with the number of every layer and its output (texts, length, modelDim); may throw
  ///     to stop.
  /// - Returns: The last hidden state (texts, length, modelDim).
  /// - Throws: `FileError` for an id outside the vocabulary or weights that cannot be read.
  package func callAsFunction(
    _ ids: [[Int]], mask: [[Int]], observe: (Int, Tensor) throws -> Void = { _, _ in }
  ) throws -> Tensor {
    let (count, length) = (ids.count, ids.first?.count ?? 0)
    precondition(
      ids.allSatisfy { $0.count == length } && mask.map(\.count) == ids.map(\.count),
      "T5: texts of different lengths")
    let flat = ids.flatMap { $0 }
    if let bad = flat.first(where: { !(0..<config.vocabulary).contains($0) }) {
      throw FileError(
        "\(file.path): token \(bad) is outside its vocabulary of \(config.vocabulary); use the tokenizer of"
          + " this encoder")
    }
    let hidden = Tensor([count, length, config.modelDim])
    try file.readFloats(
      embedding, rows: flat, into: .init(start: hidden.pointer, count: hidden.count))
    let bias = try positionBias(length)
    for layer in 0..<config.layers {
      try autoreleased { try attend(layer, hidden, bias, mask.flatMap { $0 }) }
      try autoreleased { try feedForward(layer, hidden) }
      try observe(layer, hidden)
    }
    return try normalized(hidden, "encoder.final_layer_norm.weight")
  }

  /// Runs work whose buffers are given back to the system at its end.
  private func autoreleased(_ work: () throws -> Void) rethrows {
    try work()
    if config.modelDim * config.feedForwardDim > 1 << 22 { BufferPool.trim() }
  }

  /// Added to the scores (heads, length, length): rows are queries, columns are keys.
  private func positionBias(_ length: Int) throws -> Tensor {
    let table = try file.floats(
      "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
    let rows = (-max(0, length - 1)...max(0, length - 1)).map { config.bucket(offset: $0) }
    let bias = Tensor([config.heads, length, length])
    Parallel.ranges(config.heads * length, grain: 64) { range in
      for row in range {
        let (head, query) = (row / length, row % length)
        for key in 0..<length {
          bias[row * length + key] = table[rows[key - query + length - 1] * config.heads + head]
        }
      }
    }
    return bias
  }

  private func attend(_ layer: Int, _ hidden: Tensor, _ bias: Tensor, _ mask: [Int]) throws {
    let prefix = "encoder.block.\(layer).layer.0."
    let x = try normalized(hidden, "\(prefix)layer_norm.weight")
    let names = ["q", "k", "v"].map { "\(prefix)SelfAttention.\($0).weight" }
    let (q, k, v) = (
      try product(x, names[0]), try product(x, names[1]), try product(x, names[2])
    )
    let (count, length, heads, width) = (x.shape[0], x.shape[1], config.heads, config.headDim)
    let inner = heads * width
    let mixed = Tensor([count, length, inner])
    Parallel.tasks(count * heads) { task in
      let (text, head) = (task / heads, task % heads)
      let start = text * length * inner + head * width
      let scores = Tensor([length, length])
      Gemm.serial(
        transposeB: true, m: length, n: length, k: width, a: q.pointer + start, lda: inner,
        b: k.pointer + start, ldb: inner, c: scores.pointer, ldc: length)
      for query in 0..<length {
        let row = scores.pointer + query * length
        let shift = bias.pointer + (head * length + query) * length
        var largest = -Float.infinity
        for key in 0..<length {
          row[key] =
            mask[text * length + key] == 0 ? -Float.greatestFiniteMagnitude : row[key] + shift[key]
          largest = max(largest, row[key])
        }
        var sum: Float = 0
        for key in 0..<length {
          row[key] = expf(row[key] - largest)
          sum += row[key]
        }
        for key in 0..<length { row[key] /= sum }
      }
      Gemm.serial(
        m: length, n: width, k: length, a: scores.pointer, lda: length, b: v.pointer + start,
        ldb: inner,
        c: mixed.pointer + start, ldc: inner)
    }
    try add(mixed, "\(prefix)SelfAttention.o.weight", to: hidden)
  }

  private func feedForward(_ layer: Int, _ hidden: Tensor) throws {
    let prefix = "encoder.block.\(layer).layer.1."
    let x = try normalized(hidden, "\(prefix)layer_norm.weight")
    let gate = try product(x, "\(prefix)DenseReluDense.wi_0.weight")
    let values = try product(x, "\(prefix)DenseReluDense.wi_1.weight")
    Parallel.ranges(gate.count, grain: 1 << 14) { range in
      let gate = gate.pointer + range.lowerBound
      ck_gelu_forward_f32(gate, gate, range.count)
      let values = values.pointer + range.lowerBound
      for index in 0..<range.count { values[index] *= gate[index] }
    }
    try add(values, "\(prefix)DenseReluDense.wo.weight", to: hidden)
  }

  private func add(_ x: Tensor, _ weight: String, to hidden: Tensor) throws {
    let change = try product(x, weight)
    ck_add_f32(hidden.pointer, change.pointer, hidden.count)
  }

  /// x / sqrt(mean(x²) + epsilon) * weight over the last axis.
  private func normalized(_ x: Tensor, _ weight: String) throws -> Tensor {
    let scale = try file.floats(weight)
    let (dim, result) = (config.modelDim, Tensor(x.shape))
    Parallel.ranges(x.count / dim, grain: 16) { rows in
      for row in rows {
        let (source, target) = (x.pointer + row * dim, result.pointer + row * dim)
        var squares = 0.0
        for column in 0..<dim { squares += Double(source[column]) * Double(source[column]) }
        let factor = Float(1 / (squares / Double(dim) + config.epsilon).squareRoot())
        for column in 0..<dim { target[column] = source[column] * factor * scale[column] }
      }
    }
    return result
  }

  /// x (texts, length, in) by a weight (out, in) that is read for this product.
  private func product(_ x: Tensor, _ name: String) throws -> Tensor {
    let entry = try file.existing(name)
    let (outputs, inputs) = (entry.shape[0], entry.shape[1])
    let weight = Tensor(entry.shape)
    try file.readFloats(name, into: .init(start: weight.pointer, count: weight.count))
    let result = Tensor(Array(x.shape.dropLast()) + [outputs])
    if rule.precision(forWeightOf: entry.count).isRounded {
      PackedMatrix(.float32(weight), isTransposed: true).multiply(
        .float32(x), into: .float32(result))
    } else {
      Gemm.run(
        transposeB: true, m: x.count / inputs, n: outputs, k: inputs, a: x.pointer,
        b: weight.pointer,
        c: result.pointer)
    }
    return result
  }
}
