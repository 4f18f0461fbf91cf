import Evaluation
import Files
import Foundation
import Pictures
import Plans
import Runs

/// Section of a report page for one run.
struct RunSection {
  let facts: RunFacts
  let measurements: Measurements?
  /// Number of the section on the page.
  let number: Int

  /// Renders the section.
  ///
  /// - Throws: `FileError` for an image that cannot be read.
  func html() throws -> HTML {
    let name = facts.request.name
    var parts: [HTML] = [
      .tag("h2", ["id": "run-\(number)"], "\(name): stage \(facts.stage)"), summary,
      .tag("h3", [:], "Plan"), .tag("p", [:], facts.plan.summary),
      PlanPicture(plan: facts.plan).html,
    ]
    parts.append(.tag("h3", [:], "Results"))
    parts += results
    parts.append(.tag("h3", [:], "Losses"))
    parts += losses
    parts.append(.tag("h3", [:], "Images"))
    parts += try images()
    parts += [.tag("h3", [:], "Settings of stage \(facts.stage)"), settings]
    parts += messages
    return .tag("section", [:], parts)
  }

  /// Facts of the run.
  private var summary: HTML {
    let summary = facts.summary
    let created = Date(timeIntervalSince1970: facts.request.createdAt)
      .formatted(.iso8601.dateSeparator(.dash))
    var lines = [
      ["run", facts.run.id],
      ["state", "\(summary.stateText), step \(summary.step) of \(summary.total)"],
      ["begun", created], ["model", facts.plan.model.path],
      ["program", "espalier \(facts.request.codeVersion), seed \(facts.plan.seed)"],
    ]
    if let origins = facts.request.origins {
      let weights = PlanWeights(of: facts.plan, recorded: origins)
      lines.append(["weights at the start", weights.sentence()])
    } else if !facts.startWeights.isEmpty {
      lines.append(["weights from", facts.startWeights.joined(separator: ", ")])
    }
    return .table(["", ""], lines)
  }

  /// Cost, speed and metrics compared with the teacher.
  private var results: [HTML] {
    let cost = facts.plan.cost()
    var lines = [
      [
        "parameters", Figures.metric(Double(cost.original.parameters)),
        Figures.metric(Double(cost.edited.parameters)),
        Figures.change(Double(cost.edited.parameters), from: Double(cost.original.parameters)),
      ],
      [
        "FLOPs per image", Figures.metric(cost.original.flops), Figures.metric(cost.edited.flops),
        Figures.change(cost.edited.flops, from: cost.original.flops),
      ],
    ]
    for slot in Slot.allCases {
      let operators = facts.plan.cost(of: slot)
      for (part, flops) in OperatorCost.parts {
        let (before, after) = (flops(operators.original), flops(operators.edited))
        guard before != 0 || after != 0 else { continue }
        lines.append([
          "\(slot.rawValue) operators: \(part)", Figures.metric(before), Figures.metric(after),
          Figures.change(after, from: before),
        ])
      }
    }
    lines += [
      ["depth", "\(facts.plan.model.shape.depth)", "\(facts.plan.depth)", ""]
    ]
    if let speed = measurements?.speed {
      lines.append([
        "forward pass, batch \(speed.batch)", Figures.short(speed.teacherMilliseconds) + " ms",
        Figures.short(speed.graftMilliseconds) + " ms", "× " + Figures.short(speed.ratio),
      ])
    }
    if let judged = measurements?.judged {
      lines += Self.lines(judged)
    }
    var parts: [HTML] = [.table(["", "teacher", "graft", "change"], lines, numeric: [1, 2, 3])]
    if let measurements, let judged = measurements.judged {
      parts.append(
        note(
          "Judged on \(judged.graft.samples) images of each model, \(measurements.settings.steps) sampler"
            + " steps, guidance \(Figures.short(Double(measurements.settings.guidance))). Measures in"
            + " the features of a small classifier, not comparable to Inception's; two fresh sets of"
            + " real images are \(Figures.short(judged.graft.frechetFloor)) apart."))
    }
    if let speed = measurements?.speed {
      parts.append(
        note(
          "Time: medians of \(speed.pairs) passes in turns on \(speed.threads) threads; the change is"
            + " the median of their ratios."))
    }
    if let reason = reason(measurements?.judgedNote, lacks: measurements?.judged == nil) {
      parts.append(note("No agreement and no Fréchet distance: \(reason)."))
    }
    return parts
  }

  private static func lines(_ judged: JudgedPair) -> [[String]] {
    func line(_ name: String, _ value: (Evaluation) -> Double, _ text: (Double) -> String)
      -> [String]
    {
      let (before, after) = (value(judged.teacher), value(judged.graft))
      return [name, text(before), text(after), String(format: "%+.4g", after - before)]
    }
    func share(_ name: String, _ value: (Evaluation) -> Double) -> [String] {
      let (before, after) = (value(judged.teacher), value(judged.graft))
      let points = String(format: "%+.1f points", (after - before) * 100)
      return [name, Figures.percent(before), Figures.percent(after), points]
    }
    return [
      share("agreement", \.agreement), line("Fréchet distance", \.frechetDistance, Figures.short),
      share("precision", \.precision), share("recall", \.recall),
      line("score", \.judgeScore, Figures.short),
    ]
  }

  /// Reason for a missing part.
  private func reason(_ note: String?, lacks: Bool) -> String? {
    guard lacks else { return nil }
    if measurements == nil, (try? facts.run.trainedWeights()) == nil {
      return "the run has no checkpoint yet"
    }
    return note ?? "they have not been measured"
  }

  private var losses: [HTML] {
    let history = facts.history
    let total = facts.summary.total
    let mean = LossChart(
      title: "Losses of \(facts.request.name) by step",
      series: [
        .init(style: "train", points: history.meanLoss),
        .init(style: "held", points: history.meanHeldOut, isMarked: true),
      ], total: total)
    guard let picture = mean.html else { return [note("No step was logged yet.")] }
    var parts: [HTML] = [picture, legend]
    if mean.hidden > 0 {
      parts.append(note("Not drawn: \(mean.hidden) not finite or not positive."))
    }
    let sites = Set(history.losses.keys).union(history.heldOut.keys).sorted()
    guard sites.count > 1 else { return parts }
    let charts = sites.compactMap { site -> HTML? in
      let chart = LossChart(
        title: "Losses of \(site.phrase)",
        series: [
          .init(style: "train", points: history.losses[site] ?? StepSeries()),
          .init(style: "held", points: history.heldOut[site] ?? StepSeries(), isMarked: true),
        ], total: total, width: 300, height: 130)
      guard let picture = chart.html else { return nil }
      let change = history.heldOut[site].flatMap(LossChange.init).map {
        ", held-out \(Figures.short($0.first.value)) → \(Figures.short($0.last.value))"
      }
      return .tag(
        "figure", [:], [picture, .tag("figcaption", [:], "\(site)\(change ?? "")")])
    }
    return parts + [.tag("h3", [:], "Losses by site"), .tag("div", ["class": "sites"], charts)]
  }

  private var legend: HTML {
    var text: [HTML] = [
      .tag("span", ["class": "train-text"], "── train"), .text("   "),
      .tag("span", ["class": "held-text"], "– ● – held-out"),
    ]
    if let change = facts.summary.meanHeldOut {
      text.append(
        .text("   \(Figures.short(change.first.value)) → \(Figures.short(change.last.value))"))
    }
    return .tag("p", ["class": "legend"], text)
  }

  private func images() throws -> [HTML] {
    var parts: [HTML] = []
    for grid in measurements?.grids ?? [] {
      let path = facts.run.resolve(grid.path)
      let picture = try RGBImage.read(path: path)
      let bytes = Data(try AtomicFile.read(path, limit: 256 << 20))
      let caption =
        switch grid.role {
        case .teacher: "teacher"
        case .before: facts.stage == 1 ? "fresh graft, before stage 1" : "graft, before stage 2"
        case .after: "graft, after stage \(facts.stage)"
        case .difference: "difference of teacher and graft"
        }
      parts.append(
        .tag(
          "figure", [:],
          [
            .void(
              "img",
              [
                "src": "data:image/png;base64,\(bytes.base64EncodedString())", "alt": caption,
                "width": "\(picture.width * (picture.width < 400 ? 2 : 1))",
              ]), .tag("figcaption", [:], caption),
          ]))
    }
    if let labels = measurements?.gridLabels, !parts.isEmpty {
      parts.append(
        note(
          "Classes, line by line: \(labels.joined(separator: ", ")); all from the same noise,"
            + " \(measurements?.settings.steps ?? 0) sampler steps."))
    }
    let gridNote = parts.isEmpty ? nil : measurements?.gridsNote.map { "Left out: \($0)." }
    if let gridNote { parts.append(note(gridNote)) }
    if let reason = reason(measurements?.gridsNote, lacks: measurements?.grids == nil) {
      parts.append(note("No images: \(reason)."))
    }
    return parts
  }

  private var settings: HTML {
    let plan = facts.plan
    let members = facts.stage == 1 ? plan.stage1.members : plan.stage2.members
    var lines = members.map { [$0.0, $0.1] }
    lines.append(["data", plan.data?.path ?? "procedural images"])
    return .table(["setting", "value"], lines)
  }

  private var messages: [HTML] {
    var lines = facts.history.messages
    if let end = facts.summary.end { lines.append(end.text) }
    if facts.summary.state == .lost { lines.append("The worker ended without a final event.") }
    if !facts.skipped.isEmpty {
      lines.append("Left out: \(facts.skipped.prefix(20).joined(separator: "; "))")
    }
    guard !lines.isEmpty else { return [] }
    return [
      .tag("h3", [:], "Messages"), .tag("ul", [:], lines.map { .tag("li", [:], $0) }),
    ]
  }

  private func note(_ text: String) -> HTML { .tag("p", ["class": "note"], text) }
}
