import Nn
import TensorCore

/// Encoder or decoder of an AutoencoderKL.
struct AutoencoderKLCoder {
  /// Direction of resampling.
  enum Direction {
    case encoder, decoder
  }

  private let convIn, convOut: Convolution3x3
  private let stages: [Stage]
  private let middle: MiddleBlock
  private let normOut: GroupNorm
  private let direction: Direction

  init(
    _ direction: Direction, _ config: AutoencoderKLConfig, _ weights: any WeightSource,
    _ precision: PrecisionRule
  ) throws {
    let isEncoder = direction == .encoder
    let name = isEncoder ? "encoder" : "decoder"
    let widths = isEncoder ? config.blockOutChannels : config.blockOutChannels.reversed()
    let groups = config.normNumGroups
    let (first, last) = (widths[0], widths[widths.count - 1])
    convIn = try Convolution3x3(
      weights, "\(name).conv_in", isEncoder ? config.inChannels : config.latentChannels, first,
      .none, precision)
    stages = try widths.indices.map { index in
      try Stage(
        direction, weights, "\(name).\(isEncoder ? "down" : "up")_blocks.\(index)",
        inputs: widths[max(0, index - 1)], outputs: widths[index],
        layers: config.layersPerBlock + (isEncoder ? 0 : 1), groups: groups,
        hasAttention: config.hasAttention(
          in: isEncoder ? config.downBlockTypes : config.upBlockTypes, at: index),
        resamples: index < widths.count - 1, precision)
    }
    middle = try MiddleBlock(
      weights, "\(name).mid_block", channels: isEncoder ? last : first, groups: groups,
      hasAttention: config.midBlockAddAttention, precision)
    normOut = try GroupNorm(weights, "\(name).conv_norm_out", channels: last, groups: groups)
    convOut = try Convolution3x3(
      weights, "\(name).conv_out", last,
      isEncoder ? 2 * config.latentChannels : config.outChannels, .none, precision)
    self.direction = direction
  }

  /// Number of elements between stages above which idle buffers are released (32 MiB).
  private static let largePlanes = 1 << 23

  /// Images to features of latents, or latents to images, each (batch, channels, height, width).
  func callAsFunction(_ x: Tensor) -> Tensor {
    var y = convIn(x)
    if direction == .decoder { y = middle(y) }
    for stage in stages {
      y = stage(y)
      // Stages have different buffer sizes, so the pool would retain large unused buffers.
      if y.count > Self.largePlanes { BufferPool.trim() }
    }
    if direction == .encoder { y = middle(y) }
    return convOut(y, after: normOut)
  }
}

/// Residual block, optional attention and residual block at the coarsest resolution.
private struct MiddleBlock {
  let first, second: ResidualBlock
  let attention: SpatialAttention?

  init(
    _ weights: any WeightSource, _ name: String, channels: Int, groups: Int, hasAttention: Bool,
    _ precision: PrecisionRule
  ) throws {
    first = try ResidualBlock(
      weights, name + ".resnets.0", channels, channels, groups: groups, precision)
    attention =
      hasAttention
      ? try SpatialAttention(weights, name + ".attentions.0", channels: channels, groups: groups)
      : nil
    second = try ResidualBlock(
      weights, name + ".resnets.1", channels, channels, groups: groups, precision)
  }

  func callAsFunction(_ x: Tensor) -> Tensor {
    let y = first(x)
    return second(attention?(y) ?? y)
  }
}

/// Residual blocks of one resolution, each with attention if the stage has it, followed by a resampling
/// convolution.
private struct Stage {
  private let blocks: [(residual: ResidualBlock, attention: SpatialAttention?)]
  private let resampler: Convolution3x3?

  init(
    _ direction: AutoencoderKLCoder.Direction, _ weights: any WeightSource, _ name: String,
    inputs: Int, outputs: Int, layers: Int, groups: Int, hasAttention: Bool, resamples: Bool,
    _ precision: PrecisionRule
  ) throws {
    blocks = try (0..<layers).map { layer in
      (
        try ResidualBlock(
          weights, "\(name).resnets.\(layer)", layer == 0 ? inputs : outputs, outputs,
          groups: groups, precision),
        hasAttention
          ? try SpatialAttention(
            weights, "\(name).attentions.\(layer)", channels: outputs, groups: groups) : nil
      )
    }
    let (key, resampling): (String, Convolution3x3.Resampling) =
      switch direction {
      case .encoder: ("downsamplers", .halving(padsAllSides: false))
      case .decoder: ("upsamplers", .doubling)
      }
    resampler =
      resamples
      ? try Convolution3x3(
        weights, "\(name).\(key).0.conv", outputs, outputs, resampling, precision) : nil
  }

  func callAsFunction(_ x: Tensor) -> Tensor {
    var y = x
    for block in blocks {
      y = block.residual(y)
      y = block.attention?(y) ?? y
    }
    return resampler?(y) ?? y
  }
}
