import Plans

extension AppState {
  /// Changes the plan, or opens the list or form that will.
  mutating func edit(_ command: Command, argument: String?, count: Int?) -> [Effect] {
    switch command {
    case .pick:
      if let argument { return pickNamed(argument) }
      openPicker()
    case .configure:
      guard let spec = plan.edits[cursor] else { return [] }
      openConfiguration(of: spec, for: targetsOfKind(cursor.slot))
    case .apply:
      guard let argument else {
        overlays.append(.prompt(Prompt(purpose: .apply(source: cursor))))
        return []
      }
      applyPattern(argument, source: cursor)
    case .again:
      if let spec = lastOperators[cursor.slot] { put(spec, in: targetsOfKind(cursor.slot)) }
    case .clear: put(nil, in: targets)
    case .join: join(argument)
    case .undo: travel(count ?? 1) { $0.undo() }
    case .redo: travel(count ?? 1) { $0.redo() }
    default: break
    }
    return []
  }

  /// The selected slots of one kind.
  func targetsOfKind(_ slot: Slot) -> [SlotID] { targets.filter { $0.slot == slot } }

  /// Puts an operator into slots, or the teacher's own when `spec` is nil, as one undoable step.
  ///
  /// - Parameters:
  ///   - spec: The operator.
  ///   - slots: The slots.
  ///   - next: The plan afterwards, if it changes in other ways too.
  mutating func put(_ spec: OperatorSpec?, in slots: [SlotID], as next: GraftPlan? = nil) {
    let title = Self.title(spec, slots)
    let changed = document.edit(title) { plan in
      if let next { plan = next }
      for slot in slots { plan.edits[slot] = spec }
    }
    if let spec, let slot = slots.first?.slot { lastOperators[slot] = spec }
    notice = .note(changed ? title : "nothing changed: the slots hold that already")
    dropSelection()
  }

  private static func title(_ spec: OperatorSpec?, _ slots: [SlotID]) -> String {
    let kinds = Set(slots.map(\.slot))
    let place =
      slots.count == 1
      ? slots[0].description
      : Format.count(slots.count, kinds.count == 1 ? slots[0].slot.slotName : "slot")
    guard let spec else { return "the teacher's own operator in \(place)" }
    return "\(OperatorCatalog.label(spec)) in \(place)"
  }

  private mutating func travel(
    _ times: Int, _ step: (inout PlanDocument) -> PlanDocument.Change?
  ) {
    var titles: [String] = []
    let isUndo = !document.done.isEmpty
    let before = document.done.count
    for _ in 0..<times {
      guard let change = step(&document) else { break }
      titles.append(change.title)
    }
    guard let title = titles.last else { return }
    let verb = isUndo && document.done.count < before ? "undone" : "done again"
    notice = .note(titles.count == 1 ? "\(verb): \(title)" : "\(verb): \(titles.count) steps")
  }

  private mutating func openPicker() {
    let slot = cursor.slot
    let all = targets
    // A selection that lies in the other column alone is what the person meant.
    let kind = all.contains { $0.slot == slot } ? slot : (all.first?.slot ?? slot)
    let fitting = all.filter { $0.slot == kind }
    let current = fitting.first.flatMap { plan.edits[$0] }
    let replacements = OperatorCatalog.fitting(kind).map { descriptor in
      Picker.Entry.replacement(
        current?.name == descriptor.name
          ? current ?? descriptor.defaultSpec : suggestedSpec(descriptor, for: fitting))
    }
    let entries = [Picker.Entry.original] + sorted(replacements, of: kind, in: fitting)
    let index =
      current.flatMap { spec in
        entries.firstIndex(of: .replacement(spec))
          ?? entries.firstIndex { entry in
            if case .replacement(let other) = entry { other.name == spec.name } else { false }
          }
      } ?? 0
    overlays.append(
      .picker(
        Picker(
          slot: kind, targets: fitting, skipped: all.count - fitting.count, entries: entries,
          index: index)))
  }

  /// Replacements and what else the library has for the slots, those of known cost first, the cheapest of them before
  /// the others.
  private func sorted(
    _ replacements: [Picker.Entry], of kind: Slot, in slots: [SlotID]
  ) -> [Picker.Entry] {
    guard let costs = library.costs, !costs.candidates.isEmpty else { return replacements }
    let offered = replacements.compactMap { entry -> OperatorSpec? in
      if case .replacement(let spec) = entry { spec.normalized(for: model.shape) } else { nil }
    }
    let others = costs.operators(of: kind).filter { !offered.contains($0) }
    let all = replacements + others.map { .replacement($0) }
    let known = all.map { entry -> (loss: Double, seconds: Double)? in
      if case .replacement(let spec) = entry { cost(of: spec, in: slots) } else { nil }
    }
    func rank(_ index: Int) -> (Int, Double, Int) {
      guard let cost = known[index] else { return (2, 0, index) }
      return cost.seconds > 0 ? (0, cost.loss / cost.seconds, index) : (1, cost.loss, index)
    }
    return all.indices.sorted { rank($0) < rank($1) }.map { all[$0] }
  }

  /// Acts in the list of operators.
  mutating func performInPicker(_ command: Command) -> [Effect] {
    guard case .picker(let picker) = overlay else { return [] }
    switch command {
    case .accept:
      switch picker.entry {
      case .original:
        overlays.removeLast()
        put(nil, in: picker.targets)
      case .replacement(let spec):
        if OperatorCatalog.descriptor(named: spec.name)?.openFields.isEmpty ?? true {
          overlays.removeLast()
          put(spec, in: picker.targets)
        } else {
          openConfiguration(of: spec, for: picker.targets)
        }
      }
    case .escape: overlays.removeLast()
    default: break
    }
    return []
  }

  private mutating func openConfiguration(of spec: OperatorSpec, for slots: [SlotID]) {
    guard let descriptor = OperatorCatalog.descriptor(named: spec.name) else { return }
    var form = Form.configuration(descriptor, spec: spec, targets: slots, of: plan)
    if form.fields.isEmpty { (form.fields, form.more) = (form.more, []) }
    overlays.append(.form(form))
  }

  /// Applies the source slot's operator to the blocks that a pattern names.
  mutating func applyPattern(_ text: String, source: SlotID) {
    do {
      put(plan.edits[source], in: try slots(selectedBy: text, for: source.slot))
    } catch {
      notice = .warning("\(error)")
    }
  }

  /// `pick hyena_x short_filter_order=4`, as the command line has it.
  private mutating func pickNamed(_ argument: String) -> [Effect] {
    var words = argument.split(separator: " ").map(String.init)
    let name = words.removeFirst()
    guard let descriptor = OperatorCatalog.descriptor(named: name) else {
      let names = OperatorCatalog.all.map(\.name).joined(separator: ", ")
      notice = .warning("there is no operator named \(name); there are \(names)")
      return []
    }
    // Of an operator for both kinds the cursor's kind is meant.
    let kinds = [cursor.slot] + Slot.allCases
    guard let kind = kinds.first(where: descriptor.slots.contains) else { return [] }
    let slots = targetsOfKind(kind)
    guard !slots.isEmpty else {
      notice = .warning("\(name) is for the \(kind.title) slot; move there or mark one first")
      return []
    }
    var spec = descriptor.defaultSpec
    for word in words {
      let parts = word.split(separator: "=", maxSplits: 1)
      guard parts.count == 2, let field = descriptor.fields.first(where: { $0.key == parts[0] }),
        let value = field.value(of: parts[1]),
        refusal(of: value, in: field.bounds, isWhole: field.isWholeNumber) == nil
      else {
        notice = .warning("\(name) cannot take \(word); e shows its fields and their ranges")
        return []
      }
      spec.config[field.key] = value
    }
    if let refusal = descriptor.refusal(of: spec, shape: model.shape) {
      notice = .warning("\(name): \(refusal.message)")
      return []
    }
    put(spec, in: slots)
    return []
  }
}
