import Pictures
import Plans
import Runs

extension AppState {
  /// Changes which of the pictures are seen, and what they are made of.
  mutating func show(_ command: Command) -> [Effect] {
    switch command {
    case .flip:
      preview.single = preview.single == .graft ? .teacher : .graft
    case .arrangement:
      preview.single = preview.single == nil ? .graft : nil
    case .laterFrame, .earlierFrame: scrubFrames(by: command == .laterFrame ? 1 : -1)
    case .laterCheckpoint: return scrubCheckpoints(forward: true)
    case .earlierCheckpoint: return scrubCheckpoints(forward: false)
    case .gridSize:
      let side = max(preview.settings.classes, preview.settings.seeds)
      let next = side >= 4 ? 1 : side + 1
      (preview.settings.classes, preview.settings.seeds) = (next, next)
      notice = .note(
        next == 1 ? "one picture; s samples" : "\(next) classes by \(next) seeds; s samples")
    case .frames:
      preview.settings.frames = preview.settings.frames == 0 ? 8 : 0
      notice = .note(
        preview.settings.frames == 0
          ? "the way there is not kept; s samples"
          : "\(preview.settings.frames) predicted images of the way are kept; s samples")
    case .renewal:
      let all = PreviewRenewal.allCases
      let index = all.firstIndex(of: preview.renewal) ?? 0
      preview.renewal = all[(index + 1) % all.count]
      notice = .note("previews are renewed \(preview.renewal.name)")
    case .secondRun:
      if preview.second != nil {
        preview.second = nil
        notice = .note("one run again")
      } else {
        overlays.append(.overlayList(OverlayList(selection: overlayRuns.first?.id)))
      }
    case .savePicture:
      overlays.append(
        .prompt(Prompt(purpose: .savePicture, field: TextField(pictureName))))
    default: break
    }
    return []
  }

  // MARK: - Scrubbing

  /// The frames of the preview on the screen: as many as teacher and graft both have, or either alone.
  var shownFrames: [Int] {
    (preview.shown?.frames.values.map { $0.map(\.step) } ?? []).max { $0.count < $1.count } ?? []
  }

  private mutating func scrubFrames(by offset: Int) {
    let count = shownFrames.count
    let place = (preview.frame ?? count) + offset
    preview.frame = (0..<count).contains(place) ? place : place < 0 ? 0 : nil
  }

  /// Goes to a neighbouring checkpoint of the followed run, to a picture that is there already or to a new one.
  private mutating func scrubCheckpoints(forward: Bool) -> [Effect] {
    let steps = checkpointSteps
    guard let newest = steps.last else { return [] }
    let now = preview.checkpoint ?? newest
    guard let next = forward ? steps.first(where: { $0 > now }) : steps.last(where: { $0 < now })
    else { return [] }
    preview.checkpoint = next == newest ? nil : next
    let wanted = preview.gallery.firstIndex { known in
      known.weightStep == next && known.weightRun == weights.runSources.first?.id
        && known.settings == preview.settings && known.changes == plan.changes
    }
    if let wanted {
      let found = preview.gallery.remove(at: wanted)
      keepShown()
      preview.shown = found
      return []
    }
    return startPreview()
  }

  /// Steps of the followed run's checkpoints that are kept, ascending.
  var checkpointSteps: [Int] { runs.checkpoints }

  /// Puts the preview on the screen among the earlier ones.
  mutating func keepShown() {
    guard let shown = preview.shown else { return }
    preview.gallery.insert(shown, at: 0)
    preview.gallery = Array(preview.gallery.prefix(PreviewState.galleryLimit))
    preview.frame = nil
  }

  // MARK: - Renewal

  /// Makes a preview anew when the followed training has come further, if that is wanted.
  ///
  /// It never takes the place of one that was asked for: while one is being made, none is begun.
  mutating func renewPreview(hasEnded: Bool) -> [Effect] {
    guard preview.shown != nil, preview.pending == nil, preview.checkpoint == nil,
      preview.renewal != .never, newestWeightStep != preview.shown?.weightStep
    else { return [] }
    let isDue = preview.renewal.checkpoints.map { preview.checkpointsSince >= $0 } ?? false
    guard hasEnded || isDue else { return [] }
    return startPreview(isRenewal: true)
  }

  /// Why the preview on the screen is not what the next one would be; nil when it is.
  package var staleness: String? {
    guard let shown = preview.shown else { return nil }
    if shown.changes != plan.changes { return "the plan changed since" }
    if shown.settings != preview.settings { return "other settings than now" }
    if preview.checkpoint == nil, let newest = newestWeightStep, newest != shown.weightStep {
      return shown.weightStep.map { "of step \($0), the run has \(newest)" }
        ?? "of untrained weights"
    }
    return nil
  }

  // MARK: - Saving

  /// A name for the pictures on the screen.
  private var pictureName: String {
    let settings = preview.shown?.settings ?? preview.settings
    let step = preview.shown?.weightStep.map { "-step\($0)" } ?? ""
    let name =
      plan.name.isEmpty ? "preview" : plan.name.split(separator: "/").joined(separator: "-")
    return "\(name)-class\(settings.classLabel)-seed\(settings.seed)\(step).png"
  }

  /// The pictures on the screen, from left to right.
  var shownPictures: [(title: String, picture: Picture)] {
    guard let shown = preview.shown else { return [] }
    let roles = preview.single.map { [$0] } ?? PreviewRole.allCases
    var pictures = roles.compactMap { role in
      picture(of: role, in: shown).map { (role.rawValue, $0) }
    }
    if preview.single == nil, let second = preview.second,
      let picture = second.shown.flatMap({ picture(of: .graft, in: $0) })
    {
      pictures.append((runs.title(of: second.runID), picture))
    }
    return pictures.map { (title: $0.0, picture: $0.1) }
  }

  /// The picture of a role: the result, or the frame that is chosen.
  func picture(of role: PreviewRole, in shown: Preview) -> Picture? {
    guard let frame = preview.frame else { return shown.images[role] }
    guard let frames = shown.frames[role], frames.indices.contains(frame) else { return nil }
    return frames[frame].picture
  }
}
