import Foundation
import TensorCore

/// Path from noise x_0 at t = 0 to data x_1 at t = 1, x_t = alpha(t) x_1 + sigma(t) x_0 (SiT, arXiv 2401.08740;
/// `transport/path.py`).
package enum Interpolant: Equatable, Sendable {
  /// alpha = t, sigma = 1 - t.
  case linear
  /// alpha = sin(pi t / 2), sigma = cos(pi t / 2).
  case trigonometric
  /// The variance-preserving diffusion, with its lowest and highest noise rate.
  case variancePreserving(lowest: Double = 0.1, highest: Double = 20)

  /// Coefficients and their derivatives at one time.
  package struct Coefficients: Sendable {
    package let alpha, alphaRate, sigma, sigmaRate: Double
    /// alpha / alphaRate.
    private var ratio: Double { alpha / alphaRate }

    /// Score of the density of x_t, from the velocity v.
    package func score(_ v: Double, at x: Double) -> Double {
      (ratio * v - x) / (sigma * sigma - ratio * sigmaRate * sigma)
    }

    /// Noise x_0, from the velocity v.
    package func noise(_ v: Double, at x: Double) -> Double {
      (ratio * v - x) / (ratio * sigmaRate - sigma)
    }

    /// Data x_1, from the velocity v.
    package func data(_ v: Double, at x: Double) -> Double {
      (v * sigma - sigmaRate * x) / (alphaRate * sigma - sigmaRate * alpha)
    }
  }

  /// Coefficients at time t in [0, 1].
  package func callAsFunction(at t: Double) -> Coefficients {
    switch self {
    case .linear: return Coefficients(alpha: t, alphaRate: 1, sigma: 1 - t, sigmaRate: -1)
    case .trigonometric:
      let angle = Double.pi / 2 * t
      return Coefficients(
        alpha: sin(angle), alphaRate: Double.pi / 2 * cos(angle), sigma: cos(angle),
        sigmaRate: -Double.pi / 2 * sin(angle))
    case .variancePreserving(let lowest, let highest):
      let rest = 1 - t
      let exponent = -0.25 * rest * rest * (highest - lowest) - 0.5 * rest * lowest
      let alpha = exp(exponent)
      let alphaRate = alpha * 0.5 * (rest * (highest - lowest) + lowest)
      let sigma = (-expm1(2 * exponent)).squareRoot()
      return Coefficients(
        alpha: alpha, alphaRate: alphaRate, sigma: sigma, sigmaRate: -alpha * alphaRate / sigma)
    }
  }

  /// Diffusion coefficient w(t) of the stochastic sampler.
  package enum Diffusion: String, Sendable, CaseIterable {
    case sigma, linear, constant, decreasing
    /// The coefficient of score-based diffusion; infinite at t = 0 of the linear path.
    case scoreBased = "SBDM"
    case increasingDecreasing = "increasing-decreasing"
  }

  /// w(t) of a form with the norm c.
  package func diffusion(_ form: Diffusion, norm c: Double = 1, at t: Double) -> Double {
    let path = self(at: t)
    switch form {
    case .sigma: return c * path.sigma
    case .linear: return c * (1 - t)
    case .constant: return c
    case .scoreBased:
      return c
        * (path.sigma * path.sigma * path.alphaRate / path.alpha - path.sigma * path.sigmaRate)
    case .decreasing:
      let wave = c * cos(.pi * t) + 1
      return 0.25 * wave * wave
    case .increasingDecreasing:
      let wave = sin(.pi * t)
      return c * wave * wave
    }
  }
}
