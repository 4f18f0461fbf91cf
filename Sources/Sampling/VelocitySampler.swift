import Foundation
import TensorCore

/// Network that predicts the velocity dx/dt of latents at a time in [0, 1], the same for all rows.
package typealias VelocityModel = (_ latents: Tensor, _ time: Double) throws -> Tensor

/// Samplers of a velocity model from noise at t = 0 to data at t = 1 (SiT `transport/integrators.py`).
package enum VelocitySampler {
  /// One step.
  package struct Step {
    /// Number of steps done and of all.
    package let position, count: Int
    /// Latents after the step.
    package let sample: Tensor
    /// Clean latents implied by the first velocity of the step.
    package let predictedStart: Tensor
  }

  /// Order of a step: one evaluation, or two whose mean is taken.
  package enum Order: String, Sendable, CaseIterable {
    case euler, heun
  }

  /// What the stochastic sampler does in its last, noise-free step.
  package enum LastStep: String, Sendable, CaseIterable {
    /// Along the drift.
    case mean
    /// Along the velocity.
    case euler
    /// To the mean of the data given the latents.
    case tweedie
    /// Nothing; the grid ends at t = 1.
    case none
  }

  /// Times of a grid with `points` points, of which the last is `end`.
  package static func times(_ points: Int, end: Double = 1) -> [Double] {
    (0..<points).map { points == 1 ? 0 : Double($0) * end / Double(points - 1) }
  }

  /// The same times shifted towards the noise (`shift` below 1) or the data: t -> s t / (1 + (s - 1) t), as
  /// `timestep_shift` of hustvl/LightningDiT.
  package static func shifted(_ times: [Double], by shift: Double) -> [Double] {
    shift == 1 ? times : times.map { shift * $0 / (1 + (shift - 1) * $0) }
  }

  /// Solves dx = v dt on a grid of times, one step fewer.
  ///
  /// - Parameters:
  ///   - start: Standard normal noise x_0 (batch, C, H, W).
  ///   - times: At least 2, from 0 to 1.
  ///   - order: Euler or Heun steps.
  ///   - path: The path, for the predicted clean latents.
  ///   - model: The network.
  ///   - onStep: Called after each step; may throw to stop.
  /// - Returns: The latents at t = 1.
  /// - Throws: Only what the closures throw.
  package static func deterministic(
    from start: Tensor, times: [Double], order: Order, path: Interpolant = .linear,
    model: VelocityModel, onStep: (Step) throws -> Void = { _ in }
  ) throws -> Tensor {
    var x = start
    for position in 1..<times.count {
      let (t, h) = (times[position - 1], times[position] - times[position - 1])
      let first = try model(x, t)
      let origin = (x, first)
      switch order {
      case .euler: x = sum(x, (h, first))
      case .heun:
        let second = try model(sum(x, (h, first)), t + h)
        x = sum(x, (h / 2, first), (h / 2, second))
      }
      try onStep(
        Step(
          position: position, count: times.count - 1, sample: x,
          predictedStart: clean(origin.0, origin.1, path(at: t))))
    }
    return x
  }

  /// Solves dx = (v + w score) dt + sqrt(2 w) dW on a grid of `points` points up to 1 - `last`, and then
  /// takes a last step without noise.
  ///
  /// - Parameters:
  ///   - start: Standard normal noise x_0 (batch, C, H, W).
  ///   - points: At least 2.
  ///   - order: Euler-Maruyama or Heun steps.
  ///   - path: The path.
  ///   - diffusion: Form and norm of w.
  ///   - lastStep: What the last step does.
  ///   - last: Length of the last step; 0.04 upstream.
  ///   - noise: Standard normal noise of a step, in the shape of the latents.
  ///   - model: The network.
  ///   - onStep: Called after each step, the last one included; may throw to stop.
  /// - Returns: The latents at t = 1.
  /// - Throws: Only what the closures throw.
  package static func stochastic(
    from start: Tensor, points: Int, order: Order, path: Interpolant = .linear,
    diffusion: (form: Interpolant.Diffusion, norm: Double) = (.sigma, 1),
    lastStep: LastStep = .mean,
    last: Double = 0.04, noise: (Int) throws -> Tensor, model: VelocityModel,
    onStep: (Step) throws -> Void = { _ in }
  ) throws -> Tensor {
    let end = lastStep == .none ? 1 : 1 - last
    let times = times(points, end: end)
    func rate(_ t: Double) -> Double { path.diffusion(diffusion.form, norm: diffusion.norm, at: t) }
    /// v + w score; at t = 1 the score has no finite value, and w is taken for zero.
    func drift(_ x: Tensor, _ v: Tensor, _ t: Double) -> Tensor {
      let (at, w) = (path(at: t), rate(t))
      if at.sigma == 0 { return v }
      return map(x, v) { x, v in v + w * at.score(v, at: x) }
    }
    var x = start
    for position in 1..<points {
      let (t, h) = (times[position - 1], times[position] - times[position - 1])
      let shake = ((2 * rate(t)).squareRoot() * h.squareRoot(), try noise(position - 1))
      let first: Tensor
      let origin: Tensor
      switch order {
      case .euler:
        first = try model(x, t)
        origin = x
        x = sum(x, (h, drift(x, first, t)), shake)
      case .heun:
        origin = sum(x, shake)
        first = try model(origin, t)
        let one = drift(origin, first, t)
        let moved = sum(origin, (h, one))
        let two = drift(moved, try model(moved, t + h), t + h)
        x = sum(origin, (h / 2, one), (h / 2, two))
      }
      try onStep(
        Step(
          position: position, count: points, sample: x,
          predictedStart: clean(origin, first, path(at: t))))
    }
    if lastStep != .none {
      let at = path(at: end)
      let v = try model(x, end)
      let start = clean(x, v, at)
      switch lastStep {
      case .mean: x = sum(x, (last, drift(x, v, end)))
      case .euler: x = sum(x, (last, v))
      case .tweedie:
        x = map(x, v) { x, v in x / at.alpha + at.sigma * at.sigma / at.alpha * at.score(v, at: x) }
      case .none: break
      }
      try onStep(Step(position: points, count: points, sample: x, predictedStart: start))
    }
    return x
  }

  private static func clean(_ x: Tensor, _ v: Tensor, _ at: Interpolant.Coefficients) -> Tensor {
    map(x, v) { x, v in at.data(v, at: x) }
  }

  /// x plus scaled terms, in double precision.
  private static func sum(_ x: Tensor, _ terms: (Double, Tensor)...) -> Tensor {
    let result = Tensor(x.shape)
    for index in 0..<x.count {
      result[index] = Float(
        terms.reduce(Double(x[index])) { $0 + ($1.0 == 0 ? 0 : $1.0 * Double($1.1[index])) })
    }
    return result
  }

  private static func map(_ x: Tensor, _ v: Tensor, _ body: (Double, Double) -> Double) -> Tensor {
    let result = Tensor(x.shape)
    for index in 0..<x.count { result[index] = Float(body(Double(x[index]), Double(v[index]))) }
    return result
  }
}
