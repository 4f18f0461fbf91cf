import Foundation
import Plans
import TerminalUI

/// A terminal as the explorer needs it; tests put a script in its place.
package protocol TerminalDriver: AnyObject {
  /// The size in cells.
  var size: Size { get }
  /// The next thing that happened, or `.tick` when nothing did in the given time.
  func nextEvent(timeoutMilliseconds: Int) -> TerminalEvent
  /// Shows a frame.
  func render(_ frame: Frame)
  /// Clears the screen and paints the last frame completely.
  func repaint()
  /// Gives the terminal back to the shell until the program is continued.
  func suspend()
  /// Asks the terminal anew what it can do.
  func probe()
  /// Uses the terminal in another way from now on.
  func wish(_ wishes: Terminal.Wishes)
  /// Calls for attention.
  func announce(_ announcement: Announcement)
  /// Puts a text into the clipboard.
  func copy(_ text: String)
}

/// The outside world as the explorer needs it; nothing here may keep the caller waiting.
package protocol EffectPerformer: AnyObject {
  /// Starts a piece of work.
  func perform(_ effect: Effect)
  /// Hands over what has come of earlier work and what changed on disk.
  func takeActions() -> [Action]
  /// Finishes what was asked for; called once, when the explorer leaves.
  func close()
}

extension Terminal: TerminalDriver {}

/// The loop between a terminal and the outside world: keys in, frames out.
package final class ExplorerSession {
  /// What the explorer knows now.
  package private(set) var state: AppState
  private let terminal: any TerminalDriver
  private let performer: any EffectPerformer
  private let clock: () -> Double
  private var isDirty = true
  /// What was kept last for the case of a kill, and for the next start.
  private var kept: (document: PlanDocument?, showing: Opening?, layout: KeptLayout)

  /// Milliseconds between looks at the outside world while no key is pressed.
  private static let pollInterval = 50

  /// Makes a session that has not drawn anything yet.
  package init(
    state: AppState, terminal: any TerminalDriver, performer: any EffectPerformer,
    clock: @escaping () -> Double = { Date().timeIntervalSince1970 }
  ) {
    self.state = state
    kept = (nil, nil, KeptLayout(state))
    self.terminal = terminal
    self.performer = performer
    self.clock = clock
  }

  /// Runs until the person leaves, the program is asked to end, or the terminal is gone.
  ///
  /// - Parameter effects: What to do first, before any key: see `AppState.firstEffects()`.
  package func run(_ effects: [Effect]) {
    defer { performer.close() }
    keep()
    perform(effects)
    while !state.isFinished {
      draw()
      guard handle(terminal.nextEvent(timeoutMilliseconds: Self.pollInterval)) else { return }
      // Keys that are waiting already are handled before the next frame is drawn.
      var waiting = 0
      while !state.isFinished && waiting < 64 {
        let event = terminal.nextEvent(timeoutMilliseconds: 0)
        if event == .tick { break }
        guard handle(event) else { return }
        waiting += 1
      }
      collect()
    }
  }

  private func draw() {
    guard isDirty else { return }
    isDirty = false
    terminal.render(ExplorerView.frame(state))
  }

  /// Handles one event and says whether to go on.
  private func handle(_ event: TerminalEvent) -> Bool {
    switch event {
    case .key(let key): apply(.keyPressed(key))
    case .mouse(let event): apply(.pointed(event))
    case .paste(let text): apply(.textPasted(text))
    case .found(let capabilities): apply(.terminalFound(capabilities))
    case .resize(let size): apply(.resized(size))
    case .signal(SIGINT): apply(.interrupted)
    case .signal, .hangup: return false
    case .tick: break
    }
    return true
  }

  /// Takes in the clock, once a second, and what the outside world has to say.
  private func collect() {
    let now = clock()
    if abs(now - state.now) >= 1 { apply(.ticked(now)) }
    for action in performer.takeActions() { apply(action) }
  }

  private func apply(_ action: Action) {
    let effects = update(&state, action)
    // Edits are kept before a file that held them is removed.
    keep()
    perform(effects)
    isDirty = true
  }

  /// Keeps unsaved edits, and what is shown, when they have changed.
  private func keep() {
    let document = state.forgetsUnsaved ? nil : state.document
    if document != kept.document {
      let wasUnsaved = kept.document?.isModified ?? false
      kept.document = document
      let unsaved = state.forgetsUnsaved ? nil : state.unsaved
      if unsaved != nil || wasUnsaved { performer.perform(.keepUnsaved(unsaved)) }
    }
    if state.showing != kept.showing, state.showing.plan != nil || state.showing.run != nil {
      kept.showing = state.showing
      performer.perform(.keepSession(state.showing))
    }
    let layout = KeptLayout(state)
    if layout != kept.layout {
      kept.layout = layout
      performer.perform(.keepLayout(layout))
    }
  }

  private func perform(_ effects: [Effect]) {
    for effect in effects {
      switch effect {
      case .redraw: terminal.repaint()
      case .suspend: terminal.suspend()
      case .probe: terminal.probe()
      case .wish(let wishes): terminal.wish(wishes)
      case .announce(let announcement): terminal.announce(announcement)
      case .copy(let text): terminal.copy(text)
      default: performer.perform(effect)
      }
    }
  }
}
