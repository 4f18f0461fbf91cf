import Files
import Runs
import Sampling

extension LatentSampler {
  /// Makes the sampler of a request.
  ///
  /// - Throws: `FileError` for names that this version does not know.
  package init(_ settings: SamplerSettings) throws(FileError) {
    guard let method = Method(rawValue: settings.method),
      let form = Interpolant.Diffusion(rawValue: settings.diffusionForm),
      let lastStep = VelocitySampler.LastStep(rawValue: settings.lastStep)
    else {
      throw FileError(
        "sampler: found '\(settings.method)', '\(settings.diffusionForm)' and '\(settings.lastStep)', expected"
          + " names of samplers, diffusion coefficients and last steps of this version; use the version of"
          + " espalier that made the run")
    }
    self.init(
      method: method, steps: settings.steps, guidance: Float(settings.guidance),
      seed: settings.seed, eta: settings.eta, guidedChannels: settings.guidedChannels)
    guidanceInterval = (settings.guidanceLow ?? 0)...(settings.guidanceHigh ?? 1)
    timeShift = settings.timeShift ?? 1
    diffusion = (form, settings.diffusionNorm)
    self.lastStep = (lastStep, settings.lastStepSize)
    cache = settings.stepCache
  }

  /// The sampler as a request states it.
  package var settings: SamplerSettings {
    var settings = SamplerSettings(
      method: method.rawValue, steps: steps, guidance: Double(guidance), seed: seed)
    (settings.eta, settings.guidedChannels) = (eta, guidedChannels)
    if guidanceInterval != 0...1 {
      (settings.guidanceLow, settings.guidanceHigh) = (
        guidanceInterval.lowerBound, guidanceInterval.upperBound
      )
    }
    settings.timeShift = timeShift == 1 ? nil : timeShift
    (settings.diffusionForm, settings.diffusionNorm) = (diffusion.form.rawValue, diffusion.norm)
    (settings.lastStep, settings.lastStepSize) = (lastStep.kind.rawValue, lastStep.length)
    (settings.cache, settings.forecastsCache) = (cache?.threshold, cache?.forecasts)
    return settings
  }
}

extension SamplerSettings {
  /// The step caching; nil for none.
  fileprivate var stepCache: StepCache? {
    StepCache(requested: cache, forecasts: forecastsCache)
  }

  /// What numbers state about the sampler.
  package var provenance: [String: String] {
    var entries = [
      "sampler": method, "steps": "\(steps)", "guidance": "\(Float(guidance))", "seed": "\(seed)",
    ]
    if eta != 0 { entries["eta"] = "\(eta)" }
    if let guidedChannels { entries["guided_channels"] = "\(guidedChannels)" }
    if guidanceLow != nil || guidanceHigh != nil {
      entries["guidance_interval"] = "\(guidanceLow ?? 0) to \(guidanceHigh ?? 1)"
    }
    if let timeShift { entries["time_shift"] = "\(timeShift)" }
    if method.hasPrefix("sde") {
      entries["diffusion"] = "\(diffusionForm) \(diffusionNorm)"
      entries["last_step"] = "\(lastStep) \(lastStepSize)"
    }
    entries["step_cache"] = stepCache?.text
    return entries
  }
}
