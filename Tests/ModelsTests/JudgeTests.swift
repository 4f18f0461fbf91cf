import Checkpoints
import Files
import Foundation
import Models
import Nn
import TensorCore
import TestSupport
import Testing

@MainActor @Suite("Shape judge")
struct JudgeTests {
  private let config = """
    {"layers": [
      {"name": "a", "type": "conv3x3", "in": 3, "out": 5, "stride": 2, "padding": 1, "activation": "relu"},
      {"name": "b", "type": "conv3x3", "in": 5, "out": 4, "stride": 1, "padding": 1, "activation": "relu"},
      {"name": "features", "type": "global_average_pool"},
      {"name": "fc", "type": "linear", "in": 4, "out": 2}],
     "classes": ["disc", "ring"], "input_range": [-1, 1], "accuracy": 0.75}
    """
  private let shapes: [(String, [Int])] = [
    ("a.weight", [5, 3, 3, 3]), ("a.bias", [5]), ("b.weight", [4, 5, 3, 3]), ("b.bias", [4]),
    ("fc.weight", [2, 4]), ("fc.bias", [2]),
  ]

  private func withJudge(
    config: String, shapes: [(String, [Int])], _ body: (String) throws -> Void
  ) throws {
    let path = FileManager.default.temporaryDirectory.appending(
      path: UUID().uuidString + ".safetensors"
    ).path
    defer { try? FileManager.default.removeItem(atPath: path) }
    let items = shapes.map { name, shape in
      SafetensorsWriter.Item(
        name: name, shape: shape, floats: RandomWeights().tensor(name, shape, .zeros).values)
    }
    try SafetensorsWriter.write(items, metadata: ["config": config], to: path)
    try body(path)
  }

  @Test func featuresAreMeansAndLogitsLinear() throws {
    try withJudge(config: config, shapes: shapes) { path in
      let judge = try ShapeJudge(path: path)
      #expect(judge.config.classes == ["disc", "ring"] && judge.config.accuracy == 0.75)
      var random = RandomSequence(seed: 3)
      let images = random.normal([11, 3, 10, 6])
      let verdict = judge(images)
      #expect(verdict.features.shape == [11, 4] && verdict.logits.shape == [11, 2])
      // The convolutions have their own test; here they are taken as given.
      let first = try Convolution3x3(RandomWeights(), "a", 3, 5, .halving(padsAllSides: true))
      let second = try Convolution3x3(RandomWeights(), "b", 5, 4)
      let maps = second(first(images, clampsNegative: true), clampsNegative: true)
      #expect(maps.shape == [11, 4, 5, 3])
      let weight = RandomWeights().tensor("fc.weight", [2, 4], .zeros)
      let bias = RandomWeights().tensor("fc.bias", [2], .zeros)
      for row in 0..<11 {
        let features = (0..<4).map { channel in
          (0..<15).reduce(Float(0)) { $0 + maps[(row * 4 + channel) * 15 + $1] } / 15
        }
        let logits = (0..<2).map { output in
          (0..<4).reduce(bias[output]) { $0 + weight[output * 4 + $1] * features[$1] }
        }
        for channel in 0..<4 {
          #expect(abs(verdict.features[row * 4 + channel] - features[channel]) < 1e-5)
        }
        for output in 0..<2 {
          #expect(abs(verdict.logits[row * 2 + output] - logits[output]) < 1e-5)
        }
        #expect(verdict.classes[row] == (logits[1] > logits[0] ? 1 : 0))
      }
    }
  }

  @Test(arguments: [
    ("\"in\": 5, \"out\": 4", "\"in\": 6, \"out\": 4", "\"b\""),
    ("\"stride\": 2", "\"stride\": 3", "\"a\""), ("\"ring\"]", "\"ring\", \"star\"]", "\"fc\""),
    ("global_average_pool", "max_pool", "global_average_pool"),
    ("{\"layers\"", "{\"rows\"", "layers"),
  ])
  func otherNetworksAreRefused(text: String, change: String, named: String) throws {
    try withJudge(config: config.replacing(text, with: change), shapes: shapes) { path in
      let error = #expect(throws: FileError.self) { try ShapeJudge(path: path) }
      #expect(error?.message.contains(named) == true && error?.message.contains(path) == true)
    }
  }

  @Test func missingAndSurplusWeightsAreNamed() throws {
    try withJudge(config: config, shapes: Array(shapes.dropLast())) { path in
      let error = #expect(throws: FileError.self) { try ShapeJudge(path: path) }
      #expect(error?.message.contains("fc.bias") == true)
    }
    try withJudge(config: config, shapes: shapes + [("c.bias", [1])]) { path in
      let error = #expect(throws: FileError.self) { try ShapeJudge(path: path) }
      #expect(error?.message.contains("c.bias") == true)
    }
  }
}
