import CKernels
import Nn
import TensorCore

/// Layers of the autoencoder and the judge for inference: NCHW order, no tape.

/// Group normalisation, applied as one scale and shift per plane.
package struct GroupNorm {
  private let weight: Tensor
  private let bias: Tensor
  private let groups: Int
  private let epsilon: Float = 1e-6

  /// Reads `name.weight` and `name.bias`.
  ///
  /// - Throws: Errors of the source.
  package init(_ weights: any WeightSource, _ name: String, channels: Int, groups: Int) throws {
    weight = try weights.tensor(name + ".weight", [channels], .ones)
    bias = try weights.tensor(name + ".bias", [channels], .zeros)
    self.groups = groups
  }

  /// Returns scale and shift (batch, C) that normalise x (batch, C, H, W).
  func planeScales(_ x: Tensor) -> (scale: Tensor, shift: Tensor) {
    let batch = x.shape[0]
    let channels = x.shape[1]
    let members = channels / groups
    let size = members * x.shape[2] * x.shape[3]
    let scale = Tensor([batch, channels])
    let shift = Tensor([batch, channels])
    Parallel.ranges(batch * groups, grain: max(1, 65536 / size)) { range in
      for group in range {
        var mean: Float = 0
        var deviation: Float = 0
        ck_groupnorm_moments_f32(&mean, &deviation, x.pointer + group * size, size, epsilon)
        for member in 0..<members {
          let channel = group % groups * members + member
          let factor = weight[channel] * deviation
          scale[group * members + member] = factor
          shift[group * members + member] = bias[channel] - mean * factor
        }
      }
    }
    return (scale, shift)
  }

  /// Returns x (batch, C, H, W) normalised, in a new tensor.
  package func callAsFunction(_ x: Tensor) -> Tensor {
    let (scale, shift) = planeScales(x)
    let result = Tensor(x.shape)
    let size = x.shape[2] * x.shape[3]
    Parallel.ranges(scale.count, grain: max(1, 65536 / size)) { range in
      for plane in range {
        ck_scale_shift_silu_forward_f32(
          result.pointer + plane * size, x.pointer + plane * size, size, scale[plane],
          shift[plane], 0)
      }
    }
    return result
  }
}

/// 1x1 convolution.
struct PointwiseConvolution {
  private let weight: Tensor
  private let bias: Tensor
  private let inputs: Int
  private let outputs: Int

  init(_ weights: any WeightSource, _ name: String, _ inputs: Int, _ outputs: Int) throws {
    weight = try weights.tensor(name + ".weight", [outputs, inputs, 1, 1], .xavierUniform)
    bias = try weights.tensor(name + ".bias", [outputs], .zeros)
    self.inputs = inputs
    self.outputs = outputs
  }

  /// Applies it to x (batch, inputs, H, W).
  func callAsFunction(_ x: Tensor) -> Tensor {
    precondition(x.shape[1] == inputs, "pointwise convolution: input \(x.shape)")
    let size = x.shape[2] * x.shape[3]
    let result = Tensor([x.shape[0], outputs, x.shape[2], x.shape[3]])
    for image in 0..<x.shape[0] {
      let target = result.pointer + image * outputs * size
      for channel in 0..<outputs {
        (target + channel * size).update(repeating: bias[channel], count: size)
      }
      Gemm.run(
        m: outputs, n: size, k: inputs, a: weight.pointer, b: x.pointer + image * inputs * size,
        accumulate: true, c: target)
    }
    return result
  }
}

/// Residual block of two convolutions, each preceded by group normalisation and SiLU.
struct ResidualBlock {
  private let norm1, norm2: GroupNorm
  private let conv1, conv2: Convolution3x3
  private let shortcut: PointwiseConvolution?

  init(
    _ weights: any WeightSource, _ name: String, _ inputs: Int, _ outputs: Int, groups: Int,
    _ precision: PrecisionRule
  ) throws {
    norm1 = try GroupNorm(weights, name + ".norm1", channels: inputs, groups: groups)
    conv1 = try Convolution3x3(weights, name + ".conv1", inputs, outputs, .none, precision)
    norm2 = try GroupNorm(weights, name + ".norm2", channels: outputs, groups: groups)
    conv2 = try Convolution3x3(weights, name + ".conv2", outputs, outputs, .none, precision)
    shortcut =
      inputs == outputs
      ? nil : try PointwiseConvolution(weights, name + ".conv_shortcut", inputs, outputs)
  }

  /// Applies it to x (batch, inputs, H, W).
  func callAsFunction(_ x: Tensor) -> Tensor {
    conv2(conv1(x, after: norm1), after: norm2, plus: shortcut?(x) ?? x)
  }
}

/// Single-head self-attention over all positions, with a residual connection.
struct SpatialAttention {
  private let norm: GroupNorm
  /// Weights of queries, keys and values (3C, C).
  private let qkvWeight: Tensor
  private let qkvBias: Tensor
  private let outWeight: Tensor
  private let outBias: Tensor
  private let channels: Int

  init(_ weights: any WeightSource, _ name: String, channels: Int, groups: Int) throws {
    norm = try GroupNorm(weights, name + ".group_norm", channels: channels, groups: groups)
    qkvWeight = Tensor([3 * channels, channels])
    qkvBias = Tensor([3 * channels])
    self.channels = channels
    for (part, (current, legacy)) in [("to_q", "query"), ("to_k", "key"), ("to_v", "value")]
      .enumerated()
    {
      let rows = (part * channels)..<((part + 1) * channels)
      let (weight, bias) = try Self.linear(weights, name, current, legacy, channels)
      qkvWeight.rows(rows).assign(weight)
      qkvBias.rows(rows).assign(bias)
    }
    (outWeight, outBias) = try Self.linear(weights, name, "to_out.0", "proj_attn", channels)
  }

  /// Reads a linear layer by its current name or that of early diffusers releases, whose weight
  /// some files store as a 1x1 convolution.
  private static func linear(
    _ weights: any WeightSource, _ name: String, _ current: String, _ legacy: String,
    _ channels: Int
  ) throws -> (weight: Tensor, bias: Tensor) {
    let square = [channels, channels]
    let present: any Error
    do {
      return (
        try weights.tensor("\(name).\(current).weight", square, .xavierUniform),
        try weights.tensor("\(name).\(current).bias", [channels], .zeros)
      )
    } catch { present = error }
    for shape in [square, square + [1, 1]] {
      for key in [legacy, current] {
        if let weight = try? weights.tensor("\(name).\(key).weight", shape, .xavierUniform),
          let bias = try? weights.tensor("\(name).\(key).bias", [channels], .zeros)
        {
          return (weight.reshaped(square), bias)
        }
      }
    }
    throw present
  }

  /// Applies it to x (batch, C, H, W).
  func callAsFunction(_ x: Tensor) -> Tensor {
    let batch = x.shape[0]
    let tokens = x.shape[2] * x.shape[3]
    let normed = norm(x)
    let result = Tensor(x.shape)
    let qkv = Tensor([batch, tokens, 3 * channels])
    let mixed = Tensor([batch, tokens, channels])
    let logSums = Tensor([batch, tokens])
    for image in 0..<batch {
      let rows = qkv.pointer + image * tokens * 3 * channels
      for token in 0..<tokens {
        (rows + token * 3 * channels).update(from: qkvBias.pointer, count: 3 * channels)
      }
      Gemm.run(
        transposeA: true, transposeB: true, m: tokens, n: 3 * channels, k: channels,
        a: normed.pointer + image * channels * tokens, b: qkvWeight.pointer, accumulate: true,
        c: rows)
    }
    // With one head, the queries are split over the threads.
    let parts = min(Parallel.threads, max(1, tokens / 64))
    Parallel.tasks(batch * parts) { task in
      let (image, part) = (task / parts, task % parts)
      let queries = (tokens * part / parts)..<(tokens * (part + 1) / parts)
      let rows = qkv.pointer + image * tokens * 3 * channels
      let first = image * tokens + queries.lowerBound
      var shape = ck_attention_shape(
        queries: queries.count, keys: tokens, head_dim: channels, q_stride: 3 * channels,
        kv_stride: 3 * channels, out_stride: channels, scale: 1 / Float(channels).squareRoot(),
        left: queries.count, right: tokens)
      ck_attention_forward_f32(
        rows + queries.lowerBound * 3 * channels, rows + channels, rows + 2 * channels, nil,
        mixed.pointer + first * channels, logSums.pointer + first, &shape)
    }
    for image in 0..<batch {
      let target = result.pointer + image * channels * tokens
      let source = x.pointer + image * channels * tokens
      for channel in 0..<channels {
        for position in (channel * tokens)..<((channel + 1) * tokens) {
          target[position] = source[position] + outBias[channel]
        }
      }
      Gemm.run(
        transposeB: true, m: channels, n: tokens, k: channels, a: outWeight.pointer,
        b: mixed.pointer + image * tokens * channels, accumulate: true, c: target)
    }
    return result
  }
}
