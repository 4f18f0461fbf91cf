import Autograd
import Foundation
import Grafting
import Nn
import Operators
import Plans
import TensorCore
import TestSupport
import Testing

/// Replacements that start from weights of what they replace.
@MainActor @Suite("Transferred initialisation")
struct TransferTests {
  private func module(_ spec: OperatorSpec, _ slot: Slot, transferred: Bool = true) throws -> (
    any GraftOperator, any GraftOperator, TensorCore.Tensor
  ) {
    let id = SlotID(block: 1, slot: slot)
    var plan = TinyModel.plan([id: spec])
    if transferred {
      plan.stage1.overrides[.slot(id), default: SiteOverride()].initialization = .transferred
    }
    try plan.validate()
    let teacher = try TinyModel.make()
    let graft = try Graft(fresh: plan, teacher: teacher)
    let block = teacher.blocks[1]
    let original: any GraftOperator = slot == .attention ? block.sequenceMixer : block.channelMixer
    var random = RandomSequence(seed: 4)
    return (try #require(graft.replacement(id)), original, random.normal([2, 16, 24]))
  }

  private func output(_ module: any GraftOperator, _ x: Tensor) -> Tensor {
    module(Value(constant: x), on: Tape(recording: false)).tensor
  }

  private func distance(_ first: Tensor, _ second: Tensor) -> Float {
    zip(first.values, second.values).map { abs($0 - $1) }.max() ?? .infinity
  }

  @Test(
    arguments: [
      (OperatorSpec("mha"), Slot.attention), (OperatorSpec("mlp", ["expansion_ratio": 4]), .mlp),
      (OperatorSpec("mlp", ["expansion_ratio": 6]), .mlp),
      // A window over all tokens sees what attention sees.
      (OperatorSpec("swa", ["window_left": 15, "window_right": 15]), .attention),
      (OperatorSpec("swa2d", ["window": 5]), .attention),
    ])
  func theSameFunctionStaysTheSame(spec: OperatorSpec, slot: Slot) throws {
    let (replacement, original, x) = try module(spec, slot)
    #expect(distance(output(replacement, x), output(original, x)) < 1e-4, "\(spec)")
    let (fresh, _, _) = try module(spec, slot, transferred: false)
    #expect(distance(output(fresh, x), output(original, x)) > 0.1, "\(spec)")
  }

  @Test func aNarrowerMLPKeepsItsStrongestUnits() throws {
    let (replacement, original, _) = try module(
      OperatorSpec("mlp", ["expansion_ratio": 1]), .mlp)
    let old = Dictionary(
      uniqueKeysWithValues: original.parameters.map { ($0.name, $0.value) })
    let new = Dictionary(
      uniqueKeysWithValues: replacement.parameters.map { ($0.name, $0.value) })
    let (into, out) = (
      try #require(old["blocks.1.mlp.fc1.weight"]), try #require(old["blocks.1.mlp.fc2.weight"])
    )
    func strength(_ unit: Int) -> Float {
      let first = (0..<24).reduce(Float(0)) { $0 + into[unit * 24 + $1] * into[unit * 24 + $1] }
      let second = (0..<24).reduce(Float(0)) { $0 + out[$1 * 96 + unit] * out[$1 * 96 + unit] }
      return first * second
    }
    let kept = (0..<96).sorted { strength($0) > strength($1) }.prefix(24).sorted()
    let (fc1, fc2) = (
      try #require(new["blocks.1.mlp.fc1.weight"]), try #require(new["blocks.1.mlp.fc2.weight"])
    )
    let bias = try #require(new["blocks.1.mlp.fc1.bias"])
    for (place, unit) in kept.enumerated() {
      #expect(fc1.rows(place..<(place + 1)).values == into.rows(unit..<(unit + 1)).values)
      #expect(bias[place] == old["blocks.1.mlp.fc1.bias"]?[unit])
      for channel in 0..<24 { #expect(fc2[channel * 24 + place] == out[channel * 96 + unit]) }
    }
    #expect(new["blocks.1.mlp.fc2.bias"]?.values == old["blocks.1.mlp.fc2.bias"]?.values)
  }

  @Test(arguments: ["hyena_x", "hyena_y", "hyena_se", "linear_attention"])
  func valuesAndOutputComeFromAttention(name: String) throws {
    let (replacement, original, _) = try module(OperatorSpec(name), .attention)
    let old = Dictionary(
      uniqueKeysWithValues: original.parameters.map { ($0.name, $0.value) })
    let input = name == "linear_attention" ? "qkv" : "in_proj"
    let out = name == "linear_attention" ? "proj" : "out_proj"
    for parameter in replacement.parameters {
      switch parameter.name {
      case "blocks.1.attn.\(input).weight", "blocks.1.attn.\(input).bias":
        let source = try #require(
          old[parameter.name.replacing(".\(input).", with: ".qkv.")])
        #expect(parameter.value.rows(48..<72).values == source.rows(48..<72).values)
        #expect(parameter.value.rows(0..<48).values != source.rows(0..<48).values)
      case "blocks.1.attn.\(out).weight", "blocks.1.attn.\(out).bias":
        let source = old[parameter.name.replacing(".\(out).", with: ".proj.")]
        #expect(parameter.value.values == source?.values)
      default: break
      }
    }
  }

  @Test func queriesAndKeysAreInheritedOnRequest() throws {
    for (spec, isInherited) in [
      (OperatorSpec("linear_attention", ["inherit_qk": 1]), true),
      (OperatorSpec("linear_attention"), false), (OperatorSpec("hybrid"), true),
    ] {
      let (replacement, original, _) = try module(spec, .attention)
      let (new, old) = (replacement.parameters[0], original.parameters[0])
      #expect(new.name == "blocks.1.attn.qkv.weight" && new.name == old.name)
      #expect((new.value.values == old.value.values) == isInherited, "\(spec)")
    }
  }

  /// A scan of transferred weights begins as linear attention.
  ///
  /// It is the sum of C B x over all earlier and later tokens, gated by 1, with SiLU for the feature map.
  @Test func aScanStartsAsLinearAttention() throws {
    let spec = OperatorSpec(
      "mamba2",
      ["expand": 1, "ngroups": 3, "d_state": 8, "headdim": 8, "bias": 1, "scan": 1])
    let (replacement, original, x) = try module(spec, .attention)
    let mixer = try #require(replacement as? any LinearOutput)
    let found = mixer.features(
      Value(constant: x), grid: TokenGrid(tokens: 16), on: Tape(recording: false)
    ).tensor.doubleRows
    let qkv = MixerDefinition.linear(
      x.doubleRows, original.parameters[0].value.values.map(Double.init),
      original.parameters[1].value.values.map(Double.init)
    ).map { row in row.map { $0 / (1 + exp(-$0)) } }
    for (row, features) in found.enumerated() {
      let image = row / 16 * 16
      var wanted = [Double](repeating: 0, count: 24)
      for other in image..<(image + 16) {
        for channel in 0..<24 {
          let head = channel / 8 * 8
          let weight = (head..<(head + 8)).reduce(0) { $0 + qkv[row][$1] * qkv[other][24 + $1] }
          // Both directions contain the token itself.
          wanted[channel] += (other == row ? 2 : 1) * weight * qkv[other][48 + channel]
        }
      }
      let mean = wanted.reduce(0) { $0 + $1 * $1 }
      for group in 0..<3 {
        let range = (8 * group)..<(8 * group + 8)
        let norm = (range.reduce(0) { $0 + wanted[$1] * wanted[$1] } / 8 + 1e-5).squareRoot()
        for channel in range {
          #expect(abs(features[channel] - wanted[channel] / norm) < 2e-3, "\(row) \(mean)")
        }
      }
    }
    let output = try #require(mixer.outputLayer.weight).value.values
    #expect(output == original.parameters[2].value.values)
  }

  @Test func attentionFitsAScanOfItsWidthsAlone() throws {
    let id = SlotID(block: 1, slot: .attention)
    var plan = TinyModel.plan([id: OperatorSpec("mamba2", ["headdim": 8])])
    plan.stage1.overrides[.slot(id), default: SiteOverride()].initialization = .transferred
    #expect {
      try plan.validate()
    } throws: {
      "\($0)".contains("fit mamba2 with expand 1")
    }
    #expect(plan.fitted().stage1.initialization(of: .slot(id)) == .ridge)
  }

  /// Training a replacement must not change what it came from.
  @Test func theOriginalKeepsItsWeights() throws {
    let (replacement, original, _) = try module(OperatorSpec("mha"), .attention)
    let kept = original.parameters.map(\.value.values)
    for parameter in replacement.parameters { parameter.update { $0.fill(0) } }
    #expect(original.parameters.map(\.value.values) == kept)
  }
}
