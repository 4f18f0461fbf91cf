import Autograd
import Checkpoints
import Files
import Foundation
import Models
import Nn
import Operators
import Plans
import TensorCore
import TestSupport
import Testing

/// LightningDiT in double precision, written from its equations alone, over weights by their official names.
private struct Definition {
  let shape: ModelShape
  let weights: [String: [Double]]

  private func weight(_ name: String) -> [Double] { weights[name] ?? [] }

  private func linear(_ x: [Double], _ name: String) -> [Double] {
    let (matrix, bias) = (weight("\(name).weight"), weight("\(name).bias"))
    return (0..<(matrix.count / x.count)).map { row -> Double in
      var sum = bias.isEmpty ? 0 : bias[row]
      for (column, value) in x.enumerated() { sum += matrix[row * x.count + column] * value }
      return sum
    }
  }

  private func silu(_ x: Double) -> Double { x / (1 + exp(-x)) }

  private func norm(_ x: [Double], _ name: String, layerEpsilon: Double = 1e-6) -> [Double] {
    let (gain, bias) = (weight("\(name).weight"), weight("\(name).bias"))
    let count = Double(x.count)
    if shape.rmsNorm {
      let root = (x.reduce(0) { $0 + $1 * $1 } / count + 1e-6).squareRoot()
      return x.indices.map { x[$0] / root * gain[$0] }
    }
    let mean = x.reduce(0, +) / count
    let variance = x.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / count
    return x.indices.map {
      (x[$0] - mean) / (variance + layerEpsilon).squareRoot() * (gain.isEmpty ? 1 : gain[$0])
        + (bias.isEmpty ? 0 : bias[$0])
    }
  }

  /// A head's query or key as complex numbers, each turned by its coordinate and frequency.
  private func turned(_ head: [Double], _ token: Int) -> [Double] {
    guard shape.rotary else { return head }
    let (half, side) = (head.count / 2, shape.grid)
    return head.indices.map { index in
      let coordinate = index < half ? token / side : token % side
      let frequency = pow(10000, -Double(index % half / 2 * 2) / Double(half))
      let (c, s) = (cos(Double(coordinate) * frequency), sin(Double(coordinate) * frequency))
      return index % 2 == 0
        ? head[index] * c - head[index + 1] * s : head[index] * c + head[index - 1] * s
    }
  }

  private func attention(_ x: [[Double]], _ prefix: String) -> [[Double]] {
    let (dim, heads) = (shape.hiddenSize, shape.numHeads)
    let width = dim / heads
    let qkv = x.map { linear($0, prefix + "qkv") }
    func part(_ index: Int, _ head: Int) -> [[Double]] {
      qkv.enumerated().map { token, row in
        let start = index * dim + head * width
        let own = Array(row[start..<(start + width)])
        if index == 2 { return own }
        let name = prefix + (index == 0 ? "q_norm" : "k_norm")
        return turned(
          shape.queryKeyNorm ? norm(own, name, layerEpsilon: 1e-5) : own, token)
      }
    }
    var mixed = x.map { _ in [Double](repeating: 0, count: dim) }
    for head in 0..<heads {
      let (q, k, v) = (part(0, head), part(1, head), part(2, head))
      for query in q.indices {
        let scores = k.map { key in
          exp(zip(q[query], key).reduce(0) { $0 + $1.0 * $1.1 } / Double(width).squareRoot())
        }
        let total = scores.reduce(0, +)
        for (token, score) in scores.enumerated() {
          for channel in 0..<width {
            mixed[query][head * width + channel] += score / total * v[token][channel]
          }
        }
      }
    }
    return mixed.map { linear($0, prefix + "proj") }
  }

  private func mlp(_ x: [Double], _ prefix: String) -> [Double] {
    guard shape.swiglu else {
      let hidden = linear(x, prefix + "fc1").map {
        0.5 * $0 * (1 + tanh((2 / Double.pi).squareRoot() * ($0 + 0.044715 * $0 * $0 * $0)))
      }
      return linear(hidden, prefix + "fc2")
    }
    let both = linear(x, prefix + "w12")
    let width = both.count / 2
    return linear((0..<width).map { silu(both[$0]) * both[width + $0] }, prefix + "w3")
  }

  /// Velocity (channels, side, side) of one image of the same shape.
  func callAsFunction(_ image: [Double], time: Double, label: Int) -> [Double] {
    let (dim, side, patch, channels) = (
      shape.hiddenSize, shape.grid, shape.patchSize, shape.inChannels
    )
    let edge = side * patch
    let (kernel, positions) = (weight("x_embedder.proj.weight"), weight("pos_embed"))
    var x = (0..<(side * side)).map { token in
      (0..<dim).map { row -> Double in
        var sum = weight("x_embedder.proj.bias")[row] + positions[token * dim + row]
        for channel in 0..<channels {
          for place in 0..<(patch * patch) {
            let (y, z) = (
              token / side * patch + place / patch, token % side * patch + place % patch
            )
            sum +=
              kernel[(row * channels + channel) * patch * patch + place]
              * image[(channel * edge + y) * edge + z]
          }
        }
        return sum
      }
    }
    let own = shape.reversedTime ? 1 - time : time
    let angles = (0..<128).map { own * exp(-log(10000) * Double($0) / 128) }
    let hidden = linear(angles.map(cos) + angles.map(sin), "t_embedder.mlp.0").map(silu)
    let table = weight("y_embedder.embedding_table.weight")
    let condition = zip(
      linear(hidden, "t_embedder.mlp.2"), table[(label * dim)..<((label + 1) * dim)]
    )
    .map { silu($0 + $1) }
    func modulated(_ x: [Double], _ name: String, _ shift: [Double]?, _ scale: [Double]) -> [Double]
    {
      let normed = norm(x, name)
      return normed.indices.map { normed[$0] * (1 + scale[$0]) + (shift?[$0] ?? 0) }
    }
    for block in 0..<shape.depth {
      let prefix = "blocks.\(block)."
      let all = linear(condition, prefix + "adaLN_modulation.1")
      let chunks = stride(from: 0, to: all.count, by: dim).map { Array(all[$0..<($0 + dim)]) }
      // shift, scale and gate, twice; or scale and gate, twice.
      let m: [[Double]?] =
        shape.blockShift
        ? chunks : [nil, chunks[0], chunks[1], nil, chunks[2], chunks[3]]
      let mixed = attention(
        x.map { modulated($0, prefix + "norm1", m[0], m[1] ?? []) }, prefix + "attn.")
      for token in x.indices {
        for channel in 0..<dim {
          x[token][channel] += (m[2]?[channel] ?? 0) * mixed[token][channel]
        }
        let out = mlp(modulated(x[token], prefix + "norm2", m[3], m[4] ?? []), prefix + "mlp.")
        for channel in 0..<dim { x[token][channel] += (m[5]?[channel] ?? 0) * out[channel] }
      }
    }
    let last = linear(condition, "final_layer.adaLN_modulation.1")
    var result = [Double](repeating: 0, count: channels * edge * edge)
    let outputs = shape.outChannels
    for token in x.indices {
      let y = linear(
        modulated(
          x[token], "final_layer.norm_final", Array(last[..<dim]), Array(last[dim...])),
        "final_layer.linear")
      for place in 0..<(patch * patch) {
        for channel in 0..<channels {
          let (row, column) = (
            token / side * patch + place / patch, token % side * patch + place % patch
          )
          result[(channel * edge + row) * edge + column] =
            (shape.reversedTime ? -1 : 1) * y[place * outputs + channel]
        }
      }
    }
    return result
  }
}

@MainActor @Suite("LightningDiT")
struct LightningDiTTests {
  init() { OperatorRegistry.fillCatalog() }

  /// All parts, and one left out at a time.
  nonisolated private static func shape(_ change: (inout ModelShape) -> Void = { _ in })
    -> ModelShape
  {
    var shape = ModelShape(
      family: .lightningdit, depth: 2, hiddenSize: 24, numHeads: 3, patchSize: 1, inputSize: 3,
      inChannels: 5, numClasses: 4, learnSigma: false)
    (shape.rmsNorm, shape.queryKeyNorm, shape.rotary, shape.swiglu) = (true, true, true, true)
    change(&shape)
    return shape
  }

  nonisolated private static let shapes: [ModelShape] = [
    shape(), shape { $0.rmsNorm = false }, shape { $0.queryKeyNorm = false },
    shape { $0.rotary = false }, shape { $0.swiglu = false }, shape { $0.mlpBias = false },
    shape { $0.blockShift = false }, shape { $0.reversedTime = true },
    shape { ($0.patchSize, $0.inputSize, $0.learnSigma) = (2, 6, true) },
    shape {
      ($0.family, $0.rmsNorm, $0.rotary, $0.swiglu, $0.blockShift) = (
        .sit, false, false, false, false
      )
    },
  ]

  private func model(_ shape: ModelShape) throws -> DiT {
    try DiT(config: shape, weights: TinyModel.Noise())
  }

  @Test(arguments: shapes.indices)
  func agreesWithItsDefinition(index: Int) throws {
    let shape = Self.shapes[index]
    let model = try model(shape)
    let definition = Definition(
      shape: shape,
      weights: Dictionary(
        uniqueKeysWithValues: model.parameters.map { ($0.name, $0.value.values.map(Double.init)) }))
    var random = RandomSequence(seed: 2)
    let x = random.normal([2, 5, shape.inputSize, shape.inputSize])
    let (times, labels): ([Float], [Int]) = ([0.25, 0.875], [1, 4])
    let found = model.predict(x, Conditioning(timesteps: times, labels: labels))
    let (wide, narrow) = (found.count / 2, x.count / 2)
    for row in 0..<2 {
      let image = x.rows(row..<(row + 1)).values.map(Double.init)
      let expected = definition(image, time: Double(times[row]), label: labels[row])
      // A model of velocities uses the first half of twice as many channels.
      let own = found.values[(row * wide)..<(row * wide + narrow)]
      let largest = expected.map(abs).max() ?? 1
      let worst = zip(own, expected).map { abs(Double($0) - $1) }.max() ?? .infinity
      #expect(largest > 0.1 && worst < 2e-5 * largest, "\(shape)")
    }
  }

  /// The gradient along random directions of all parameters is the slope of the definition.
  @Test(arguments: shapes.indices)
  func gradientsAreSlopes(index: Int) throws {
    let shape = Self.shapes[index]
    let model = try model(shape)
    var random = RandomSequence(seed: 2)
    let x = random.normal([1, 5, shape.inputSize, shape.inputSize])
    let tape = Tape()
    let output = model(
      Value(constant: x), Conditioning(timesteps: [0.25], labels: [1]), on: tape)
    // A model of velocities uses the first half of twice as many channels.
    let cotangent = Tensor.zeros(output.shape)
    let weights = random.normal([x.count])
    for place in 0..<x.count { cotangent[place] = weights[place] }
    tape.backward(output, cotangent)
    let image = x.values.map(Double.init)
    let trained = model.parameters.filter { !$0.isFrozen }
    for _ in 0..<3 {
      let directions = trained.map { random.normal($0.shape).values }
      func loss(_ step: Double) -> Double {
        var values = Dictionary(
          uniqueKeysWithValues: model.parameters.map { ($0.name, $0.value.values.map(Double.init)) }
        )
        for (parameter, direction) in zip(trained, directions) {
          values[parameter.name] = zip(parameter.value.values, direction).map {
            Double($0) + step * Double($1)
          }
        }
        let found = Definition(shape: shape, weights: values)(image, time: 0.25, label: 1)
        return zip(found, weights.values).reduce(0) { $0 + $1.0 * Double($1.1) }
      }
      let slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
      var own = 0.0
      var size = 0.0
      for (parameter, direction) in zip(trained, directions) {
        for (gradient, change) in zip(parameter.gradient?.values ?? [], direction) {
          own += Double(gradient) * Double(change)
          size += Double(gradient) * Double(gradient)
        }
      }
      #expect(size > 0 && abs(own - slope) < 1e-4 * size.squareRoot(), "\(shape)")
    }
  }

  @Test func theNamesOfThePublishedModel() throws {
    let names = Set(try model(Self.shape()).parameters.map(\.name))
    let block = [
      "norm1.weight", "norm2.weight", "attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight",
      "attn.proj.bias", "attn.q_norm.weight", "attn.k_norm.weight", "mlp.w12.weight",
      "mlp.w12.bias", "mlp.w3.weight", "mlp.w3.bias", "adaLN_modulation.1.weight",
      "adaLN_modulation.1.bias",
    ]
    for index in 0..<2 { #expect(names.isSuperset(of: block.map { "blocks.\(index).\($0)" })) }
    #expect(names.contains("final_layer.norm_final.weight"))
    #expect(names.count == 2 * block.count + 13)
  }

  /// LightningDiT-XL/1 has inner width 3072 and 675 million parameters (w12 and w3 of 4 * 1152 * 2 / 3 units).
  @Test func theSizeOfThePublishedModel() throws {
    var shape = ModelShape(
      family: .lightningdit, depth: 28, hiddenSize: 1152, numHeads: 16, patchSize: 1, inputSize: 16,
      inChannels: 32, numClasses: 1000, learnSigma: false)
    (shape.rmsNorm, shape.rotary, shape.swiglu) = (true, true, true)
    #expect(shape.mlpWidth == 3072)
    #expect(shape.original(.mlp).value("expansion_ratio") == 3072.0 / 1152)
    let cost = GraftPlan(
      named: "x", model: ModelReference(path: "x", shape: shape, contentHash: "0")
    ).cost().original
    let (d, h) = (1152, 3072)
    let block = 4 * d * d + 4 * d + 3 * d * h + 2 * h + d + 6 * d * d + 6 * d + 2 * d
    let rest =
      256 * d + d * d + 2 * d + 1001 * d + 256 * d + 32 * d + d + 2 * d * d + 2 * d + d + 32 * d
      + 32
    #expect(cost.parameters == 28 * block + rest)
  }

  @Test(arguments: shapes.indices)
  func theCostCountsAllParameters(index: Int) throws {
    let shape = Self.shapes[index]
    let cost = GraftPlan(
      named: "x", model: ModelReference(path: "x", shape: shape, contentHash: "0")
    ).cost().original
    #expect(cost.parameters == (try model(shape)).parameters.reduce(0) { $0 + $1.value.count })
  }

  /// A file as upstream saves it: an entry `ema`, tables of rotary positions, and nothing that states the shape.
  private func withFile(
    _ shape: ModelShape, _ name: String = "lightning.safetensors", extra: [TensorItem] = [],
    metadata: [String: String] = [:], body: (String) throws -> Void
  ) throws {
    let scratch = try Scratch()
    try withExtendedLifetime(scratch) {
      let path = "\(scratch.path)/\(name)"
      var items = try model(shape).parameters.map {
        TensorItem(name: "ema." + $0.name, shape: $0.value.shape, floats: $0.value.values)
      }
      if shape.rotary {
        let head = shape.hiddenSize / shape.numHeads
        let table = RotaryTables(side: shape.grid)(
          rows: shape.grid, columns: shape.grid, headDim: head)
        for (kind, offset) in [("cos", 0), ("sin", 1)] {
          items.append(
            TensorItem(
              name: "ema.feat_rope.freqs_\(kind)", shape: table.shape,
              floats: table.values.indices.map { table[$0 - $0 % 2 + offset] }))
        }
      }
      try SafetensorsWriter.write(items + extra, metadata: metadata, to: path)
      try body(path)
    }
  }

  @Test(arguments: [0, 1, 2, 4, 6])
  func opensWithoutAConfiguration(index: Int) throws {
    let shape = Self.shapes[index]
    try withFile(shape) { path in
      let file = try ModelWeights(named: path).model()
      #expect(file.shape == shape && file.changes.isEmpty)
      #expect(file.notes.contains { $0.contains("blocks of LightningDiT") })
      let x = RandomStream(seed: 1, "x").normal([1, 5, 3, 3])
      let conditioning = Conditioning(timesteps: [0.5], labels: [2])
      let expected = try model(shape).predict(x, conditioning).values
      #expect(try file.network().predict(x, conditioning).values == expected)
      // Saved again it states its shape, and opens without a note.
      let copy = path + ".copy.pt"
      _ = try ModelWriter.write(
        try file.network(), metadata: try file.metadata(), classNames: [], as: .init(), to: copy)
      let again = try ModelWeights(named: copy).model()
      #expect(again.shape == shape && again.notes.isEmpty)
      #expect(throws: FileError.self) {
        try ModelWriter.write(
          try file.network(), metadata: [:], classNames: [], as: .init(naming: .diffusers),
          to: path + ".folder")
      }
    }
  }

  @Test(arguments: ["feat_rope.freqs_cos", "feat_rope.freqs_sin"])
  func otherRotationsAreRefused(name: String) throws {
    let shape = Self.shape()
    let scratch = try Scratch()
    try withExtendedLifetime(scratch) {
      let path = "\(scratch.path)/model.safetensors"
      try SafetensorsWriter.write(
        try model(shape).parameters.map {
          TensorItem(name: $0.name, shape: $0.value.shape, floats: $0.value.values)
        } + [
          TensorItem(name: name, shape: [9, 8], floats: .init(repeating: 0.5, count: 72))
        ],
        metadata: [:], to: path)
      let error = #expect(throws: FileError.self) { try ModelWeights(named: path).model() }
      #expect(error?.description.contains("'\(name)' differs") == true)
    }
  }

  /// What is left out of a file is named one by one, so that nothing which changes the model goes with it.
  @Test(arguments: ["bn.weight", "bn.bias", "feat_rope.freqs_h"])
  func whatIsNotLeftOutIsRefused(name: String) throws {
    try withFile(
      Self.shape(),
      extra: [TensorItem(name: "ema." + name, shape: [5], floats: [1, 2, 3, 4, 5])]
    ) { path in
      let error = #expect(throws: FileError.self) {
        try ModelWeights(named: path).model().network()
      }
      #expect(error?.description.contains("'\(name)'") == true)
    }
  }

  /// Models of other embeddings around such blocks are refused by the tensor that shows it.
  @Test(arguments: ["t_embedder.W", "s_embedder.proj.weight", "x_embedder.proj1.weight"])
  func otherEmbeddingsAreRefused(name: String) throws {
    try withFile(
      Self.shape(), extra: [TensorItem(name: "ema." + name, shape: [2], floats: [1, 2])]
    ) { path in
      let error = #expect(throws: FileError.self) { try ModelWeights(named: path).model() }
      #expect(error?.description.contains("'\(name)'") == true)
    }
  }

  /// The blocks of a single replaced MLP do not make a DiT a LightningDiT.
  @Test func aGatedReplacementIsAnEdit() throws {
    var shape = TinyModel.config
    shape.family = .dit
    let id = SlotID(block: 1, slot: .mlp)
    let graft = try DiT(
      config: shape, edits: [id: OperatorSpec("swiglu", ["expansion_ratio": 2])],
      weights: TinyModel.Noise())
    let scratch = try Scratch()
    try withExtendedLifetime(scratch) {
      let path = "\(scratch.path)/dit.safetensors"
      try SafetensorsWriter.write(
        graft.parameters.map {
          TensorItem(name: $0.name, shape: $0.value.shape, floats: $0.value.values)
        }, metadata: [:], to: path)
      let file = try ModelWeights(named: path).model(numHeads: 3)
      #expect(file.shape.family == .dit && !file.shape.swiglu)
      #expect(file.changes.edits[id]?.name == "swiglu" && file.changes.edits.count == 1)
    }
  }

  /// REPA trains with data at time 0: its velocity at t is that of the reversed path.
  @Test func timesOfREPA() throws {
    var shape = Self.shape { $0.reversedTime = true }
    let reversed = try model(shape)
    shape.reversedTime = false
    let plain = try model(shape)
    let x = RandomStream(seed: 1, "x").normal([1, 5, 3, 3])
    let one = reversed.predict(x, Conditioning(timesteps: [0.25], labels: [2])).values
    let other = plain.predict(x, Conditioning(timesteps: [0.75], labels: [2])).values
    #expect(zip(one, other).allSatisfy { $0 == -$1 } && one.contains { $0 != 0 })
    try withFile(
      shape, extra: [TensorItem(name: "ema.projectors.0.0.weight", shape: [2], floats: [1, 2])]
    ) { path in
      let file = try ModelWeights(named: path).model()
      #expect(file.shape.reversedTime && file.notes.contains { $0.contains("data at time 0") })
      try Data(#"{"config": {"reversed_time": false}}"#.utf8).write(
        to: URL(filePath: path + ".json"))
      #expect(try !ModelWeights(named: path).model().shape.reversedTime)
    }
  }

  /// REPA-E keeps the statistics of its latents in the model, LightningDiT in a file beside it.
  @Test func statisticsOfLatents() throws {
    let mean: [Float] = [1, 2, 3, 4, 5]
    let variance: [Float] = [4, 9, 16, 25, 36]
    let norm = [
      TensorItem(name: "ema.bn.running_mean", shape: [5], floats: mean),
      TensorItem(name: "ema.bn.running_var", shape: [5], floats: variance),
    ]
    try withFile(Self.shape(), extra: norm) { path in
      let files = try ModelFiles(path)
      #expect(files.latentStatistics?.mean == [1, 2, 3, 4, 5])
      #expect(files.latentStatistics?.deviation == [2, 3, 4, 5, 6])
      _ = try files.model.network()
    }
    try withFile(Self.shape()) { path in
      #expect(try ModelFiles(path).latentStatistics == nil)
      let folder = AtomicFile.directory(of: path)
      try TorchWriter.write(
        [
          TensorItem(name: "mean", shape: [1, 5, 1, 1], floats: mean),
          TensorItem(name: "std", shape: [1, 5, 1, 1], floats: [2, 3, 4, 5, 6]),
        ], entry: nil, to: "\(folder)/latents_stats.pt")
      let found = try ModelFiles(path).latentStatistics
      #expect(found?.mean == [1, 2, 3, 4, 5] && found?.deviation == [2, 3, 4, 5, 6])
      try TorchWriter.write(
        [
          TensorItem(name: "mean", shape: [1], floats: [1]),
          TensorItem(name: "std", shape: [1], floats: [0]),
        ], entry: nil, to: "\(folder)/latents_stats.pt")
      #expect(throws: FileError.self) { try ModelFiles(path) }
    }
  }
}
