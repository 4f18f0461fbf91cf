import Plans
import Runs

extension AppState {
  /// Asks for a preview or changes what the next one samples.
  mutating func sample(_ command: Command, argument: String?, count: Int?) -> [Effect] {
    let times = argument.flatMap { Int($0) } ?? count ?? 1
    switch command {
    case .preview:
      return startPreview()
    case .previewSettings:
      overlays.append(.form(.preview(preview.settings, of: model.shape, history: prompts)))
    case .followEdits:
      preview.followsEdits.toggle()
      notice = .note(
        preview.followsEdits
          ? "every edit is fitted and sampled while nothing else runs" : "only s samples")
      let changes = sampledPlan.changes
      if preview.shown?.changes != changes, preview.pending?.changes != changes {
        preview.asked = nil
      }
      return previewEdit()
    case .images:
      overlays.append(.images)
      return weights.runSources.first.map { [.readCheckpoints(id: $0.id)] } ?? []
    case .flip, .arrangement, .laterFrame, .earlierFrame, .laterCheckpoint, .earlierCheckpoint,
      .gridSize, .frames, .renewal, .secondRun, .savePicture:
      return show(command)
    case .analyze:
      if case .ready(let known) = analysis { knownAnalysis = known }
      analysis = .computing(runID: nil, done: 0, total: 0)
      return [.findAnalysis(again: true)]
    case .nextClass: turnClass(by: times)
    case .previousClass: turnClass(by: -times)
    case .nextSeed: turnSeed(by: times)
    case .previousSeed: turnSeed(by: -times)
    case .moreSteps: turnSteps(by: 5 * times)
    case .fewerSteps: turnSteps(by: -5 * times)
    case .moreGuidance: turnGuidance(by: 0.5 * Double(times))
    case .lessGuidance: turnGuidance(by: -0.5 * Double(times))
    default: break
    }
    return []
  }

  private mutating func turnClass(by offset: Int) {
    preview.settings.prompts = []
    let classes = max(1, model.shape.conditionCount)
    let turned = (preview.settings.classLabel + offset % classes + classes) % classes
    preview.settings.classLabel = turned
    remindOfSampling("\(conditionName) \(className(turned))")
  }

  private mutating func turnSeed(by offset: Int) {
    let largest = Int(PreviewSettings.largestSeed)
    preview.settings.seed = UInt64(
      min(max(0, Int(preview.settings.seed) + offset), largest))
    remindOfSampling("seed \(preview.settings.seed)")
  }

  private mutating func turnSteps(by offset: Int) {
    // Multiples of five, but one step stays possible at the low end.
    let turned = (preview.settings.steps + offset) / 5 * 5
    preview.settings.steps = min(max(1, turned), Int(PreviewSettings.stepRange.upperBound))
    remindOfSampling(Format.count(preview.settings.steps, "step"))
  }

  private mutating func turnGuidance(by offset: Double) {
    let range = PreviewSettings.guidanceRange
    let turned = min(
      max(range.lowerBound, preview.settings.guidance + offset), range.upperBound)
    preview.settings.guidance = turned
    remindOfSampling("guidance \(Format.plain(turned))")
  }

  private mutating func remindOfSampling(_ change: String) {
    notice = .note("\(change); s samples")
  }

  /// What previews are of: a class, or a prompt.
  package var conditionName: String {
    model.shape.family.condition == .captions ? "prompt" : "class"
  }

  /// What the preview shows: the typed prompts, or the name of its class or example prompt.
  package func conditionText(_ settings: PreviewSettings) -> String {
    settings.prompts.isEmpty
      ? className(settings.classLabel) : settings.prompts.joined(separator: " | ")
  }

  /// The name of a class, or its number where it has none; the prompt of a text-conditional model.
  package func className(_ label: Int) -> String {
    let prompts = ModelFamily.examplePrompts
    if model.shape.family.condition == .captions, prompts.indices.contains(label) {
      return prompts[label]
    }
    return classNames.indices.contains(label) ? classNames[label] : String(label)
  }

  /// As `previewEdit`; what a search shows waits for the clock, so that moving its budget starts no worker a key.
  mutating func previewEditAtOnce() -> [Effect] { searchPane == nil ? previewEdit() : [] }

  /// Starts a preview of an edit that none was asked for, if previews follow edits and nothing else runs.
  mutating func previewEdit() -> [Effect] {
    guard preview.followsEdits, preview.asked != sampledPlan.changes, !sampledPlan.isEmpty,
      runs.aliveTraining == nil
    else { return [] }
    if case .computing = analysis { return [] }
    return startPreview()
  }

  /// Starts a preview and cancels the one that is still being made.
  ///
  /// One that nobody asked for never asks about a mixture of weights.
  mutating func startPreview(isRenewal: Bool = false) -> [Effect] {
    let plan = sampledPlan
    // What a search shows has its operators from the library, and is never trained from here.
    let weights =
      plan == self.plan ? self.weights : self.weights(of: plan, runs: [])
    guard searchPane != nil || agrees(to: weights, asks: !isRenewal) else { return [] }
    var effects: [Effect] = []
    if let old = preview.pending?.runID { effects.append(.control(id: old, .cancel)) }
    preview.generation += 1
    preview.asked = plan.changes
    var pending = Preview(
      generation: preview.generation, settings: preview.settings, changes: plan.changes,
      weightStep: preview.checkpoint ?? weights.sources.first?.step)
    pending.isFromLibrary = !weights.librarySites.isEmpty && weights.runSources.isEmpty
    pending.freshCount = weights.fresh.count
    pending.weightRun = weights.runSources.first?.id
    pending.isRenewal = isRenewal
    preview.pending = pending
    preview.checkpointsSince = 0
    if !isRenewal, !plan.isEmpty {
      notice = .note("sampling: \(weights.summary { runs.title(of: $0) })")
    }
    effects.append(
      .startPreview(
        generation: preview.generation, plan: plan.isEmpty ? nil : plan,
        weights: weights, settings: preview.settings,
        options: PreviewOptions(checkpoint: preview.checkpoint, isBackground: isRenewal)))
    return effects + startSecondPreview()
  }

  /// Starts the preview of the run beside this one, if there is one.
  mutating func startSecondPreview() -> [Effect] {
    guard let second = preview.second else { return [] }
    preview.generation += 1
    let pending = Preview(
      generation: preview.generation, settings: preview.settings, changes: plan.changes,
      weightStep: runs.record(second.runID)?.checkpoint?.step)
    preview.second?.pending = pending
    let old = second.pending?.runID.map { [Effect.control(id: $0, .cancel)] } ?? []
    return old + [
      .startRunPreview(
        generation: preview.generation, runID: second.runID, settings: preview.settings)
    ]
  }

  /// The step of the newest weights that fit the plan.
  var newestWeightStep: Int? { weights.sources.first?.step }

  /// Takes in what became of previews and of the teacher's statistics.
  mutating func receiveSampleFact(_ action: Action) -> [Effect] {
    switch action {
    case .analysisStarted(let runID):
      analysis = .computing(runID: runID, done: 0, total: 0)
    case .analysisProgressed(let done, let total):
      if case .computing(let runID, _, _) = analysis {
        analysis = .computing(runID: runID, done: done, total: total)
      }
    case .analysisRead(let read):
      analysis = .ready(read)
      knownAnalysis = nil
    case .analysisFailed(let reason):
      if let known = knownAnalysis.take() {
        analysis = .ready(known)
        notice = .failure("no new statistics: \(reason)")
      } else {
        analysis = .failed(reason)
      }
    case .previewStarted(let generation, let runID):
      guard change(generation, { $0.runID = runID }) else {
        // A newer one was asked for while this one's worker was being started.
        return [.control(id: runID, .cancel)]
      }
    case .previewProgressed(let generation, let done, let total):
      change(generation) { ($0.done, $0.total) = (done, total) }
    case .previewSampled(let generation, let role, let image, let step):
      change(generation) { preview in
        if let step {
          let frame = PreviewFrame(step: step, picture: Picture(image))
          preview.frames[role, default: []].append(frame)
        } else {
          preview.images[role] = Picture(image)
        }
      }
    case .previewEnded(let generation, let problem):
      return endPreview(generation, problem)
    default:
      break
    }
    return []
  }

  /// Changes the preview with a generation, and says whether it is still being made.
  @discardableResult
  private mutating func change(_ generation: Int, _ body: (inout Preview) -> Void) -> Bool {
    if preview.pending?.generation == generation, var pending = preview.pending.take() {
      body(&pending)
      preview.pending = pending
      return true
    }
    if preview.second?.pending?.generation == generation, var pending = preview.second?.pending {
      body(&pending)
      preview.second?.pending = pending
      return true
    }
    return false
  }

  private mutating func endPreview(_ generation: Int, _ problem: String?) -> [Effect] {
    if let second = preview.second, let ended = second.pending, ended.generation == generation {
      preview.second?.pending = nil
      if problem == nil { preview.second?.shown = ended }
    } else if let ended = preview.pending, ended.generation == generation {
      preview.pending = nil
      if problem == nil, !ended.images.isEmpty {
        keepShown()
        preview.shown = ended
      }
    } else {
      return []
    }
    if let problem { notice = .failure("the preview failed: \(problem)") }
    return renewPreview(hasEnded: runs.focusRecord?.state == .done)
  }
}
