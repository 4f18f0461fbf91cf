import Autograd
import Models
import Nn
import Operators
import Plans
import Sampling
import TensorCore

extension BenchWork {
  /// Forward passes of a PixArt-Σ XL/2 and of the paper's graft of it for increasing numbers of tokens, with a
  /// caption of full length, for `Benchmarks/growth.py`.
  static let pixArt: [BenchWork] = [1024, 4096, 16384].flatMap { tokens in
    [pixArt(tokens: tokens, isGraft: false), pixArt(tokens: tokens, isGraft: true)]
  }

  private static func pixArt(tokens: Int, isGraft: Bool) -> BenchWork {
    let side = 2 * Int(Double(tokens).squareRoot())
    let kind = isGraft ? "graft" : "teacher"
    return BenchWork(
      id: "pixart_\(kind)_\(tokens)", title: "PixArt-Σ XL/2 \(kind) forward, \(tokens) tokens",
      units: Double(tokens), unit: "tokens/s", hasPrecision: true
    ) { precision in
      let config = PixArtConfig(
        depth: 28, hiddenSize: 1152, numHeads: 16, sampleSize: side,
        interpolationScale: PixArtConfig.defaultInterpolationScale(sampleSize: side))
      var plan = GraftPlan(
        named: "paper", model: ModelReference(path: "x", shape: config.shape, contentHash: "0"))
      if isGraft { plan.apply(.paper) }
      let model = try PixArt(
        config: config, edits: plan.edits,
        weights: SealedWeights(FreshWeights(seed: 1), precision))
      BufferPool.trim()
      let (latents, conditioning) = (
        normal("latents", [1, 4, side, side]), model.exampleConditioning(1)
      )
      return { _ = model.predict(latents, conditioning) }
    }
  }
}
