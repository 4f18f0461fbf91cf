import Plans
import TerminalUI

extension AppState {
  /// Does what the mouse asks for: a turn of the wheel is a key of the table, a click is what lies under it.
  mutating func point(_ event: MouseEvent) -> [Effect] {
    if case .plot = overlay { return pointAtPlot(event) }
    if case .search = overlay { return pointAtSearch(event) }
    switch event.kind {
    case .wheel(.up): return turn(.wheelUp)
    case .wheel(.down): return turn(.wheelDown)
    case .press(.left):
      heldBorder = overlay == nil ? layout.border(column: event.column, row: event.row) : nil
      return heldBorder == nil ? click(event) : []
    case .drag(.left):
      if let heldBorder {
        move(heldBorder, to: event)
        return []
      }
      if let start = dragStart, case .place(let block, let kind) = target(event) {
        anchor = start
        cursor = Self.slot(block, kind)
      }
    case .release: (dragStart, heldBorder) = (nil, nil)
    default: break
    }
    return []
  }

  /// Moves a border to the mouse, as far as both sides have room; what is kept is where it came to.
  private mutating func move(_ border: Layout.Border, to event: MouseEvent) {
    switch border {
    case .middle:
      panes.left = event.column
      panes.left = layout.grid.columns
    case .images:
      panes.images = layout.images.bottom - event.row - 1
      panes.images = layout.images.rows - 1
    }
  }

  private mutating func turn(_ key: Key) -> [Effect] {
    KeyBinding.match([key], in: keyContext, of: configuration.keys.bindings) == .none
      ? [] : press(key)
  }

  func target(_ event: MouseEvent) -> MouseTarget.Meaning? {
    ExplorerView.frame(self).target(column: event.column, row: event.row)
  }

  static func slot(_ block: Int, _ kind: Int) -> SlotID {
    SlotID(block: block, slot: kind == 0 ? .attention : .mlp)
  }

  /// Chooses the slot under the mouse for a lock; a second click locks it.
  mutating func clickInSearch(_ event: MouseEvent) -> [Effect] {
    switch target(event) {
    case .key(let key): return press(key)
    case .place(let block, let kind):
      let slot = Self.slot(block, kind)
      if slot == cursor { return perform(.lock, argument: nil, count: nil) }
      notice = nil
      cursor = slot
    case .item, .nothing, nil: break
    }
    return []
  }

  private mutating func click(_ event: MouseEvent) -> [Effect] {
    dragStart = nil
    switch target(event) {
    case .key(let key): return press(key)
    case .place(let block, let kind):
      let slot = Self.slot(block, kind)
      // A second click is what Enter does.
      if slot == cursor, anchor == nil { return perform(.pick, argument: nil, count: nil) }
      notice = nil
      (cursor, dragStart, anchor) = (slot, slot, nil)
    case .item(let index): return choose(index)
    case .nothing, nil: break
    }
    return []
  }

  /// Highlights an item of the list that has the keyboard, or accepts the one that is highlighted.
  private mutating func choose(_ index: Int) -> [Effect] {
    switch overlay {
    case .picker(var picker):
      if picker.index == index { return perform(.accept, argument: nil, count: nil) }
      picker.index = index
      replaceTop(.picker(picker))
    case .form(var form):
      form.index = index
      form.isFresh = true
      replaceTop(.form(form))
    case .runs(var pane):
      let listed = listed(in: pane)
      guard listed.indices.contains(index) else { return [] }
      let id = listed[index].id
      if pane.selection == id { return perform(.accept, argument: nil, count: nil) }
      pane.selection = id
      replaceTop(.runs(pane))
    case .overlayList(var list):
      let known = overlayRuns
      guard known.indices.contains(index) else { return [] }
      if list.selection == known[index].id { return perform(.mark, argument: nil, count: nil) }
      list.selection = known[index].id
      replaceTop(.overlayList(list))
    case .settings(let current):
      if current == index { return perform(.accept, argument: nil, count: nil) }
      replaceTop(.settings(index: index))
    default: break
    }
    return []
  }
}
