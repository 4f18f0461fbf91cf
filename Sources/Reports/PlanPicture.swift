import Plans

/// Diagram of a plan as a grid of blocks: replaced operators are coloured and labelled, parallel
/// pairs framed.
struct PlanPicture {
  let plan: GraftPlan

  var html: HTML {
    var blocks: [HTML] = []
    var index = 0
    while index < plan.model.shape.depth {
      if let merge = plan.parallel[BlockPair(first: index)] {
        blocks.append(
          .tag(
            "div", ["class": "pair"],
            [
              .tag("div", ["class": "blocks"], [block(index), block(index + 1)]),
              .tag("div", ["class": "merge"], "∥ \(merge.rawValue)"),
            ]))
        index += 2
      } else {
        blocks.append(block(index))
        index += 1
      }
    }
    return .tag("div", [:], [.tag("div", ["class": "plan"], blocks), legend])
  }

  private func block(_ index: Int) -> HTML {
    .tag(
      "div", ["class": "block"],
      [.tag("div", ["class": "index"], "\(index)")]
        + Slot.allCases.map { cell(SlotID(block: index, slot: $0)) })
  }

  private func cell(_ id: SlotID) -> HTML {
    let spec = plan.spec(id)
    guard plan.edits[id] != nil else {
      return .tag("div", ["class": "cell", "title": "\(id): the teacher's own"], "·")
    }
    let label = OperatorCatalog.label(spec)
    return .tag(
      "div",
      ["class": "cell edited", "style": Self.style(of: spec.name), "title": "\(id): \(label)"],
      label)
  }

  /// Legend of the colours and of the slots.
  private var legend: HTML {
    let names = Set(plan.edits.values.map(\.name))
    let entries = OperatorCatalog.all.filter { names.contains($0.name) }.flatMap { descriptor in
      [
        HTML.tag(
          "span", ["class": "swatch edited", "style": Self.style(of: descriptor.name)], " "),
        HTML.text(" \(descriptor.title)   "),
      ]
    }
    return .tag(
      "p", ["class": "legend"],
      entries + [
        .text("Upper line of a block: attention, lower line: MLP; · is the teacher's own.")
      ])
  }

  /// Hue of an operator, distinct from its neighbours in the catalog.
  private static func style(of name: String) -> String {
    let index = OperatorCatalog.all.firstIndex { $0.name == name } ?? 0
    return "--hue:\((index * 137 + 30) % 360)"
  }
}
