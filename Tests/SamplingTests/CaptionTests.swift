import Autograd
import Checkpoints
import Files
import Foundation
import Models
import Nn
import Sampling
import TensorCore
import TestSupport
import Testing

@MainActor @Suite("Captions")
struct CaptionTests {
  private func withFile(
    _ items: [(String, [Int], [Float])], _ body: (String) throws -> Void
  ) throws {
    let path = FileManager.default.temporaryDirectory.appending(
      path: UUID().uuidString + ".safetensors"
    ).path
    try SafetensorsWriter.write(
      items.map { .init(name: $0.0, shape: $0.1, floats: $0.2) }, metadata: [:], to: path)
    defer { try? FileManager.default.removeItem(atPath: path) }
    try body(path)
  }

  private func ramp(_ count: Int) -> [Float] { (0..<count).map(Float.init) }

  @Test func filesWithAndWithoutMask() throws {
    try withFile([
      ("prompt_embeds", [2, 3, 4], ramp(24)),
      ("prompt_attention_mask", [2, 3], [1, 1, 0, 1, 0, 0]),
    ]) { path in
      let captions = try Captions(path: path, channels: 4)
      #expect(captions.count == 2 && captions.length == 3 && captions.embeddings.values == ramp(24))
      #expect(captions.mask.values == [1, 1, 0, 1, 0, 0])
      #expect(throws: FileError.self) { try Captions(path: path, channels: 5) }
    }
    try withFile([("anything", [3, 4], ramp(12))]) { path in
      let captions = try Captions(path: path, channels: 4)
      #expect(captions.embeddings.shape == [1, 3, 4] && captions.mask.values == [1, 1, 1])
    }
    try withFile([
      ("prompt_embeds", [1, 3, 4], ramp(12)), ("prompt_attention_mask", [1, 2], [1, 1]),
    ]) { path in
      #expect(throws: FileError.self) { try Captions(path: path, channels: 4) }
    }
  }

  @Test(arguments: [Float.nan, .infinity])
  func valuesThatAreNotFiniteAreRefused(value: Float) throws {
    var values = ramp(24)
    values[18] = value
    try withFile([("prompt_embeds", [2, 3, 4], values)]) { path in
      let error = #expect(throws: FileError.self) { try Captions(path: path, channels: 4) }
      #expect(
        error?.message.hasPrefix(
          "\(path): tensor 'prompt_embeds' holds a value that is not finite in caption 1, token 1;")
          == true)
    }
  }

  @Test func joiningPadsTheShorterOnes() {
    let short = Captions(embeddings: Tensor([1, 2], shape: [1, 1, 2]))
    let long = Captions(embeddings: Tensor([3, 4, 5, 6], shape: [1, 2, 2]))
    let both = short.followed(by: long)
    #expect(
      both.embeddings.shape == [2, 2, 2] && both.embeddings.values == [1, 2, 0, 0, 3, 4, 5, 6])
    #expect(both.mask.values == [1, 0, 1, 1])
  }

  private func pixArt() throws -> PixArt {
    try PixArt(
      config: PixArtConfig(
        depth: 1, hiddenSize: 16, numHeads: 2, sampleSize: 4, captionChannels: 6,
        interpolationScale: 1), weights: Noise())
  }

  /// Masked tokens after all others make no difference; those in between stay.
  @Test func trimmingCutsPaddingAlone() throws {
    var random = RandomSequence(seed: 2)
    let captions = Captions(
      embeddings: random.normal([2, 6, 6]),
      mask: Tensor([1, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0], shape: [2, 6]))
    let trimmed = captions.trimmed()
    #expect(trimmed.embeddings.shape == [2, 3, 6])
    #expect(trimmed.mask.values == [1, 0, 1, 1, 1, 0])
    #expect(trimmed.embeddings[18] == captions.embeddings[36])
    let model = try pixArt()
    let x = random.normal([2, 4, 4, 4])
    func predict(_ captions: Captions) -> Tensor {
      model.predict(
        x,
        Conditioning(
          timesteps: [900, 20], caption: Value(constant: captions.embeddings), mask: captions.mask))
    }
    let (whole, cut) = (predict(captions).values, predict(trimmed).values)
    #expect(zip(whole, cut).allSatisfy { abs($0 - $1) < 1e-5 * max(1, abs($0)) })
    let empty = Captions(
      embeddings: captions.embeddings,
      mask: Tensor([1, 0, 0, 0, 0, 0] + Array(repeating: 0, count: 6), shape: [2, 6]))
    #expect(empty.trimmed().length == 6)
  }

  @Test func guidanceAndBatchesOfASampler() throws {
    let model = try pixArt()
    var random = RandomSequence(seed: 1)
    let captions = Captions(embeddings: random.normal([2, 3, 6]))
    let null = Captions(embeddings: random.normal([1, 5, 6]))
    let defaults = LatentSampler.defaults(of: .pixart)
    #expect(defaults.method == .dpmpp && defaults.steps == 20 && defaults.guidance == 4.5)
    let guided = LatentSampler(method: .dpmpp, steps: 3, guidance: 4.5, seed: 1)
    func draw(_ sampler: LatentSampler, _ captions: Captions, _ null: Captions?, first: Int = 0)
      throws -> [Float]
    {
      try sampler.sample(
        model, for: .captions(captions, null: null), size: (4, 6), first: first
      ).values
    }
    let both = try draw(guided, captions, null)
    #expect(both.count == 2 * 4 * 4 * 6 && both.allSatisfy(\.isFinite))
    let second = try draw(guided, captions.selecting([1], length: 3), null, first: 1)
    #expect(zip(both[96...], second).allSatisfy { abs($0 - $1) < 1e-3 * max(1, abs($0)) })
    #expect(throws: SamplingError.self) { try draw(guided, captions, nil) }
    let plain = LatentSampler(method: .dpmpp, steps: 3, guidance: 1, seed: 1)
    #expect(try draw(plain, captions, nil) != both)
    // Leading away from the caption itself is no guidance at all.
    let only = captions.selecting([0], length: 3)
    let same = zip(try draw(guided, only, only), try draw(plain, only, nil))
    #expect(same.allSatisfy { abs($0 - $1) < 1e-3 * max(1, abs($0)) })
  }
}

/// Weights that are nowhere zero.
private struct Noise: WeightSource {
  func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) -> Tensor {
    let random = RandomStream(seed: 9, name)
    return Initializer.normal(0.2).tensor(shape, random)
  }
}
